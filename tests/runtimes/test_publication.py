"""The additional image store of podman and the like, where readers, disks or images misbehave."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cri_imaged.errors import InUseError
from cri_imaged.limits import Limits
from cri_imaged.obs.runtime_metrics import RuntimesMetrics
from cri_imaged.oci.digest import Digest
from cri_imaged.process import background
from cri_imaged.runtimes.containers_storage import configs, files, publication
from cri_imaged.runtimes.containers_storage.publication import Publication
from cri_imaged.runtimes.containers_storage.records import Entry, Layer
from cri_imaged.runtimes.containers_storage.store import AdditionalStore
from cri_imaged.runtimes.images import ImageReader
from tests.images.gated import GatedRegistry
from tests.images.test_archives import docker_archive, import_into, tar_of
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support.images import Image

_HOLD = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("held", flush=True)
    sys.stdin.read()
"""


@asynccontextmanager
async def publishing(
    bench: Bench, folder: Path, store: AdditionalStore | None = None
) -> AsyncIterator[Publication]:
    """Have what is pulled published in `folder`."""
    base = bench.parts.base
    native = base.stores.snapshotters["native"]
    snapshots = native.for_runtime(Publication.name, base.collector.trigger)
    assert snapshots is not None
    link = Publication(
        store or AdditionalStore(folder),
        folder / "graph",
        ImageReader(
            base.stores.database, base.stores.content, Limits(), base.pins.holds, ["native"]
        ),
        native,
        snapshots,
        RuntimesMetrics(CollectorRegistry()).of(Publication.name),
    )
    base.publisher.attach(link)
    async with background(link.run()):
        await until(lambda: not link.status().problem)
        try:
            yield link
        finally:
            if isinstance(store, Slow):
                store.go.set()


def shown(folder: Path) -> list[dict[str, Any]]:
    """What podman is told of."""
    return list(json.loads((folder / "overlay-images" / "images.json").read_bytes()))


@contextmanager
def locked_elsewhere(path: Path) -> Iterator[None]:
    """Another process holds a lock file. Raises `RuntimeError` where it cannot have it."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        if holder.stdout.readline() != b"held\n":
            raise RuntimeError(f"{path} is locked")
        try:
            yield
        finally:
            holder.stdin.close()


async def test_an_image_whose_config_podman_cannot_read_keeps_no_other_from_it(
    bench: Bench, registry: GatedRegistry, tmp_path: Path
) -> None:
    good_one = replace(image_of(layer(0)), created="2024-02-03T04:05:06.789Z")
    serve(registry, replace(good_one, created="yesterday"), repository="evil/app")
    serve(registry, good_one, repository="good/app")
    async with publishing(bench, tmp_path / "store") as link:
        await bench.pull(repository="evil/app")
        await bench.pull(repository="good/app")
        assert not link.status().problem
        assert [each["created"] for each in shown(tmp_path / "store")] == [good_one.created]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"created": None, "config": None, "rootfs": None, "history": [None]},
        {
            "created": "1970-01-01T00:00:00+00:00",
            "history": [{"created": "2024-01-01T00:00:00.5Z"}],
        },
        {"Config": {"ENV": ["A=b", None], "Volumes": {"/data": {}}, "Labels": {"a": None}}},
        {"container_config": 5, "config": {"Healthcheck": 5}, "rootfs": {"more": 5}},
    ],
)
def test_what_podman_can_read_is_published(config: object) -> None:
    assert configs.created(json.dumps(config).encode()).startswith("1970-01-01T00:00:00")


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"created": 5},
        {"CREATED": "yesterday"},
        {"created": "2024-13-01T00:00:00Z"},
        {"created": "2024-01-01T00:00:00"},
        {"created": "2024-01-01 00:00:00Z"},
        {"created": "2024-01-01T00:00:00Z", "Created": 5},
        {"os": 5},
        {"os.features": "x"},
        {"config": {"Cmd": "sh"}},
        {"config": {"labels": {"a": 1}}},
        {"config": {"ExposedPorts": {"80": 1}}},
        {"rootfs": {"Type": []}},
        {"history": {}},
        {"history": [{"created": "never"}]},
        {"history": [{"empty_layer": "yes"}]},
    ],
)
def test_what_podman_cannot_read_is_not(config: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        configs.created(json.dumps(config).encode())


async def test_an_image_comes_though_a_reader_held_the_list_when_it_was_published(
    bench: Bench, registry: GatedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.05)
    serve(registry, image_of(layer(0)))
    store = tmp_path / "store"
    async with publishing(bench, store) as link:
        with locked_elsewhere(store / "overlay-images" / "images.lock"):
            pulled = await bench.pull()
            assert "locked by another program" in link.status().problem
        await link.image_changed(pulled.image.id, "")
        assert [each["id"] for each in shown(store)] == [pulled.image.id.hex]


async def test_an_image_goes_though_a_reader_held_the_list_when_it_was_withdrawn(
    bench: Bench, registry: GatedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.05)
    serve(registry, image_of(layer(0)))
    store = tmp_path / "store"
    async with publishing(bench, store) as link:
        pulled = await bench.pull()
        with locked_elsewhere(store / "overlay-images" / "images.lock"):
            await bench.parts.remover.remove(pulled.image.id)
            assert "locked by another program" in link.status().problem
        await link.image_changed(pulled.image.id, "")
        assert shown(store) == []
        assert not (store / "overlay-images" / pulled.image.id.hex).exists()


def containers(store: Path, image_id: Digest, *, volatile: bool = False) -> Path:
    """A container of podman's on an image, as its own list tells of it."""
    name = "volatile-containers.json" if volatile else "containers.json"
    path = store / "graph" / "overlay-containers" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"id": "c", "image": image_id.hex, "layer": "l"}]))
    return path


