"""What the HTTP library's errors mean, in words of our own: its texts hold URLs, and URLs hold
signatures."""

from __future__ import annotations

import os
import socket
import ssl

import aiohttp

from cri_imaged.registry.addresses import PrivateAddressError
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.tls import explain_verification


class NoTlsError(HostFailure):
    """The peer does not speak TLS."""


def explain_request(
    error: Exception, authority: str, *, header_timeout: float, dial: float, probing: bool
) -> HostFailure:
    """Why `authority` gave no response: a `NoTlsError` where it may be that it does not speak TLS
    and `probing` says that this is the question. Times in seconds."""
    kind = Kind.UNREACHABLE
    failure = NoTlsError if probing else HostFailure
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return HostFailure(Kind.REFUSED, explain_verification(cause, authority))
        return HostFailure(Kind.REFUSED, f"TLS: the certificate of {authority} was refused")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        if isinstance(error.os_error, PrivateAddressError):
            return HostFailure(Kind.REFUSED, f"{authority} leads to a private address")
        return HostFailure(kind, f"{authority} does not resolve: {_reason(error.os_error)}")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return HostFailure(kind, f"the proxy cannot be reached: {_reason(error.os_error)}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return HostFailure(kind, f"the proxy answered {error.status}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return failure(kind, f"TLS handshake with {authority} failed: {_reason(error.os_error)}")
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return (HostFailure if refused else failure)(
            kind, f"no connection to {authority}: {_reason(error.os_error)}"
        )
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return failure(kind, f"no connection to {authority} within {dial:g} s")
    if isinstance(error, TimeoutError):
        return HostFailure(kind, f"no response headers within {header_timeout:g} s")
    if isinstance(error, (aiohttp.ServerDisconnectedError, OSError)):
        return HostFailure(kind, f"connection lost before the response: {_reason(error)}")
    if isinstance(error, aiohttp.ClientResponseError):
        return HostFailure(kind, "the response is malformed or its headers are too large")
    return HostFailure(kind, f"the request failed ({type(error).__name__})")


def explain_body(error: Exception) -> HostFailure:
    """Why a body broke off."""
    if isinstance(error, TimeoutError):
        return HostFailure(Kind.UNREACHABLE, "the body stalled")
    if isinstance(error, aiohttp.ClientPayloadError):
        return HostFailure(Kind.UNREACHABLE, "the body was cut short")
    return HostFailure(Kind.UNREACHABLE, f"connection lost in the body: {_reason(error)}")


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "protocol error").lower().replace("_", " ")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed by the peer"
    if isinstance(error, socket.gaierror):
        return (error.strerror or "unknown name").lower()
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return "every address failed" if isinstance(error, OSError) else type(error).__name__
