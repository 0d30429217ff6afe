"""What must be true of a store, whatever happened to it.

The reference trees are computed here, from the values that the images were made of; nothing of
that uses the code under test.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from cri_imaged import mounting
from cri_imaged.ports import Mount
from cri_imaged.rpc.node.v1 import node_pb2 as node
from cri_imaged.rpc.node.v1 import node_pb2_grpc
from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.support.daemon import Daemon
from tests.support.images import Image, Node, Tree, image, layer
from tests.support.process import wait_until
from tests.support.store import Contents, contents
from tests.support.trees import Entry, describe, difference

_KINDS = {tarfile.REGTYPE: "-", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.FIFOTYPE: "p"}


@dataclass(frozen=True)
class Sample:
    """An image and the trees that it was made of. Every tree lists all directories on the way to
    its entries, and "." for the root; a hardlink's target is in the same tree."""

    trees: tuple[Tree, ...]
    image: Image

    @classmethod
    def of(cls, *trees: Tree) -> Sample:
        return cls(trees, image(*map(layer, trees)))


def reference_tree(trees: Sequence[Tree]) -> dict[str, Entry]:
    """What a container sees of `trees`, lowest first (OCI image spec, "Applying Changesets")."""
    merged: dict[str, tuple[Node, tuple[int, str]]] = {}
    files: dict[tuple[int, str], Node] = {}
    for number, tree in enumerate(trees):
        _hide(merged, tree)
        for name, given in tree.items():
            if name.rpartition("/")[2].startswith(".wh."):
                continue
            file, listed = name, given
            if given.type == tarfile.LNKTYPE:
                file, listed = given.target, _linked(files[number, given.target], given)
            elif name == ".":
                listed = replace(given, mode=0o755, uid=0, gid=0, xattrs={})
            files[number, file] = listed
            if listed.type != tarfile.DIRTYPE:
                _cut(merged, name)
            merged[name] = listed, (number, file)
    names: dict[tuple[int, str], list[str]] = {}
    for name, (_, file_id) in merged.items():
        names.setdefault(file_id, []).append(name)
    return {
        name: _entry(files[file_id], tuple(sorted(names[file_id])))
        for name, (_, file_id) in merged.items()
    }


def _linked(file: Node, link: Node) -> Node:
    """A hardlink's own attributes are the file's."""
    xattrs = {**file.xattrs, **link.xattrs}
    return replace(
        file, mode=link.mode, uid=link.uid, gid=link.gid, mtime=link.mtime, xattrs=xattrs
    )


def _hide(merged: dict[str, tuple[Node, tuple[int, str]]], tree: Tree) -> None:
    for name in tree:
        parent, _, base = name.rpartition("/")
        if base == ".wh..wh..opq":
            for below in [each for each in merged if each.startswith(f"{parent}/")]:
                del merged[below]
        elif base.startswith(".wh."):
            _cut(merged, f"{parent}/{base[4:]}" if parent else base[4:])


def _cut(merged: dict[str, tuple[Node, tuple[int, str]]], name: str) -> None:
    for each in [each for each in merged if each == name or each.startswith(f"{name}/")]:
        del merged[each]


def _entry(listed: Node, names: tuple[str, ...]) -> Entry:
    content = ""
    if listed.type == tarfile.REGTYPE:
        content = hashlib.sha256(listed.data).hexdigest()
    elif listed.type == tarfile.SYMTYPE:
        content = listed.target
    return Entry(
        kind=_KINDS[listed.type],
        mode=listed.mode,
        uid=listed.uid,
        gid=listed.gid,
        mtime_ns=int(listed.mtime) * 10**9,
        content=content,
        xattrs=tuple(sorted(listed.xattrs.items())),
        same_file=names if len(names) > 1 else (),
    )


# --- looking at a daemon's store ----------------------------------------------------------------


@contextmanager
def mounted(daemon: Daemon, name: str, *, writable: bool = False) -> Iterator[Path]:
    """The root file system of the image `name`, through a view that is released at the end."""
    key = f"oracle-{uuid.uuid4().hex}"
    with daemon.channel() as channel, tempfile.TemporaryDirectory(prefix="cri-oracle-") as place:
        stub = node_pb2_grpc.NodeStub(channel)
        view = stub.CreateView(
            node.CreateViewRequest(image=name, key=key, writable=writable), timeout=60
        )
        done = 0
        try:
            for each in view.mounts:
                mounting.mount(Mount(each.type, each.source, tuple(each.options)), Path(place))
                done += 1
            yield Path(place)
        finally:
            for _ in range(done):
                mounting.unmount(Path(place))
            stub.ReleaseView(node.ReleaseViewRequest(key=key), timeout=60)