@pytest.mark.parametrize("volatile", [False, True])
async def test_an_image_stays_under_a_container_in_whichever_list_that_is(
    bench: Bench, registry: GatedRegistry, tmp_path: Path, volatile: bool
) -> None:
    """`podman run --rm` makes volatile ones, since 4.4."""
    serve(registry, image_of(layer(0)))
    store = tmp_path / "store"
    async with publishing(bench, store) as link:
        image_id = (await bench.pull()).image.id
        listed = containers(store, image_id, volatile=volatile)
        await bench.parts.remover.remove(image_id)
        assert [each["id"] for each in shown(store)] == [image_id.hex]
        listed.unlink()
        await link.image_changed(image_id, "")
        assert shown(store) == []


async def test_an_image_that_cannot_be_published_keeps_no_other_from_coming_and_going(
    bench: Bench, registry: GatedRegistry, tmp_path: Path
) -> None:
    images = {tag: image_of(layer(0)) for tag in ("bad", "old", "new")}
    for tag, image in images.items():
        serve(registry, image, tag)
    store = tmp_path / "store"
    async with publishing(bench, store) as link:
        old = (await bench.pull("old")).image.id
        bad = Digest.parse(images["bad"].id)
        (store / "overlay-images" / bad.hex).touch()
        await bench.pull("bad")
        assert bad.hex in link.status().problem
        await bench.parts.remover.remove(old)
        new = (await bench.pull("new")).image.id
        assert [each["id"] for each in shown(store)] == [new.hex]
        assert link.status().owed == 1
        (store / "overlay-images" / bad.hex).unlink()
        await link.image_changed(bad, "")
        assert {each["id"] for each in shown(store)} == {new.hex, bad.hex}


async def test_an_image_without_a_name_is_not_shown_or_by_its_digest_under_a_container(
    bench: Bench, tmp_path: Path
) -> None:
    """CRI-O fails every list of images at one without."""
    store, name = tmp_path / "store", "r.example:5000/app:1"
    one, two, three = (image_of(layer(number)) for number in range(3))

    async def save(image: Image) -> None:
        files, links = docker_archive((image, [name]))
        await import_into(bench, tar_of(files, links=links))

    async with publishing(bench, store) as link:
        await save(one)
        listed = containers(store, Digest.parse(one.id))
        await save(two)
        (kept, shown_now) = shown(store)
        assert kept["id"] == one.id.removeprefix("sha256:")
        assert kept["names"] == [f"r.example:5000/app@{kept['digest']}"]
        assert shown_now["names"] == [name]
        await save(three)
        assert [each["names"] for each in shown(store)] == [kept["names"], [name]]
        listed.unlink()
        await link.image_changed(Digest.parse(one.id), "")
        assert [each["names"] for each in shown(store)] == [[name]]


