"""What a node has before anybody asks: archives of a folder, images of a list."""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from cri_imaged.config.options import ImageOptions, RuntimePlatform
from cri_imaged.config.upkeep import PreloadOptions
from cri_imaged.config.values import Directory, Duration, ImageName
from cri_imaged.errors import CorruptContentError, InUseError
from cri_imaged.images.pinning import Pinner
from cri_imaged.images.preload import prefetch
from cri_imaged.images.preload.archives import PreloadFolder
from cri_imaged.images.preload.folder import Stamp, content, is_whole
from cri_imaged.images.preload.prefetch import PrefetchList, pause
from cri_imaged.images.preload.shown import Shown, State
from cri_imaged.images.pull.puller import Pulled
from cri_imaged.images.reports import Cause
from cri_imaged.metadata import blobs
from cri_imaged.oci.reference import Reference
from cri_imaged.process import background
from cri_imaged.upkeep import Upkeep
from tests.images.gated import GatedRegistry
from tests.images.test_archives import layout, tar_of
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support.images import Image
from tests.support.registry import FaultRegistry, status

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def archive(scratch: Path, name: str, image: Image | None = None) -> bytes:
    """A tar of one image of that name."""
    return tar_of(layout(scratch / name.replace("/", "_"), name, image or image_of(layer(1))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "preload"
    made.mkdir(mode=0o755)
    return made


def upkeep(bench: Bench, **preload: object) -> Upkeep:
    wanted = PreloadOptions(jitter=Duration(0.0), **preload)  # type: ignore[arg-type]
    platforms = {name: RuntimePlatform() for name in wanted.runtime_handlers}
    options = ImageOptions(preload=wanted, runtime_platforms=platforms)
    parts = bench.parts
    return Upkeep(options, parts.base, parts.puller, parts.importer, parts.remover, {})


async def loaded(bench: Bench, folder: Path, **preload: object) -> PreloadFolder:
    """A folder that was looked at twice: what is in it has been whole for as long."""
    kept = upkeep(bench, directory=Directory(folder), **preload)._folder
    assert isinstance(kept, PreloadFolder)
    await kept.load()
    await kept.look()
    await kept.look()
    return kept


def states(shown: Shown) -> dict[str, State]:
    return {each.name: each.state for each in shown}


def pinned(bench: Bench) -> set[str]:
    return {tag for each in bench.parts.store.all() if each.pinned for tag in each.repo_tags}


async def test_archives_are_imported_and_pinned_as_long_as_they_are_there(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.tar").write_bytes(archive(tmp_path, "r.example/a:1"))
    (folder / "b.tar.gz").write_bytes(gzip.compress(archive(tmp_path, "r.example/b:1"), 1))
    (folder / "c.tgz").write_bytes(gzip.compress(archive(tmp_path, "r.example/c:1"), 1))
    (folder / "d.tar.zst").write_bytes(zstd.compress(archive(tmp_path, "r.example/d:1")))
    (folder / "README").write_text("no archive")
    (folder / ".e.tar.part.tar").write_bytes(b"half of one")
    kept = await loaded(bench, folder)
    assert states(kept.shown) == dict.fromkeys(
        ["a.tar", "b.tar.gz", "c.tgz", "d.tar.zst"], State.READY
    )
    every = {f"r.example/{name}:1" for name in "abcd"}
    assert pinned(bench) == every
    database, base = bench.parts.base.stores.database, bench.parts.base
    with pytest.raises(InUseError, match=r"image\.preload"):
        await Pinner(database, base.pins, base.publisher).unpin("r.example/a:1")

    (folder / "b.tar.gz").unlink()
    await kept.look()
    assert "b.tar.gz" not in states(kept.shown)
    assert pinned(bench) == every - {"r.example/b:1"}
    assert bench.parts.store.get("r.example/b:1"), "its file may go, it stays"


async def test_each_archive_is_imported_once_and_again_where_what_it_brought_is_gone(
    tmp_path: Path, folder: Path, registry: FaultRegistry
) -> None:
    (folder / "a.tar").write_bytes(archive(tmp_path, "r.example/a:1"))
    (folder / "b.tar").write_bytes(archive(tmp_path, "r.example/b:1", image_of(layer(2))))
    when = "SELECT file, imported FROM preloads ORDER BY file"
    async with Bench.open(tmp_path / "root", registry) as bench:
        await loaded(bench, folder)
        first = bench.rows(when)
        await loaded(bench, folder)
        assert bench.rows(when) == first
        await bench.parts.remover.remove("r.example/b:1")
    async with Bench.open(tmp_path / "root", registry) as bench:
        kept = await loaded(bench, folder)
        again = bench.rows(when)
        assert again[0] == first[0]
        assert again[1] > first[1]
        assert pinned(bench) == {"r.example/a:1", "r.example/b:1"}

        (folder / "a.tar").write_bytes(archive(tmp_path, "r.example/new:1", image_of(layer(3))))
        await kept.look()
        await kept.look()
        assert pinned(bench) == {"r.example/new:1", "r.example/b:1"}


async def test_what_was_damaged_is_taken_from_its_archive_and_what_was_removed_is_not(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.tar").write_bytes(archive(tmp_path, "r.example/a:1"))
    (folder / "b.tar").write_bytes(archive(tmp_path, "r.example/b:1", image_of(layer(2))))
    kept = await loaded(bench, folder)
    base = bench.parts.base
    image = bench.parts.store.get("r.example/a:1")
    assert image is not None
    await base.stores.database.write(lambda db: blobs.lost(db, [image.id]))
    await base.publisher.refresh(image.id, "")
    await bench.parts.remover.remove("r.example/b:1")
    assert bench.shown() == set()
    assert states(kept.shown)["b.tar"] is State.REMOVED
    assert [each.images for each in kept.shown] == [(), ()]
    await kept.look()
    assert {name for name in bench.shown() if "@" not in name} == {"r.example/a:1"}
    assert (await bench.tree("r.example/a:1"))["d/1"]


async def test_archives_are_brought_in_for_each_runtime_handler_that_is_named(
    tmp_path: Path, folder: Path, registry: FaultRegistry
) -> None:
    (folder / "a.tar").write_bytes(archive(tmp_path, "r.example/a:1"))
    kata = {"kata": RuntimePlatform()}
    async with Bench.open(tmp_path / "root", registry, runtime_platforms=kata) as bench:
        await loaded(bench, folder)
        assert not bench.parts.store.has("r.example/a:1", "kata")
    async with Bench.open(tmp_path / "root", registry, runtime_platforms=kata) as bench:
        kept = await loaded(bench, folder, runtime_handlers=["kata"])
        assert states(kept.shown) == {"a.tar": State.READY}
        for handler in ("", "kata"):
            assert bench.parts.store.has("r.example/a:1", handler)
        assert all(image.pinned for image in bench.parts.store.all())
        await bench.parts.remover.remove("r.example/a:1", "kata")
        assert states(kept.shown) == {"a.tar": State.REMOVED}


async def test_what_cannot_be_imported_is_told_and_stops_nothing_else(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    good = archive(tmp_path, "r.example/a:1")
    (folder / "cut.tar").write_bytes(good[: len(good) // 2])
    (folder / "cut.tar.gz").write_bytes(gzip.compress(good, 1)[:-20])
    (folder / "cut.tar.zst").write_bytes(zstd.compress(good)[:-20])
    (folder / "other.tar").write_bytes(b"no tar at all" * 100)
    os.mkfifo(folder / "pipe.tar")
    (folder / "shared.tar").write_bytes(good)
    os.chmod(folder / "shared.tar", 0o666)
    (folder / "gone.tar").symlink_to("nowhere")
    (folder / "well.tar").write_bytes(good)
    with structlog.testing.capture_logs() as log:
        kept = await loaded(bench, folder)
        await kept.look()
    wrong = ["cut.tar", "cut.tar.gz", "cut.tar.zst", "other.tar", "pipe.tar", "shared.tar"]
    assert states(kept.shown) == {**dict.fromkeys(wrong, State.FAILED), "well.tar": State.READY}
    assert all(each.problem for each in kept.shown if each.state is State.FAILED)
    told = [line["file"] for line in log if line["log_level"] == "warning"]
    assert told == wrong, "each once"

    (folder / "cut.tar").write_bytes(good)
    await kept.look()
    await kept.look()
    assert states(kept.shown)["cut.tar"] is State.READY


async def test_names_that_are_no_text_can_be_told(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    good = archive(tmp_path, "r.example/a:1")
    (folder / os.fsdecode(b"a\xff.tar")).write_bytes(good)
    (folder / "well.tar").write_bytes(good)
    kept = await loaded(bench, folder)
    odd, well = kept.shown
    assert (odd.name, odd.state, well.state) == (r"a\xff.tar", State.FAILED, State.READY)
    assert "rename it" in odd.problem


def test_folders_in_place_of_files_leave_nothing_open(folder: Path) -> None:
    (folder / "a.tar").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CorruptContentError, match="no regular file"):
        list(content(folder / "a.tar"))
    assert len(os.listdir("/proc/self/fd")) <= before  # threads of other tests may close some


async def test_a_defect_that_one_archive_meets_stops_no_other(
    bench: Bench, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.tar").write_bytes(archive(tmp_path, "r.example/a:1"))
    (folder / "b.tar").write_bytes(archive(tmp_path, "r.example/b:1"))

    def broken(path: Path) -> Generator[bytes, None, None]:
        if path.name == "a.tar":
            raise RuntimeError("a defect")
        return content(path)

    monkeypatch.setattr("cri_imaged.images.preload.folder.content", broken)
    kept = await loaded(bench, folder)
    assert states(kept.shown) == {"a.tar": State.FAILED, "b.tar": State.READY}
    assert kept.shown.unsettled == 0


async def test_a_file_that_grows_waits_until_it_is_whole(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    good = archive(tmp_path, "r.example/a:1")
    kept = await loaded(bench, folder)
    for size in (len(good) // 3, len(good) // 2, len(good)):
        (folder / "a.tar").write_bytes(good[:size])
        await kept.look()
        assert states(kept.shown) == {"a.tar": State.WAITING}
        assert kept.shown.unsettled == 1
    await kept.look()
    assert states(kept.shown) == {"a.tar": State.READY}


def test_when_a_file_counts_as_whole() -> None:
    stamp = Stamp(10, 0, 100 * 10**9)
    assert is_whole(stamp, stamp, 100.0)
    assert is_whole(stamp, None, 105.0)
    assert not is_whole(stamp, None, 104.0)
    assert not is_whole(stamp, Stamp(9, 0, 100 * 10**9), 101.0)


async def test_a_folder_that_others_may_write_to_is_not_used(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.tar").write_bytes(archive(tmp_path, "r.example/a:1"))
    os.chmod(folder, 0o777)
    kept = await loaded(bench, folder)
    assert "chmod go-w" in kept.shown.problem
    assert bench.shown() == set()
    os.chmod(folder, 0o755)
    await kept.look()
    await kept.look()
    assert kept.shown.problem == ""
    assert "r.example/a:1" in bench.shown()


async def test_a_folder_that_is_not_there_is_told_of(bench: Bench, tmp_path: Path) -> None:
    kept = await loaded(bench, tmp_path / "nowhere")
    assert "image.preload.directory" in kept.shown.problem
    assert kept.shown.begun


# --- the list -------------------------------------------------------------------------------------


@asynccontextmanager
async def prefetching(bench: Bench, *tags: str) -> AsyncIterator[Upkeep]:
    images = [ImageName(Reference.parse(bench.name(tag))) for tag in tags]
    kept = upkeep(bench, images=images, ready=True)
    async with background(kept._prefetcher.run()):
        yield kept


async def test_images_of_the_list_are_pulled_after_what_clients_pull(
    bench: Bench, registry: GatedRegistry
) -> None:
    serve(registry, image_of(layer(1)), "one")
    put = serve(registry, image_of(layer(2)), "two")
    gate = registry.hold(put.layers[0].digest)
    async with prefetching(bench, "one", "two") as kept:
        await registry.held(gate)
        shown = states(kept.prefetched)
        assert shown == {bench.name("one"): State.READY, bench.name("two"): State.WORKING}
        assert kept.why_not_ready().startswith("1 of what")
        gate.opened.set()
        await until(lambda: kept.prefetched.unsettled == 0)
        assert kept.why_not_ready() == ""
    assert {bench.name("one"), bench.name("two")} <= bench.shown()


async def test_what_is_missing_is_tried_again_and_what_is_new_is_pulled(
    bench: Bench, registry: GatedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_FIRST_RETRY_SECONDS", 0.01)
    async with prefetching(bench, "late") as kept:
        await until(lambda: states(kept.prefetched)[bench.name("late")] is State.FAILED)
        [failed] = kept.prefetched
        assert "late" in failed.problem
        assert kept.why_not_ready() == "", "it has failed once"
        serve(registry, image_of(layer(1)), "late")
        await until(lambda: states(kept.prefetched)[bench.name("late")] is State.READY)

        serve(registry, image_of(layer(2)), "new")
        asked = len(registry.gets())
        kept._prefetcher.configure(PrefetchList((bench.name("late"), bench.name("new"))))
        await until(lambda: states(kept.prefetched)[bench.name("new")] is State.READY)
        assert kept.why_not_ready() == "", "what is added later makes no node unready"
        paths = [seen.path for seen in registry.gets()[asked:]]
        assert not any("late" in path for path in paths), "it is here already"
        kept._prefetcher.configure(PrefetchList((bench.name("new"),)))
        assert list(states(kept.prefetched)) == [bench.name("new")]


async def test_images_are_pulled_for_each_runtime_handler_that_is_named(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    serve(registry, image_of(layer(1)))
    kata = {"kata": RuntimePlatform()}
    async with Bench.open(tmp_path / "root", registry, runtime_platforms=kata) as bench:
        await bench.pull()
        kept = upkeep(bench, runtime_handlers=["kata"])._prefetcher
        wanted = PrefetchList((bench.name(),), handlers=("", "kata"))
        kept.configure(wanted)
        kept._changed.clear()
        assert await kept._round(wanted, everything=False) == 0
        assert {(each.handler, each.state) for each in kept.shown} == {
            ("", State.READY),
            ("kata", State.READY),
        }
        assert bench.parts.store.has(bench.name(), "kata")
        await bench.parts.remover.remove(bench.name(), "kata")
        assert [each.state for each in kept.shown] == [State.READY, State.REMOVED]


async def test_a_defect_that_one_image_meets_stops_no_other(
    bench: Bench, registry: GatedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(registry, image_of(layer(1)), "well")
    pull = bench.parts.puller.pull

    async def broken(name: str, handler: str, cause: Cause) -> Pulled:
        if name.endswith(":odd"):
            raise RuntimeError("a defect")
        return await pull(name, handler, cause=cause)

    monkeypatch.setattr(bench.parts.puller, "pull", broken)
    async with prefetching(bench, "odd", "well") as kept:
        await until(lambda: kept.prefetched.unsettled == 0)
        shown = states(kept.prefetched)
    assert shown == {bench.name("odd"): State.FAILED, bench.name("well"): State.READY}


async def test_a_refresh_pulls_what_is_here_again(bench: Bench, registry: GatedRegistry) -> None:
    serve(registry, image_of(layer(1)), "moves")
    pulled = await bench.pull("moves")
    moved = image_of(layer(2))
    serve(registry, moved, "moves")
    kept = upkeep(bench)._prefetcher
    wanted = PrefetchList((bench.name("moves"),))
    kept.configure(wanted)
    kept._changed.clear()
    assert await kept._round(wanted, everything=False) == 0
    assert bench.parts.store.resolve(bench.name("moves")) == pulled.image.id
    assert await kept._round(wanted, everything=True) == 0
    assert bench.parts.store.resolve(bench.name("moves")) == moved.id
    registry.faults.append(status(403))
    assert await kept._round(wanted, everything=True) == 0
    [shown] = kept.shown
    assert shown.state is State.READY
    assert shown.problem, "it is here, and could not be refreshed"


@pytest.mark.parametrize(
    ("refresh", "failures", "wanted"),
    [
        ((), 0, (3600.0, False)),
        ((), 1, (30.0, False)),
        ((), 3, (120.0, False)),
        ((), 99, (3600.0, False)),
        ((1,), 0, (60.0, True)),
        ((1,), 1, (30.0, False)),
        ((23 * 60,), 0, (3600.0, False)),
    ],
)
def test_pauses(refresh: tuple[int, ...], failures: int, wanted: tuple[float, bool]) -> None:
    assert pause(PrefetchList((), refresh), failures, 0.0) == wanted


def test_a_refresh_that_was_due_while_a_round_lasted_is_next() -> None:
    assert pause(PrefetchList((), (1,)), 1, 0.0, 59.0) == (1.0, True)
    assert pause(PrefetchList((), (1,)), 1, 0.0, 600.0) == (0.0, True)
    assert pause(PrefetchList((), (1,)), 0, 60.0, 600.0) == (3600.0, False)


async def test_nothing_is_pulled_while_a_round_is_put_off(
    bench: Bench, registry: GatedRegistry
) -> None:
    serve(registry, image_of(layer(1)))
    kept = upkeep(bench)._prefetcher
    kept.configure(PrefetchList((bench.name(),), jitter=1e9))
    async with background(kept.run()):
        await asyncio.sleep(0.05)
        assert registry.seen == []
        kept.configure(PrefetchList((bench.name(),)))
        await until(lambda: kept.shown.unsettled == 0)


async def test_a_refresh_that_a_changed_list_interrupts_is_begun_anew(
    bench: Bench, registry: GatedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(registry, image_of(layer(1)))
    await bench.pull()
    rounds: list[float] = []

    def just_before_the_refresh_and_then_after_it() -> float:
        rounds.append(100.0 if rounds else 59.99)
        return rounds[-1]

    monkeypatch.setattr(prefetch, "second_of_day", just_before_the_refresh_and_then_after_it)
    kept = upkeep(bench)._prefetcher
    kept.configure(PrefetchList((bench.name(),), (1,), jitter=1e9))
    before = len(registry.seen)
    async with background(kept.run()):
        await until(lambda: len(rounds) == 2)
        assert len(registry.seen) == before
        kept.configure(PrefetchList((bench.name(),), (1,)))
        await until(lambda: len(registry.seen) > before)
