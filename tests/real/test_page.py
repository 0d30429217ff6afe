"""The page for people, in a real browser, before a real daemon that has pulled this and that."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.neighbours.honest import honest, serve
from tests.real.conftest import Scratch
from tests.registry.helpers import write_hosts
from tests.support.chromium import Tab, chromium
from tests.support.daemon import Daemon, free_port
from tests.support.images import image, layer, sha256
from tests.support.registry import BLOB, FaultRegistry, stall

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        "PAGE" not in os.environ,
        reason="run by `make page-check`: CI installs no browser, so REQUIRE_REAL has no say",
    ),
]

MIB = 1 << 20
SHOP, GONE = "registry.example/shop/web:1", "registry.example/shop/gone:1"
MODEL = "registry.example/data/model:1"
EVIL = "<img src=x onerror=document.title='owned'>\u202egnp.\n\nevent: busy"
EVIL_POD = "</script><script>document.title='owned'</script>"
FITS = "document.documentElement.scrollWidth <= innerWidth"
PICTURES = (("light", 1200, "light"), ("dark", 1200, "dark"), ("narrow", 420, "light"))
MADE = "document.querySelectorAll('img, main script').length"


def ask(daemon: Daemon, reference: str, pod: str) -> None:
    """A pull for a pod, however it ends."""
    request = api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image=reference))
    request.sandbox_config.metadata.namespace = "shop"
    request.sandbox_config.metadata.name = pod
    with daemon.channel() as channel, suppress(grpc.RpcError):
        api_pb2_grpc.ImageServiceStub(channel).PullImage(request, timeout=120)


@asynccontextmanager
async def busy_daemon(scratch: Scratch) -> AsyncIterator[Daemon]:
    """A daemon that has pulled an image twice, failed at another, and was checked. One pull goes
    on: of a layer of 2 MiB half has come, and no more does. A mirror is down."""
    model = layer(random.Random("model").randbytes(2 * MIB), "none")
    hosts = scratch("hosts")
    async with FaultRegistry() as registry:
        serve(registry, "shop/web", honest())
        serve(registry, "data/model", image(model))
        registry.faults.append(stall(MIB, where=BLOB, reference=sha256(model.blob)))
        mirror = f"http://localhost:{free_port()}"
        text = f'server = "{registry.url}"\n[host."{mirror}"]\n'
        write_hosts(hosts, "registry.example", text)
        options = f'stats_collect_period = 1\n[image.registry]\nconfig_path = "{hosts}"'
        with Daemon(
            scratch("page"),
            snapshotter="native",
            image_options=options,
            metrics_options="page = true",
        ) as daemon:
            for reference, pod in ((SHOP, "web-0"), (SHOP, "web-1"), (GONE, "web-2")):
                await asyncio.to_thread(ask, daemon, reference, pod)
            await asyncio.to_thread(daemon.cli, "check")
            running = asyncio.create_task(asyncio.to_thread(ask, daemon, MODEL, "model-0"))
            yield daemon
        await running


def keep(name: str, picture: bytes) -> None:
    """For people to look at."""
    folder = Path(os.environ["PAGE"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(picture)


async def text(tab: Tab, place: str) -> str:
    """What people read in a part of the page."""
    found: str = await tab.value(f"document.querySelector({place!r}).innerText")
    return found


async def test_what_the_page_shows(scratch: Scratch) -> None:
    async with chromium(scratch("browser")) as tab, busy_daemon(scratch) as daemon:
        await tab.open(f"http://127.0.0.1:{daemon.metrics_port}/")
        await tab.until("document.querySelector('#running')?.innerText.includes('1.0 MiB of')")
        await tab.until("document.querySelector('#store').innerText.includes('Blobs')")
        assert (await tab.value("document.title")).startswith("(1) ")
        running, past = await text(tab, "#running"), await text(tab, "#past")
        assert all(each in running for each in (MODEL, "shop/model-0", "fetching", "2.0 MiB"))
        assert past.count(SHOP) == 2
        assert all(each in past for each in ("shop/web-1", "success", GONE, "not found"))
        assert "localhost:" in await text(tab, "#hosts")
        store = await text(tab, "#store")
        assert all(each in store for each in ("Images", "native", "good"))

        await tab.value("document.querySelector('#past tr:last-child .timeline summary').click()")
        for name, width, scheme in PICTURES:
            keep(name, await tab.screenshot(width, scheme))
            assert await tab.value(FITS)
        assert tab.complaints == []


async def test_a_hostile_name_is_text(scratch: Scratch) -> None:
    async with chromium(scratch("browser")) as tab:
        with Daemon(scratch("page"), snapshotter="native", metrics_options="page = true") as daemon:
            await tab.open(f"http://127.0.0.1:{daemon.metrics_port}/")
            await tab.until("document.body?.className == ''")
            ask(daemon, EVIL, EVIL_POD)
            await tab.until("document.querySelector('#past td')")
            shown = await tab.value("document.querySelector('#past td div').textContent")
            assert shown == EVIL.replace("\u202e", "\\u{202e}")
            assert EVIL_POD in await text(tab, "#past")
            assert await tab.value(MADE) == 0
            assert not (await tab.value("document.title")).startswith("owned")
            assert tab.complaints == []


async def test_what_is_open_stays_open_and_focused(scratch: Scratch) -> None:
    async with chromium(scratch("browser")) as tab, busy_daemon(scratch) as daemon:
        await tab.open(f"http://127.0.0.1:{daemon.metrics_port}/")
        await tab.until("document.querySelector('#running summary')")
        await tab.value(
            "window.first = document.querySelector('#running summary');first.focus(); first.click()"
        )
        await tab.until("document.querySelector('#running summary') != window.first")
        shown = "document.querySelector('#running details')"
        assert await tab.value(f"{shown}.open && {shown}.contains(document.activeElement)")
        assert tab.complaints == []
        daemon.stop()
        await tab.until("document.body.className == 'stale'")
        assert "no connection" in await text(tab, "#state")


async def test_a_script_that_is_not_the_pages_own_does_not_run(scratch: Scratch) -> None:
    """And what the browser has against it is heard here."""
    async with chromium(scratch("browser")) as tab:
        with Daemon(scratch("page"), snapshotter="native", metrics_options="page = true") as daemon:
            await tab.open(f"http://127.0.0.1:{daemon.metrics_port}/")
            await tab.until("document.body?.className == ''")
            await tab.value(
                "const script = document.createElement('script');"
                "script.textContent = 'window.owned = true'; document.body.append(script)"
            )
            assert await tab.value("window.owned") is None
            [complaint] = tab.complaints
            assert "Content Security Policy" in complaint
