"""A proxy in front of a registry that holds one blob back, so that tests act in mid-pull."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_CHUNK = 64 * 1024
_FORWARDED = ("Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest", "ETag")


class Gate:
    """Passes everything on, but of the blob `digest` only the first `passes` bytes until opened."""

    def __init__(self, upstream_port: int, digest: str, passes: int) -> None:
        self.digest = digest
        self.passes = passes
        self.reached = threading.Event()
        """Set when the first `passes` bytes of the blob were handed to the client."""
        self.opened = threading.Event()
        self.upstream_port = upstream_port
        self.port = 0

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def reference(self, upstream: str) -> str:
        """The same image, through this gate."""
        return f"{self.host}/{upstream.partition('/')[2]}"


@contextmanager
def gate(upstream_port: int, digest: str, passes: int) -> Iterator[Gate]:
    """Run a gate on a free loopback port."""
    state = Gate(upstream_port, digest, passes)

    class Handler(_Handler):
        gate = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        state.opened.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gate: Gate

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._forward()

    def do_GET(self) -> None:
        self._forward()

    def _forward(self) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.gate.upstream_port)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "accept-encoding"}
            upstream.request(self.command, self.path, headers=headers)
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name in _FORWARDED:
                if (value := answer.getheader(name)) is not None:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self._copy(answer)
        except ConnectionError:
            self.close_connection = True  # the client went away, as some tests make it
        finally:
            upstream.close()

    def _copy(self, answer: http.client.HTTPResponse) -> None:
        held = self.path.endswith(f"/blobs/{self.gate.digest}")
        left = self.gate.passes if held else None
        while chunk := answer.read(_CHUNK if left is None else min(_CHUNK, left)):
            self.wfile.write(chunk)
            if left is not None:
                left -= len(chunk)
        if left == 0:
            self.gate.reached.set()
            self.gate.opened.wait()
            while chunk := answer.read(_CHUNK):
                self.wfile.write(chunk)
