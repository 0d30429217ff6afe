"""A proxy snapshotter: overlay directories behind containerd's snapshots API. It has layers by
itself, as those have that fetch lazily, and can be told to misbehave."""

from __future__ import annotations

import subprocess
import threading
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import grpc
from google.protobuf.empty_pb2 import Empty

from cri_imaged.rpc.containerd.snapshots import snapshots_pb2 as api
from cri_imaged.rpc.containerd.snapshots import snapshots_pb2_grpc
from cri_imaged.rpc.containerd.types import types_pb2 as types

REF = "containerd.io/snapshot.ref"
LAYER_DIGEST = "containerd.io/snapshot/cri.layer-digest"


@dataclass
class Kept:
    """One snapshot."""

    place: Path
    kind: Any
    parent: str
    labels: dict[str, str]


@dataclass
class ProxySnapshotter(snapshots_pb2_grpc.SnapshotsServicer):
    """Use as a context manager: it serves."""

    directory: Path
    claims: dict[str, bytes] = field(default_factory=dict)
    """Layers' digests, and the archives that it has of them, without whiteouts."""
    fault: str = ""
    """`hang`, `outside` (mounts of another directory), `lie` (has what it does not have)."""
    kept: dict[str, Kept] = field(default_factory=dict)
    prepared: list[dict[str, str]] = field(default_factory=list)
    """The labels of each Prepare."""

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)
        self._count = 0
        self._lock = threading.Lock()
        self._released = threading.Event()

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        snapshots_pb2_grpc.add_SnapshotsServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        self._server.stop(0).wait()

    @property
    def root(self) -> Path:
        return self.directory / "snapshots"

    @property
    def socket(self) -> Path:
        return self.directory / "proxy.sock"

    # --- containerd's API -------------------------------------------------------------------

    def Prepare(self, request: Any, context: Any) -> Any:  # noqa: N802
        labels = dict(request.labels)
        self.prepared.append(labels)
        if self.fault == "hang":
            self._released.wait(300)
        chain, archive = labels.get(REF), self.claims.get(labels.get(LAYER_DIGEST, ""))
        if chain and self.fault == "lie":
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "here it is")
        if chain and archive is not None:
            kept = self._make(chain, request.parent, api.COMMITTED, labels, context)
            _extract(archive, kept.place / "fs")
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "here it is")
        self._make(request.key, request.parent, api.ACTIVE, labels, context)
        return api.PrepareSnapshotResponse(mounts=self._mounts(request.key))

    def View(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._make(request.key, request.parent, api.VIEW, dict(request.labels), context)
        return api.ViewSnapshotResponse(mounts=self._mounts(request.key))

    def Mounts(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._require(request.key, context)
        return api.MountsResponse(mounts=self._mounts(request.key))

    def Commit(self, request: Any, context: Any) -> Any:  # noqa: N802
        kept = self._require(request.key, context)
        if request.name in self.kept:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, request.name)
        kept.kind, kept.labels = api.COMMITTED, dict(request.labels)
        self.kept[request.name] = self.kept.pop(request.key)
        return Empty()

    def Remove(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._require(request.key, context)
        if any(each.parent == request.key for each in self.kept.values()):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{request.key} has children")
        place = self.kept.pop(request.key).place
        subprocess.run(["rm", "-rf", place], check=True)
        return Empty()

    def Stat(self, request: Any, context: Any) -> Any:  # noqa: N802
        kept = self._require(request.key, context)
        return api.StatSnapshotResponse(info=_info(request.key, kept))

    def Usage(self, request: Any, context: Any) -> Any:  # noqa: N802
        kept = self._require(request.key, context)
        found = [path.lstat() for path in (kept.place / "fs").rglob("*")]
        return api.UsageResponse(
            size=sum(each.st_blocks * 512 for each in found), inodes=len(found)
        )

    def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        yield api.ListSnapshotsResponse(info=[_info(*each) for each in list(self.kept.items())])

    # --- what it does -----------------------------------------------------------------------

    def _make(
        self, name: str, parent: str, kind: Any, labels: dict[str, str], context: Any
    ) -> Kept:
        if name in self.kept:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, name)
        if parent:
            self._require(parent, context)
        with self._lock:
            self._count += 1
            kept = Kept(self.root / str(self._count), kind, parent, labels)
        (kept.place / "fs").mkdir(parents=True)
        (kept.place / "work").mkdir()
        self.kept[name] = kept
        return kept

    def _require(self, name: str, context: Any) -> Kept:
        if name not in self.kept:
            _not_found(context, name)
        return self.kept[name]

    def _lower(self, name: str) -> list[Path]:
        """The layers below, topmost first."""
        parent = self.kept[name].parent
        return [self.kept[parent].place / "fs", *self._lower(parent)] if parent else []

    def _mounts(self, name: str) -> list[types.Mount]:
        kept, lower = self.kept[name], list(map(str, self._lower(name)))
        own = f"{kept.place}/fs" if self.fault != "outside" else "/etc"
        if kept.kind == api.ACTIVE and not lower:
            return [types.Mount(type="bind", source=own, options=["rbind", "rw"])]
        if kept.kind == api.VIEW and len(lower) < 2:
            source = lower[0] if lower else own
            return [types.Mount(type="bind", source=source, options=["rbind", "ro"])]
        options = [f"lowerdir={':'.join(lower)}"]
        if kept.kind == api.ACTIVE:
            options += [f"upperdir={own}", f"workdir={kept.place}/work"]
        return [types.Mount(type="overlay", source="overlay", options=options)]


def _info(name: str, kept: Kept) -> api.Info:
    return api.Info(name=name, parent=kept.parent, kind=kept.kind, labels=kept.labels)


def _not_found(context: Any, name: str) -> NoReturn:
    context.abort(grpc.StatusCode.NOT_FOUND, f"snapshot {name} does not exist")
    raise AssertionError


def _extract(blob: bytes, place: Path) -> None:
    """A layer without whiteouts, by GNU tar."""
    options = ["--gzip", "--extract", "--same-permissions", "--numeric-owner", "--xattrs"]
    subprocess.run(
        ["tar", *options, "--xattrs-include=*", "--directory", place], input=blob, check=True
    )
