"""What of a proxy snapshotter is believed."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_imaged.errors import ProxyFailedError, UnsupportedContentError
from cri_imaged.limits import Limits
from cri_imaged.metadata.database import Database
from cri_imaged.ports import Mount, SnapshotKind
from cri_imaged.snapshots.proxies.client import ProxyClient, ProxySnapshot
from cri_imaged.snapshots.proxies.leftovers import Leftovers, children_first
from cri_imaged.snapshots.proxies.mounts import judged, writable
from cri_imaged.snapshots.proxies.snapshotter import ProxySnapshotter as Snapshotter
from cri_imaged.snapshots.tasks import Locks
from tests.images.workbench import until
from tests.support.proxy_snapshotter import Kept, ProxySnapshotter

ROOT = Path("/proxy")
OVERLAY = Mount(
    "overlay",
    "overlay",
    ("index=off", "lowerdir=/proxy/2:/proxy/1", "upperdir=/proxy/3/fs", "workdir=/proxy/3/work"),
)
BIND = Mount("bind", "/proxy/1", ("rbind", "rw"))


@pytest.mark.parametrize("mount", [OVERLAY, BIND])
def test_mounts_below_its_root_are_taken(mount: Mount) -> None:
    assert judged([mount], ROOT, "lazy") == [mount]


@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        ([], "gives 0 mounts"),
        ([BIND, BIND], "gives 2 mounts"),
        ([Mount("ext4", "/dev/sda", ("rw",))], "of type 'ext4'"),
        ([Mount("bind", "/etc", ("rbind",))], "'/etc', which is not below /proxy"),
        ([Mount("bind", "/proxy/../etc", ("rbind",))], "not below"),
        ([Mount("bind", "proxy/1", ("rbind",))], "not below"),
        ([Mount("bind", "/proxyx", ("rbind",))], "not below"),
        ([Mount("bind", "/proxy/1", ("suid",))], "the option 'suid'"),
        ([Mount("overlay", "overlay", ("lowerdir=/proxy/1:/etc",))], "'/etc'"),
        ([Mount("overlay", "overlay", ("lowerdir=/proxy/1", "upperdir=/etc"))], "'/etc'"),
        ([Mount("overlay", "overlay", ("lowerdir+=/etc",))], "the option"),
    ],
)
def test_others_are_refused(mounts: list[Mount], said: str) -> None:
    with pytest.raises(ProxyFailedError, match=f"^proxy snapshotter lazy: .*{said}"):
        judged(mounts, ROOT, "lazy")


def test_a_layer_is_applied_into_an_upper_directory_or_an_empty_one() -> None:
    into = writable([OVERLAY], "parent", "lazy")
    assert into == (Path("/proxy/3/fs"), [Path("/proxy/2"), Path("/proxy/1")])
    assert writable([BIND], "", "lazy") == (Path("/proxy/1"), ())
    for mount, parent in ((BIND, "parent"), (Mount("bind", "/proxy/1", ("ro",)), "")):
        with pytest.raises(UnsupportedContentError, match="lazy gives a bind mount"):
            writable([mount], parent, "lazy")


def test_what_stands_on_others_goes_first() -> None:
    parents = {"c": "b", "a": "", "b": "a", "d": "b", "loop": "loop", "other": "elsewhere"}
    found = {
        name: ProxySnapshot(name, parent, SnapshotKind.COMMITTED, ours=True)
        for name, parent in parents.items()
    }
    order = children_first(found)
    assert sorted(order) == sorted(parents)
    for name, parent in parents.items():
        if parent in parents and parent != name:
            assert order.index(name) < order.index(parent)


async def test_one_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cri_imaged.snapshots.proxies.client.PROXY_CLAIM_SECONDS", 0.2)
    with ProxySnapshotter(tmp_path / "p", fault="hang") as proxy:
        client = ProxyClient("lazy", proxy.socket)
        with pytest.raises(ProxyFailedError, match=r"lazy at .*DEADLINE_EXCEEDED"):
            await client.prepare("key", "", {"containerd.io/snapshot.ref": "sha256:00"})
        assert await client.list() == [], "it is asked again"
        await client.close()


async def test_what_is_removed_is_cleaned_up_and_others_are_left_alone(tmp_path: Path) -> None:
    with ProxySnapshotter(tmp_path / "p") as proxy:
        database = await Database.open(tmp_path / "metadata.db")
        client = ProxyClient("lazy", proxy.socket)
        leftovers = Leftovers("lazy", client, database, Locks())
        for name, parent in (("lower", ""), ("upper", "lower")):
            await client.prepare(f"{name}-key", parent)
            await client.commit(name, f"{name}-key")
        place = proxy.root / "of-another"
        proxy.kept["of another"] = Kept(place, 0, "", {})
        await leftovers.remove_all()
        assert set(proxy.kept) == {"of another"}
        await client.close()
        await database.close()


class SlowToRemove(ProxySnapshotter):
    """A proxy that takes its time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def Remove(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.set()
        self.go.wait(timeout=60)
        return super().Remove(request, context)


async def test_a_view_that_is_opened_while_what_is_left_of_its_name_goes_stays(
    tmp_path: Path,
) -> None:
    with SlowToRemove(tmp_path / "p") as proxy:
        database = await Database.open(tmp_path / "metadata.db")
        client = ProxyClient("lazy", proxy.socket)
        snapshotter = Snapshotter("lazy", client, proxy.root, database, Limits())
        await client.view("view-key", "")
        removal = asyncio.create_task(snapshotter.reclaim([]))
        await asyncio.to_thread(proxy.asked.wait)
        opening = asyncio.create_task(snapshotter.view("key", None))
        await until(lambda: opening.done() or snapshotter._locks._held["view-key"][1] == 2)
        proxy.go.set()
        await asyncio.gather(removal, opening)
        assert set(proxy.kept) == {"view-key"}
        await client.close()
        await database.close()


class RefusesToRemove(ProxySnapshotter):
    """A proxy that fails for a while."""

    refuses = True

    def Remove(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.refuses:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return super().Remove(request, context)


async def test_a_view_shows_nothing_of_one_of_its_name_that_could_not_be_removed(
    tmp_path: Path,
) -> None:
    with RefusesToRemove(tmp_path / "p") as proxy:
        database = await Database.open(tmp_path / "metadata.db")
        client = ProxyClient("lazy", proxy.socket)
        snapshotter = Snapshotter("lazy", client, proxy.root, database, Limits())
        (old,) = await snapshotter.view("key", None, writable=True)
        (Path(old.source) / "secret").touch()
        await snapshotter.remove("key")
        assert set(proxy.kept) == {"view-key"}, "it could not be removed"
        with pytest.raises(ProxyFailedError, match="not now"):
            await snapshotter.view("key", None, writable=True)
        assert await snapshotter.views() == []
        proxy.refuses = False
        (new,) = await snapshotter.view("key", None, writable=True)
        assert await asyncio.to_thread(os.listdir, new.source) == []
        assert [new] == await snapshotter.view("key", None, writable=True), "it is the same again"
        await client.close()
        await database.close()