async def test_layers_that_a_crash_left_held_are_let_go_at_the_next_start(
    bench: Bench, registry: GatedRegistry, tmp_path: Path
) -> None:
    serve(registry, image_of(layer(0)))
    base = bench.parts.base
    snapshots = base.stores.snapshotters["native"].for_runtime(Publication.name, lambda: None)
    assert snapshots is not None
    pulled = (await bench.pull()).image
    assert pulled.record.chain_id is not None
    await snapshots.adopt([pulled.record.chain_id])  # and before it was shown, all ended
    await bench.parts.remover.remove(pulled.id)
    assert await snapshots.list()
    async with publishing(bench, tmp_path / "store"):
        assert await snapshots.list() == []


async def test_layers_of_what_could_not_be_published_are_not_held(
    bench: Bench, registry: GatedRegistry, tmp_path: Path
) -> None:
    image = image_of(layer(0))
    serve(registry, image)
    store = tmp_path / "store"
    native = bench.parts.base.stores.snapshotters["native"]
    snapshots = native.for_runtime(Publication.name, lambda: None)
    assert snapshots is not None
    async with publishing(bench, store) as link:
        (store / "overlay-images" / Digest.parse(image.id).hex).touch()
        await bench.pull()
        assert link.status().problem
        assert await snapshots.list() == []


class Slow(AdditionalStore):
    """On a disk that stands still until it is let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entered, self.go = threading.Event(), threading.Event()
        self.at_work = self.most = 0

    def publish(
        self, image: Entry, items: Mapping[str, bytes], layers: Sequence[tuple[Layer, Path]]
    ) -> bool:
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        self.entered.set()
        self.go.wait()
        self.at_work -= 1
        return super().publish(image, items, layers)

    def withdraw(self, images: Sequence[str], layers: Sequence[str]) -> None:
        self.entered.set()
        self.go.wait()
        super().withdraw(images, layers)


async def test_what_waits_for_the_disk_is_not_overtaken_by_the_next_image(
    bench: Bench, registry: GatedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull waits for a moment alone; what it began goes on."""
    monkeypatch.setattr(publication, "PATIENCE", 0.1)
    store = Slow(tmp_path / "store")
    async with publishing(bench, tmp_path / "store", store) as link:
        for tag in ("one", "two", "three"):
            serve(registry, image_of(layer(0)), tag)
            pulled = await bench.pull(tag)
            assert "not published within" in link.status().problem
            while not store.entered.is_set():
                await link.image_changed(pulled.image.id, "")
        store.go.set()
        await until(lambda: len(shown(tmp_path / "store")) == 3)
        assert store.most == 1


async def test_no_container_begins_while_images_are_withdrawn_whoever_asks_for_those_in_use(
    bench: Bench, registry: GatedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process lets go of all its locks of a file when it closes it anywhere."""
    monkeypatch.setattr(publication, "PATIENCE", 0.1)
    serve(registry, image_of(layer(0)))
    containers = tmp_path / "store" / "graph" / "overlay-containers" / "containers.lock"
    containers.parent.mkdir(parents=True)
    containers.touch()
    store = Slow(tmp_path / "store")
    async with publishing(bench, tmp_path / "store", store) as link:
        store.go.set()
        pulled = await bench.pull()
        await until(lambda: shown(tmp_path / "store"))
        store.entered.clear()
        store.go.clear()
        await bench.parts.remover.remove(pulled.image.id)
        await until(store.entered.is_set)
        asked = asyncio.create_task(link.images_in_use())
        await asyncio.wait({asked}, timeout=0.5)
        with pytest.raises(RuntimeError, match="is locked"), locked_elsewhere(containers):
            pass
        store.go.set()
        assert await asked == frozenset()


@pytest.mark.parametrize("text", ['[{"id": "c", "ima', '{"image": 1}', "7", "[7]"])
async def test_a_list_of_containers_that_cannot_be_read_is_not_taken_for_an_empty_one(
    bench: Bench, registry: GatedRegistry, tmp_path: Path, text: str
) -> None:
    """A volatile list is not synced: a power cut may leave anything of it."""
    containers = tmp_path / "store" / "graph" / "overlay-containers"
    containers.mkdir(parents=True)
    async with publishing(bench, tmp_path / "store") as link:
        serve(registry, image_of(layer(0)))
        image = (await bench.pull()).image.id
        (containers / "volatile-containers.json").write_text(text)
        with pytest.raises(InUseError, match=r"volatile-containers\.json does not tell"):
            await link.images_in_use()
        await bench.parts.remover.remove(image)
        assert "does not tell" in link.status().problem
        assert [each["id"] for each in shown(tmp_path / "store")] == [image.hex]
