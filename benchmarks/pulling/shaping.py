"""A link that holds each connection to a rate: nginx before the registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import free_port
from tests.support.process import Process, wait_until


@contextmanager
def shaped(folder: Path, registry_port: int, megabytes: int) -> Iterator[str]:
    """Host and port that give what the registry gives, at so many MB/s a connection."""
    folder.mkdir()
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr; user root;\n"
        "events {}\n"
        "http { access_log off; server {\n"
        f"  listen 127.0.0.1:{port};\n"
        "  location / {\n"
        f"    proxy_pass http://127.0.0.1:{registry_port}; proxy_set_header Host $http_host;\n"
        "    proxy_http_version 1.1; proxy_max_temp_file_size 0;\n"
        f"    limit_rate {megabytes * 1_000_000};\n"
        "  }\n} }\n"
    )
    process = Process(["nginx", "-p", str(folder), "-c", str(config)], folder / "nginx.log")
    process.start()
    try:
        wait_until(lambda: (folder / "nginx.pid").exists(), "nginx listens", process)
        yield f"localhost:{port}"
    finally:
        process.stop()
