"""The page for people: what a browser is allowed, to whom it is shown, how many watch."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import stat
import urllib.error
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from cri_imaged.errors import ConfigError
from cri_imaged.images.overview import hosts
from cri_imaged.images.reports import LayerReport, PullReport
from cri_imaged.limits import PAGE_WATCHERS
from cri_imaged.obs.http import MetricsServer
from cri_imaged.obs.page import Page, is_local, policy
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Account
from cri_imaged.unix_sockets import UnixSocket
from tests.support.daemon import Daemon

EVIL = {"reference": "</script><script>alert(1)</script>\n\nevent: now"}


async def forever() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield "past", EVIL
    await asyncio.Event().wait()


class Browser:
    """One connection."""

    def __init__(self, server: MetricsServer) -> None:
        self._server = server

    async def ask(self, path: str, host: str = "localhost:9091") -> bytes:
        """Ask; the answer's head."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return await self.reader.readuntil(b"\r\n\r\n")

    async def event(self) -> tuple[str, Any]:
        name, data = (await self.reader.readuntil(b"\n\n")).decode().strip().split("\n")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_nothing_but_the_pages_own_scripts_runs() -> None:
    page = Page(forever)
    async with MetricsServer(CollectorRegistry(), "127.0.0.1", 0, page=page) as server:
        browser = Browser(server)
        head = (await browser.ask("/")).decode()
        html = (await browser.reader.readexactly(len(page.html))).decode()
    [allowed] = re.findall(r"^Content-Security-Policy: (.*)\r$", head, re.MULTILINE)
    assert allowed == policy(html)
    assert allowed.startswith("default-src 'none'; ")
    assert "unsafe" not in allowed
    [script] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in allowed
    assert "Content-Type: text/html" in head


def test_the_page_brings_nothing_from_elsewhere_and_makes_no_markup() -> None:
    html = Page(forever).html.decode()
    assert not re.search(r"https?:|//\w|\bsrc=|\bhref=|url\(|@import", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", html)
    assert not re.search(r"\son\w+=|\sstyle=", html)


async def test_events_are_one_line_each_whatever_is_in_them() -> None:
    async with MetricsServer(CollectorRegistry(), "127.0.0.1", 0, page=Page(forever)) as server:
        browser = Browser(server)
        head = await browser.ask("/events")
        assert b"text/event-stream" in head
        assert b"Content-Length" not in head
        assert await browser.event() == ("past", EVIL)


@pytest.mark.parametrize("path", ["/", "/events"])
async def test_a_name_that_was_made_to_point_here_is_refused(path: str) -> None:
    async with MetricsServer(CollectorRegistry(), "127.0.0.1", 0, page=Page(forever)) as server:
        for host in ("evil.example", "evil.example:9091", "", "127.0.0.1.evil.example"):
            assert b" 421 " in await Browser(server).ask(path, host)
        for host in ("127.0.0.1:1", "[::1]:9091", "LOCALHOST"):
            assert b" 200 " in await Browser(server).ask(path, host)


async def test_without_the_option_there_is_no_page() -> None:
    async with MetricsServer(CollectorRegistry(), "127.0.0.1", 0) as server:
        for path in ("/", "/events"):
            assert b" 404 " in await Browser(server).ask(path)


async def test_one_too_many_is_told_so_and_a_place_is_free_again() -> None:
    async with MetricsServer(CollectorRegistry(), "127.0.0.1", 0, page=Page(forever)) as server:
        browsers = [Browser(server) for _ in range(PAGE_WATCHERS)]
        for browser in browsers:
            await browser.ask("/events")
            assert (await browser.event())[0] == "past"
        late = Browser(server)
        await late.ask("/events")
        assert await late.event() == ("busy", {"watchers": PAGE_WATCHERS})
        assert await late.reader.read() == b""


async def test_who_leaves_gives_his_place_back() -> None:
    async def ticking() -> AsyncIterator[tuple[str, dict[str, Any]]]:
        while True:
            yield "now", {}
            await asyncio.sleep(0.01)

    page = Page(ticking)
    async with MetricsServer(CollectorRegistry(), "127.0.0.1", 0, page=page) as server:
        for _ in range(3 * PAGE_WATCHERS):
            browser = Browser(server)
            await browser.ask("/events")
            while (await browser.event())[0] == "busy":
                browser = Browser(server)  # the one before has left, and is not missed yet
                await browser.ask("/events")
            browser.writer.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:9091"])
def test_names_of_this_machine(host: str) -> None:
    assert is_local(host)


@given(st.text())
def test_any_other_name_is_not(host: str) -> None:
    assert not is_local(f"{host}.example")


def test_what_registries_did() -> None:
    def report(sent: dict[str, int]) -> PullReport:
        layer = LayerReport(Digest("sha256:" + "a" * 64), 1, "fetched", account=Account(sent))
        return PullReport("a:1", "", 0.0, 1.0, "success", layers=(layer,))

    shown = hosts([report({"a": 1, "b": 2}), report({"a": 4})])
    assert shown == [
        {"host": "a", "bytes": 5, "failed": 0, "outcome": ""},
        {"host": "b", "bytes": 2, "failed": 0, "outcome": ""},
    ]


async def asked_by_socket(path: Path, target: str, host: str = "localhost:9091") -> str:
    """The head of an answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    return head


async def test_on_a_socket_it_is_for_those_who_may_use_the_daemons(tmp_path: Path) -> None:
    """What Prometheus scrapes may be an address that others reach, then."""
    path = tmp_path / "page.sock"
    options = f'page = true\npage_socket = "{path}"'
    daemon = Daemon(tmp_path / "d", snapshotter="native", metrics_options=options)
    await asyncio.to_thread(daemon.start)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
        head = await asked_by_socket(path, "/")
        assert head.startswith("HTTP/1.1 200 ")
        assert "text/html" in head
        assert "text/event-stream" in await asked_by_socket(path, "/events")
        assert "HTTP/1.1 421 " in await asked_by_socket(path, "/", host="evil.example")
        assert daemon.metrics("/livez")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            daemon.metrics("/")
    finally:
        await asyncio.to_thread(daemon.stop)
    assert not path.exists()


async def test_a_socket_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    socket = UnixSocket(tmp_path / "file", "metrics.page_socket", 0o660, 0, 0)
    with pytest.raises(ConfigError, match=r"metrics\.page_socket: .*file exists"):
        await MetricsServer(CollectorRegistry(), socket).__aenter__()
