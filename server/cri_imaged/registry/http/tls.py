"""TLS contexts of registry hosts, and what a failed verification means."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from cri_imaged.errors import ConfigError
from cri_imaged.registry.hosts.host import TlsSettings

_EXPIRED_OR_EARLY = {9: "is not yet valid", 10: "has expired"}
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21, 24})
_WRONG_NAME = frozenset({62, 63, 64})
"""X509_V_ERR_* of OpenSSL."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!AESCCM"
"""Of TLS 1.2: Python's, and AES in CBC mode with SHA-1, which old servers have alone and Go's
clients offer last."""
_Stamp = tuple[tuple[Path, int, int], ...]


class TlsContexts:
    """Builds the context of each TLS setting once, and again when one of its files changes."""

    def __init__(self) -> None:
        self._contexts: dict[TlsSettings, tuple[_Stamp, ssl.SSLContext]] = {}

    def get(self, settings: TlsSettings) -> ssl.SSLContext:
        """The context for `settings`. Reads files.

        Raises:
            ConfigError: a file is missing or holds no certificate or key.
        """
        stamp = _stamp(settings)
        known = self._contexts.get(settings)
        if known is not None and known[0] == stamp:
            return known[1]
        context = _build(settings)
        self._contexts[settings] = stamp, context
        return context


def _files(settings: TlsSettings) -> list[Path]:
    pairs = [path for pair in settings.clients for path in pair if path is not None]
    return [*settings.authorities, *pairs]


def _stamp(settings: TlsSettings) -> _Stamp:
    stamps = []
    for path in _files(settings):
        try:
            status = path.stat()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        stamps.append((path, status.st_mtime_ns, status.st_size))
    return tuple(stamps)


def _build(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # Authorities that other clients of the same registries accept often miss an extension that
    # strict mode asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # Each certificate of `ca` is trusted for itself, an intermediate's or the server's own too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_ciphers(_CIPHERS)
    if settings.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in settings.authorities:
        _trust(context, path)
    for certificate, key in reversed(settings.clients):
        # OpenSSL keeps one pair for each type of key; the first of the file shall win.
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{certificate}: is no client certificate with its key: {error.strerror or error}"
            ) from None
    return context


def _trust(context: ssl.SSLContext, path: Path) -> None:
    """Trust the certificates of a PEM file. Blocks that are none are passed over, as Go does."""
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        blocks = _CERTIFICATE.findall(_text(path))
        if not [block for block in blocks if _is_trusted(context, block)]:
            raise ConfigError(
                f"{path}: holds no PEM certificate of an authority: {error.strerror or error}"
            ) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _is_trusted(context: ssl.SSLContext, certificate: str) -> bool:
    try:
        context.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _no_password() -> str:
    raise ssl.SSLError("the key is encrypted")


def explain_verification(error: ssl.SSLCertVerificationError, name: str) -> str:
    """What is wrong with the certificate that `name` showed, and what to do."""
    if error.verify_code in _EXPIRED_OR_EARLY:
        return f"TLS: the certificate of {name} {_EXPIRED_OR_EARLY[error.verify_code]}"
    if error.verify_code in _WRONG_NAME:
        return f"TLS: the certificate is not valid for the name {name} (wrong name)"
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return (
            f"TLS: the certificate of {name} was signed by an unknown authority; "
            "trust it with `ca` in hosts.toml"
        )
    return f"TLS: the certificate of {name} was refused: {error.verify_message}"
