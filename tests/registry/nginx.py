"""nginx on a free loopback port, as a mirror that does what its configuration says."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support.process import Process, wait_until
from tests.support.require import require_real

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass
class Nginx:
    """One running nginx. Use as a context manager."""

    directory: Path
    locations: str
    """The content of its one `server` block."""
    settings: str = ""
    """More of its `http` block."""
    port: int = field(init=False)
    process: Process = field(init=False)

    def __enter__(self) -> Self:
        require_real(shutil.which("nginx") is not None, "nginx is not installed")
        self.directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        file = self.directory / "nginx.conf"
        file.write_text(self._configuration())
        log = self.directory / "error.log"
        command = ["nginx", "-p", str(self.directory), "-c", str(file), "-e", str(log)]
        self.process = Process(command, log)
        self.process.start()
        wait_until(self._listening, "nginx listens", self.process)
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _configuration(self) -> str:
        paths = "".join(f"{kind}_temp_path {self.directory}/{kind};" for kind in _TEMPORARY)
        return (
            f"user root; worker_processes 1; daemon off; pid {self.directory}/pid;"
            f"error_log {self.directory}/error.log; events {{ worker_connections 64; }}"
            f"http {{ access_log off; {paths} {self.settings}"
            f"server {{ listen 127.0.0.1:{self.port}; {self.locations} }} }}"
        )

    def _listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
