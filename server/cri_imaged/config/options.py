"""What can be configured. Keys with containerd's meaning keep containerd's name.

The string under each key is its description in `cri-imaged config default` and in the README.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from cri_imaged.config.values import ByteSize, Directory, Duration, ListenAddress, SocketPath
from cri_imaged.limits import MIB, Limits
from cri_imaged.oci.platform import Platform
from cri_imaged.oci.reference import Reference
from cri_imaged.registry.options import RegistryOptions

AtLeastOne: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
SnapshotterName: TypeAlias = Literal["", "overlay", "native"]

_PAUSE = Reference.parse("registry.k8s.io/pause:3.10")


class GrpcOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[grpc]`: where clients reach the daemon."""

    address: SocketPath = SocketPath(Path("/run/cri-imaged/cri-imaged.sock"))
    """Path of the Unix socket that CRI and our own Node service are served on."""
    uid: int = 0
    """Owner of the socket."""
    gid: int = 0
    """Group of the socket; its members may use it (mode 0660)."""
    max_recv_message_size: AtLeastOne = 16 * MIB
    """Bytes of the largest request that is accepted."""
    max_send_message_size: AtLeastOne = 16 * MIB
    """Bytes of the largest answer that is sent; CRI clients accept 16 MiB."""


class MetricsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[metrics]`: where Prometheus reaches the daemon."""

    address: ListenAddress | None = None
    """`host:port` that serves /metrics, /v1/metrics and /healthz; empty: off."""


class DebugOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[debug]`: the log, on standard error."""

    level: Literal["debug", "info", "warn", "error"] = "info"
    """The least severe level that is logged: debug, info, warn or error."""
    format: Literal["json", "console"] = "json"
    """json: an object on each line. console: for people."""


class RuntimePlatform(msgspec.Struct, frozen=True, kw_only=True):
    """`[image.runtime_platforms.NAME]`: what images pulled for runtime handler NAME are for."""

    platform: Platform | None = None
    """`os/architecture[/variant]`; empty: this machine's."""
    snapshotter: SnapshotterName = ""
    """The snapshotter for this handler's images; empty: the default one."""


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[image]`: pulling and keeping images."""

    snapshotter: SnapshotterName = ""
    """overlay or native; empty: overlay where a trial mount works, else native."""
    max_concurrent_downloads: AtLeastOne = 3
    """Layers of one image that are downloaded at the same time."""
    max_concurrent_unpacks: int = 0
    """Downloaded layers that are unpacked at the same time in the whole daemon; 0: one for each
    CPU. Layers that still arrive are unpacked besides, up to four times as many."""
    image_pull_progress_timeout: Duration = Duration(300.0)
    """A pull without any progress for this long is cancelled; 0s: never."""
    image_pull_with_sync_fs: bool = False
    """Whether a pull answers only when all it wrote is on the disk for good."""
    discard_unpacked_layers: bool = False
    """Whether a layer's compressed blob is dropped once its snapshot is safe on the disk."""
    stats_collect_period: AtLeastOne = 10
    """Seconds between two measurements of the disk space that images take."""
    disk_reserve: ByteSize = ByteSize(128 * MIB)
    """Disk space that pulls leave free: a pull that would go below is refused."""
    pinned_images: dict[str, Reference] = msgspec.field(default_factory=lambda: {"sandbox": _PAUSE})
    """Images, by a name of your choice, that the kubelet's garbage collection leaves alone."""
    registry: RegistryOptions = RegistryOptions()
    runtime_platforms: dict[str, RuntimePlatform] = {}
    limits: Limits = Limits()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration."""

    root: Directory = Directory(Path("/var/lib/cri-imaged"))
    """Directory of all persistent data: blobs, snapshots, metadata."""
    state: Directory = Directory(Path("/run/cri-imaged"))
    """Directory of what need not survive a reboot."""
    grpc: GrpcOptions = GrpcOptions()
    metrics: MetricsOptions = MetricsOptions()
    debug: DebugOptions = DebugOptions()
    image: ImageOptions = ImageOptions()
