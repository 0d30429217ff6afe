"""Debian's Chromium without a window, driven by its DevTools protocol: what a page becomes, and
what the browser has to say against it."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.process import DEADLINE, Process, wait_until

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
_UNTIL = """new Promise((done) => {{
  const watcher = new MutationObserver(() => look());
  const look = () => {{ if ({condition}) {{ watcher.disconnect(); done(true); }} }};
  watcher.observe(document, {{ attributes: true, childList: true, characterData: true,
    subtree: true }});
  look();
}})"""


class Tab:
    """One tab. `complaints` are errors of scripts, violations of the page's policy, requests that
    failed, and whatever was written to the console."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._calls = 0

    async def call(self, method: str, **parameters: object) -> Any:
        """One command of the protocol; its result."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        async with asyncio.timeout(DEADLINE):
            while (told := await self._socket.receive_json()).get("id") != self._calls:
                self._hear(told["method"], told["params"])
        assert "error" not in told, told
        return told["result"]

    def _hear(self, event: str, told: dict[str, Any]) -> None:
        match event:
            case "Runtime.exceptionThrown":
                self.complaints.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(told["args"]))
            case "Log.entryAdded":
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    async def open(self, url: str) -> None:
        """Go there, and listen to what the browser says of it."""
        for domain in ("Runtime", "Log", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What an expression (or a promise) of JavaScript gives, as JSON."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression of JavaScript holds; it is tried whenever the page changes."""
        try:
            await self.value(_UNTIL.format(condition=condition))
        except TimeoutError:
            shown = await self.value("document.documentElement.innerText")
            raise AssertionError(f"not within {DEADLINE:.0f} s: {condition}\n{shown}") from None

    async def screenshot(self, width: int, scheme: str) -> bytes:
        """The whole page as PNG, `width` CSS pixels wide, as people see it who prefer `scheme`:
        `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        shape = {"width": width, "height": 1, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **shape)
        shape["height"] = await self.value("document.documentElement.scrollHeight")
        await self.call("Emulation.setDeviceMetricsOverride", **shape)
        shot = await self.call("Page.captureScreenshot")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def chromium(directory: Path) -> AsyncIterator[Tab]:
    """A browser with one empty tab, and with its files in `directory`. Skips where there is
    none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    process = Process(
        [program, *_OPTIONS, f"--user-data-dir={directory}", "about:blank"],
        directory / "chromium.log",
    )
    process.start()
    try:
        port_file = directory / "DevToolsActivePort"
        written = await asyncio.to_thread(
            wait_until,
            lambda: port_file.exists() and port_file.read_text().split(),
            "the browser listens",
            process,
        )
        async with aiohttp.ClientSession(f"http://127.0.0.1:{written[0]}") as client:
            async with client.get("/json/list") as answer:
                tabs = await answer.json()
            [url] = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
            async with client.ws_connect(url, max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        process.stop()
