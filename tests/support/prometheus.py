"""Debian's Prometheus, scraping one target, and promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.daemon import free_port
from tests.support.process import Process, wait_until
from tests.support.require import require_real


@dataclass
class Prometheus:
    """A server that scrapes what `scrape_config` (the YAML of a whole file) says."""

    directory: Path
    scrape_config: str
    port: int = field(default_factory=free_port)
    _process: Process = field(init=False)

    def __enter__(self) -> Self:
        require_real(shutil.which("prometheus") is not None, "prometheus is not installed")
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "prometheus.yml"
        configuration.write_text(self.scrape_config)
        self._process = Process(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            self.directory / "prometheus.log",
        )
        self._process.start()
        wait_until(self._ready, "prometheus is ready", self._process)
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's vector, as soon as it is not empty."""
        return wait_until(lambda: self._query(expression), f"series for {expression}")

    def _query(self, expression: str) -> list[dict[str, Any]]:
        answer = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert answer is not None, "prometheus went away"
        result: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
        return result

    def _ready(self) -> bool:
        return self._get("/-/ready") is not None

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as http:
                body: bytes = http.read()
                return body
        except OSError:
            return None


def check_metrics(page: str) -> list[str]:
    """What `promtool check metrics` finds, line by line."""
    require_real(shutil.which("promtool") is not None, "promtool is not installed")
    run = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    return (run.stdout + run.stderr).splitlines()
