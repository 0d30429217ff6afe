"""A new kind of snapshots is one class: here one that keeps each layer in a tar."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.garbage import sweep
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import (
    Applied,
    DirectoryTarget,
    Mount,
    Target,
    Usage,
    Verdict,
)
from cri_imaged.snapshots.backend import Check, Sealed
from cri_imaged.snapshots.listing import ListedEntry, list_tree
from cri_imaged.snapshots.snapshotter import StoredSnapshotter
from cri_imaged.trash import Trash, remove_tree
from tests.snapshots.workbench import applied, provenance


class TarBackend:
    """A layer is the file `layer.tar`; a view names them."""

    name = "tars"
    one_file = False
    attaches = False

    def prepare(self, place: Path) -> Target:
        (place / "unpacked").mkdir()
        return DirectoryTarget(place / "unpacked")

    def layer(self, place: Path) -> Path:
        return place / "layer.tar"

    def seal(self, place: Path, parents: Sequence[Path], applied: Applied, check: Check) -> Sealed:
        assert all(self.layer(parent).exists() for parent in parents)
        with tarfile.open(self.layer(place), "w") as tar:
            tar.add(place / "unpacked", "")
        remove_tree(place / "unpacked")
        return Sealed(Usage(self.layer(place).stat().st_size, 1), applied.skipped)

    def prepare_view(self, view: Path, stack: Sequence[Path], check: Check) -> None:
        (view / "written").mkdir()

    def mounts(self, view: Path | None, stack: Sequence[Path]) -> Sequence[Mount]:
        layers = tuple(str(self.layer(place)) for place in stack)
        return (Mount("tars", str(view or ""), layers),)

    def entries(self, place: Path) -> Iterator[ListedEntry]:
        remove_tree(place / "looked at")
        with tarfile.open(self.layer(place)) as tar:
            tar.extraction_filter = lambda member, _: member  # 3.11.2 has no filters
            tar.extractall(place / "looked at")
        return list_tree(place / "looked at")


async def test_a_kind_of_snapshots_made_of_tars(tmp_path: Path) -> None:
    database, trash = await Database.open(tmp_path / "metadata.db"), Trash(tmp_path / "trash")
    snapshotter = StoredSnapshotter(TarBackend(), tmp_path, database, trash)
    await snapshotter.reap()
    lease = leases.new()
    await database.write(lambda db: leases.insert(db, lease))

    async def unpack(key: str, text: str) -> Applied:
        into = await snapshotter.prepare(key, None, lease)
        (into.directory / "file").write_text(text)
        os.utime(into.directory / "file", (1, 1))
        return applied()

    lower, upper = Digest.of(b"lower"), Digest.of(b"upper")
    for chain_id, parent in ((lower, None), (upper, lower)):
        done = await unpack("key", chain_id)
        await snapshotter.commit(chain_id, "key", parent, done, provenance(done))
    tops = [tmp_path / "snapshots/tars" / number / "layer.tar" for number in "21"]
    (mount,) = await snapshotter.view("view", upper)
    assert mount == Mount("tars", "", tuple(map(str, tops)))
    (mount,) = await snapshotter.view("written", upper, writable=True)
    assert (Path(mount.source) / "written").is_dir()

    assert (await snapshotter.verify_by(upper, "again", await unpack("again", upper))) == Verdict(
        "sound"
    )
    assert (await snapshotter.verify_by(upper, "again", await unpack("again", "x"))).state == (
        "damaged"
    )
    tops[0].unlink()
    await snapshotter.notice_lost()
    assert [info.chain_id for info in await snapshotter.walk()] == [lower]
    for key in ("view", "written"):
        await snapshotter.remove(key)
    await database.write(lambda db: leases.end(db, lease, keep_for_resume=False))
    await snapshotter.reclaim((await database.write(sweep)).snapshots["tars"])
    await trash.drain()
    assert list((tmp_path / "snapshots/tars").iterdir()) == []
    trash.close()
    await database.close()
