"""Certificates for the client's tests."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme
import uvloop


class Certificates:
    """An authority that nobody else knows."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))

    def server(
        self, certificate: trustme.LeafCert | None = None, *, want_client: bool = False
    ) -> ssl.SSLContext:
        """A server's context; for loopback, unless another certificate is given."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        (certificate or self.authority.issue_cert("127.0.0.1", "localhost")).configure_cert(context)
        if want_client:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The daemon's event loop, whose errors and timers differ in details from asyncio's."""
    return uvloop.EventLoopPolicy()
