"""A registry that serves one image to read: the pull side of the OCI distribution spec."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from sample import Sample

_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<what>[^/]+)")


@contextmanager
def serve(sample: Sample, name: str, tag: str) -> Iterator[str]:
    """Serve `sample` as `name`:`tag` on a free loopback port; yields the full reference."""

    class Handler(_Handler):
        image = sample
        repository = name
        tagged: ClassVar = {tag: sample.index}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"localhost:{server.server_address[1]}/{name}:{tag}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    image: Sample
    repository: str
    tagged: ClassVar[dict[str, str]]

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent; the demo narrates."""

    def do_HEAD(self) -> None:
        """Answer as GET does, without the content."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """Answer with a manifest or a blob."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        found = self._find()
        if self.path == "/v2/":
            self._send(HTTPStatus.OK, "application/json", b"{}", with_body=with_body)
        elif found is None:
            body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}'
            self._send(HTTPStatus.NOT_FOUND, "application/json", body, with_body=with_body)
        else:
            digest, media_type = found
            body = self.image.blobs[digest]
            headers = {"Docker-Content-Digest": digest}
            self._send(HTTPStatus.OK, media_type, body, with_body=with_body, **headers)

    def _find(self) -> tuple[str, str] | None:
        """(digest, media type) of what is asked for."""
        asked = _PATH.fullmatch(self.path)
        if asked is None or asked["name"] != self.repository:
            return None
        if asked["kind"] == "blobs":
            return (asked["what"], "application/octet-stream") if self._has(asked["what"]) else None
        digest = self.tagged.get(asked["what"], asked["what"])
        media_type = self.image.media_types.get(digest)
        return (digest, media_type) if media_type else None

    def _has(self, digest: str) -> bool:
        return digest in self.image.blobs

    def _send(
        self, status: HTTPStatus, media_type: str, body: bytes, *, with_body: bool, **headers: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)
