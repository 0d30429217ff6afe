"""A snapshotter on a root of its own, and the few steps that tests repeat."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cri_imaged import mounting
from cri_imaged.full_disk import told_as_no_space
from cri_imaged.limits import Limits
from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import IMAGE, Applied, ImageTarget, Lease, Mount, Provenance
from cri_imaged.snapshots.backend import Backend
from cri_imaged.snapshots.erofs import ErofsBackend
from cri_imaged.snapshots.layer_mounts import LayerMounts
from cri_imaged.snapshots.native import NativeBackend
from cri_imaged.snapshots.overlay import OverlayBackend
from cri_imaged.snapshots.snapshotter import StoredSnapshotter
from cri_imaged.trash import Trash, remove_tree
from tests.snapshots.images import pack
from tests.snapshots.model import Layer, Node, Tree, merge, scan, write
from tests.support.erofs import WHOLE

CLASSES: Mapping[str, Callable[[Path, Limits], Backend]] = {
    "overlay": OverlayBackend,
    "native": lambda root, limits: NativeBackend(limits),
    "erofs": lambda root, limits: ErofsBackend(layer_mounts(root, limits), limits),
}
BASE: Tree = {b"": Node("directory", 0o755, mtime=None)}


class Bench:
    """One snapshotter with its database, trash and a lease."""

    def __init__(
        self,
        root: Path,
        stages: Path,
        database: Database,
        trash: Trash,
        name: str,
        limits: Limits,
    ) -> None:
        """`stages`: where what becomes an image is made; not on the disk that may be full."""
        self.root = root
        self.database = database
        self.trash = trash
        self.snapshotter = StoredSnapshotter(CLASSES[name](root, limits), root, database, trash)
        self.directory = root / "snapshots" / name
        self.stages = stages
        self.lease = leases.new()
        self._numbers = itertools.count()
        self._targets: dict[str, ImageTarget] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, root: Path, name: str, limits: Limits | None = None
    ) -> AsyncIterator[Bench]:
        database = await Database.open(root / "metadata.db")
        trash = Trash(root / "trash")
        try:
            with tempfile.TemporaryDirectory() as stages:
                bench = cls(root, Path(stages), database, trash, name, limits or Limits())
                await bench.snapshotter.reap()
                await bench.hold(bench.lease)
                yield bench
        finally:
            layer_mounts(root, Limits()).keep([])
            await trash.drain()
            trash.close()
            await database.close()

    async def hold(self, lease: Lease) -> None:
        await self.database.write(lambda db: leases.insert(db, lease))

    async def prepare(self, key: str, parent: Digest | None = None) -> Path:
        """A directory to be filled; where a layer is an image, `commit` makes it of that."""
        into = await self.snapshotter.prepare(key, parent, self.lease)
        if isinstance(into, ImageTarget):
            assert os.listdir(into.directory) == [IMAGE]
            stage = self.stages / into.directory.name
            stage.mkdir(parents=True)
            self._targets[key] = into
            return stage
        assert into.directory.is_dir()
        assert not list(into.directory.iterdir())
        return into.directory

    async def add(self, layer: Layer, parent: Digest | None = None) -> Digest:
        """Commit `layer` on top of `parent`, under a chainID of its own."""
        number = next(self._numbers)
        directory = await self.prepare(f"key-{number}", parent)
        chain_id = Digest.of(f"{self.root} {number}".encode())
        await self.commit(chain_id, f"key-{number}", parent, write(layer, directory))
        return chain_id

    async def commit(
        self, chain_id: Digest, key: str, parent: Digest | None, applied: Applied
    ) -> None:
        """Commit what was applied under `key`, as if a blob of our own had given it."""
        self.packed(key)
        await self.snapshotter.commit(chain_id, key, parent, applied, provenance(applied))

    def packed(self, key: str) -> None:
        """Make the image of what was written into the directory of `key`, where that has one."""
        if into := self._targets.pop(key, None):
            with told_as_no_space("the image"):
                pack(self.stages / into.directory.name, into.directory / IMAGE)

    async def stack(self, layers: Sequence[Layer]) -> Digest:
        """Commit `layers`, the lowest first."""
        top: Digest | None = None
        for layer in layers:
            top = await self.add(layer, top)
        assert top is not None
        return top

    async def tree(self, chain_id: Digest) -> Tree:
        """What a read-only view of the snapshot shows."""
        key = f"tree-{next(self._numbers)}"
        try:
            with shown(await self.snapshotter.view(key, chain_id)) as directory:
                return scan(directory)
        finally:
            await self.snapshotter.remove(key)

    def left(self) -> list[str]:
        """Names in the snapshotter's directory."""
        return sorted(os.listdir(self.directory))


@contextlib.contextmanager
def shown(mounts: Sequence[Mount]) -> Iterator[Path]:
    """A directory where `mounts` can be seen: mounted, or as an ordinary user where they lie."""
    (mount,) = mounts
    if os.geteuid() != 0:
        assert mount.type == "bind"
        yield Path(mount.source)
        return
    with tempfile.TemporaryDirectory(prefix="view-") as target:
        mounting.mount(mount, Path(target))
        try:
            yield Path(target)
        finally:
            mounting.unmount(Path(target))


def layer_mounts(root: Path, limits: Limits) -> LayerMounts:
    """Where images of the store in `root` are mounted."""
    return LayerMounts(root / "mounted", limits.mounted_layers, loops=WHOLE)


def model(layers: Sequence[Layer]) -> Tree:
    """The tree that `layers`, the lowest first, make."""
    tree: Tree = {}
    for layer in layers:
        tree = merge(tree, layer)
    return tree


@contextlib.contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """A directory that is removed whatever modes are in it."""
    path = Path(tempfile.mkdtemp(prefix="snapshots-", dir=folder))
    try:
        yield path
    finally:
        remove_tree(path)


@functools.cache
def memory() -> Path | None:
    """A file system in memory, for many small roots; None where it could not hold them."""
    folder = Path("/dev/shm")
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            os.setxattr(file.name, "user.a", b"1")
        free = os.statvfs(folder)
    except OSError:
        return None
    return folder if free.f_bavail * free.f_frsize > 1 << 30 else None


def applied(**seal: object) -> Applied:
    """What an applier reports of a layer whose directory a test filled by hand."""
    from cri_imaged.ports import Usage

    return Applied(Digest.of(b"layer"), 0, 0, Usage(0, 0), **seal)  # type: ignore[arg-type]


def provenance(applied: Applied, blob: bytes = b"blob", repository: str = "") -> Provenance:
    """How a layer was made that a test applied."""
    return Provenance(
        Digest.of(blob), len(blob), applied.diff_id, applied.size, applied.entries, repository
    )