def collect(daemon: Daemon) -> None:
    """`cri-imaged gc --resumable`."""
    with daemon.channel() as channel:
        stub = node_pb2_grpc.NodeStub(channel)
        stub.CollectGarbage(node.CollectGarbageRequest(resumable=True), timeout=120)


def check_store(daemon: Daemon) -> None:
    """`cri-imaged check`: the daemon itself finds nothing wrong either, no orphan in particular."""
    with daemon.channel() as channel:
        stub = node_pb2_grpc.NodeStub(channel)
        events = list(stub.CheckStore(node.CheckStoreRequest(), timeout=120))
    problems = [event.problem for event in events if event.HasField("problem")]
    assert not problems, f"the daemon's check found {problems}"
    assert events[-1].summary.problems == 0


def release_views(daemon: Daemon) -> None:
    """Release what clients left that a daemon's death surprised: nobody has it mounted."""
    with daemon.channel() as channel:
        stub = node_pb2_grpc.NodeStub(channel)
        for view in stub.ListViews(node.ListViewsRequest(), timeout=30).views:
            stub.ReleaseView(node.ReleaseViewRequest(key=view.key), timeout=30)


class Oracle:
    """Knows every image that a daemon may show."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples: Mapping[str, Sample] = {each.image.id: each for each in samples}
        self._trees = {id: reference_tree(each.trees) for id, each in self.samples.items()}

    def check(self, daemon: Daemon) -> set[str]:
        """Every image that is shown is whole, and every blob has the bytes that its name says.
        Returns the IDs of the images."""
        shown = {each.id for each in daemon.images()}
        for image_id in sorted(shown):
            self.check_image(daemon, image_id)
        check_blobs(daemon.root)
        return shown

    def check_image(self, daemon: Daemon, image_id: str) -> None:
        """The image mounts, and what is mounted equals its reference tree."""
        with daemon.channel() as channel:
            request = api_pb2.ImageStatusRequest(verbose=True)
            request.image.image = image_id
            answer = api_pb2_grpc.ImageServiceStub(channel).ImageStatus(request, timeout=30)
            assert answer.image.id == image_id
            assert "info" in answer.info
        with mounted(daemon, image_id) as root:
            self.compare(image_id, root)

    def compare(self, image_id: str, root: Path) -> None:
        """The tree under `root` is the image's."""
        found = difference(describe(root), self._trees[image_id])
        assert found == [], f"{image_id}: {found[:5]}"

    def check_empty(self, daemon: Daemon, fresh: Contents) -> None:
        """After all views are released, all images removed and the garbage collected, the store
        is as `fresh`."""
        release_views(daemon)
        for shown in daemon.images():
            daemon.remove(shown.id)
        collect(daemon)
        left = contents(daemon.root)
        rows = set(left.rows.items()) ^ set(fresh.rows.items())
        assert rows == set(), sorted(rows)[:5]
        other = set(left.files.items()) ^ set(fresh.files.items())
        assert other == set(), sorted(other)[:5]


def check_blobs(root: Path) -> None:
    """Every blob file hashes to its name."""
    for path in (root / "content/blobs").glob("*/*"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            assert hashlib.file_digest(file, path.parent.name).hexdigest() == path.name


def no_process_is_left(session: int) -> None:
    """Of a daemon that led the session `session` and died, no descendant lives on."""
    wait_until(lambda: not processes_of(session), f"all processes of session {session} end")


def processes_of(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit():
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code


def all_durable(daemon: Daemon) -> None:
    """Wait until the daemon has marked all that it holds as being on the disk."""
    path = daemon.root / "metadata.db"
    query = "SELECT (SELECT count(*) FROM blobs WHERE NOT durable AND state='present') + "
    query += "(SELECT count(*) FROM snapshots WHERE NOT durable AND chain_id IS NOT NULL)"

    def marked() -> bool:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchone() == (0,)

    wait_until(marked, "all rows are marked durable", daemon.process)
