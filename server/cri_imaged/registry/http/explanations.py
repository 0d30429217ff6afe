"""What failed connections and answers mean, in words of our own: those of libraries hold URLs, and
URLs hold signatures."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from dataclasses import dataclass, replace

from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.http.addresses import ForbiddenAddressError
from cri_imaged.registry.http.errors import EndedError, MalformedError
from cri_imaged.registry.http.socks import SocksError
from cri_imaged.registry.http.tls import explain_verification

_NO_LOGIN = 407


class NoTlsError(HostFailure):
    """The peer does not speak TLS."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """Says why one request got no response."""

    authority: str
    """Host and port that were asked."""
    dial: float
    """Seconds that connecting may take."""
    probing: bool
    """Whether it is the question if the peer speaks TLS: what may say that it does not is a
    `NoTlsError` then."""
    proxy: bool = False
    """Whether it is the proxy that fails."""

    def for_proxy(self) -> Explainer:
        """The same about the proxy in between."""
        return replace(self, proxy=True, probing=False)

    @property
    def _failure(self) -> type[HostFailure]:
        return NoTlsError if self.probing else HostFailure

    def unresolved(self, error: OSError) -> HostFailure:
        """The name was not found, or leads where it must not."""
        if isinstance(error, ForbiddenAddressError):
            return HostFailure(Kind.REFUSED, f"{self.authority} leads to {error.what} address")
        if self.proxy:
            return HostFailure(Kind.UNREACHABLE, f"the proxy cannot be reached: {_reason(error)}")
        return HostFailure(Kind.UNREACHABLE, f"{self.authority} does not resolve: {_reason(error)}")

    def unconnected(self, error: Exception) -> HostFailure:
        """No address could be connected to."""
        if self.proxy:
            return HostFailure(Kind.UNREACHABLE, f"the proxy cannot be reached: {_reason(error)}")
        failure = HostFailure if isinstance(error, ConnectionRefusedError) else self._failure
        if isinstance(error, TimeoutError) and error.errno is None:
            return failure(
                Kind.UNREACHABLE, f"no connection to {self.authority} within {self.dial:g} s"
            )
        return failure(Kind.UNREACHABLE, f"no connection to {self.authority}: {_reason(error)}")

    def undialled(self, error: Exception) -> HostFailure:
        """The connection was made, but a proxy's or TLS's handshake failed."""
        name = "the proxy" if self.proxy else self.authority
        if isinstance(error, ssl.SSLCertVerificationError):
            return HostFailure(Kind.REFUSED, explain_verification(error, name))
        if isinstance(error, TimeoutError):
            return self._failure(
                Kind.UNREACHABLE, f"no connection to {name} within {self.dial:g} s"
            )
        if isinstance(error, MalformedError):
            return self.untunnelled(error)
        return self._failure(
            Kind.UNREACHABLE, f"TLS handshake with {name} failed: {_reason(error)}"
        )

    def untunnelled(self, error: Exception) -> HostFailure:
        """The proxy refused by SOCKS, did not answer whether it connects, or not as proxies do."""
        if isinstance(error, SocksError):
            return HostFailure(Kind.UNREACHABLE, str(error))
        if isinstance(error, MalformedError):
            return HostFailure(Kind.UNREACHABLE, f"the proxy's answer: {error}")
        why = f"the proxy did not connect to {self.authority}: {_reason(error)}"
        return self._failure(Kind.UNREACHABLE, why)

    def proxy_refused(self, status: int, said: str) -> HostFailure:
        """The proxy would not connect. `said`: its own words."""
        line = f"{status} {http.client.responses.get(status, '')}".rstrip()
        why = f"the proxy answered {line}" + (f" ({said})" if said else "")
        if status == _NO_LOGIN:
            return HostFailure(Kind.REFUSED, f"{why}; its login belongs into the proxy's URL")
        return HostFailure(Kind.UNREACHABLE if status >= 500 else Kind.REFUSED, why)

    def unanswered(self, error: Exception, header_timeout: float) -> HostFailure:
        """The connection was made, but no response came within `header_timeout` seconds."""
        if isinstance(error, TimeoutError) and error.errno is None:
            return HostFailure(
                Kind.UNREACHABLE,
                f"no response headers within {header_timeout:g} s "
                "(image.registry.response_header_timeout)",
            )
        if isinstance(error, MalformedError):
            return HostFailure(Kind.UNREACHABLE, f"the response is malformed: {error}")
        return HostFailure(
            Kind.UNREACHABLE, f"connection lost before the response: {_reason(error)}"
        )


def explain_body(error: Exception) -> HostFailure:
    """Why a body broke off."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return HostFailure(Kind.UNREACHABLE, "the body stalled")
    if isinstance(error, MalformedError):
        return HostFailure(Kind.UNREACHABLE, f"the body is malformed: {error}")
    if isinstance(error, EndedError) and error.__cause__ is None:
        return HostFailure(Kind.UNREACHABLE, "the body was cut short")
    return HostFailure(Kind.UNREACHABLE, f"connection lost in the body: {_reason(error)}")


def _reason(error: BaseException) -> str:
    if isinstance(error, EndedError):
        return "closed by the peer" if error.__cause__ is None else _reason(error.__cause__)
    if isinstance(error, ssl.SSLError):
        return (error.reason or "protocol error").lower().replace("_", " ")
    if isinstance(error, socket.gaierror):
        return (error.strerror or "unknown name").lower()
    if isinstance(error, TimeoutError) and error.errno is None:
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return "every address failed" if isinstance(error, OSError) else type(error).__name__
