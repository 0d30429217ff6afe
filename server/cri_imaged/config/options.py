"""What can be configured. Keys with containerd's meaning keep containerd's name.

The string under each key is its description in `cri-imaged config default` and in
docs/configuration.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from cri_imaged.config.upkeep import BandwidthOptions, GcOptions, PreloadOptions
from cri_imaged.config.values import (
    AtMost,
    ByteSize,
    Directory,
    Duration,
    FilePath,
    ListenAddress,
    PinnedImage,
    RepositoryPrefix,
    SocketPath,
    joined,
)
from cri_imaged.limits import MIB, Limits
from cri_imaged.locations import SYSTEM_SOCKET
from cri_imaged.oci.pattern import NamePattern
from cri_imaged.oci.platform import Platform
from cri_imaged.oci.reference import Reference
from cri_imaged.registry.options import RegistryOptions

AtLeastOne: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
SnapshotterName: TypeAlias = Annotated[str, msgspec.Meta(pattern="^([a-z0-9][a-z0-9._-]{0,63})?$")]
OWN_SNAPSHOTTERS = ("overlay", "native", "erofs")

_PAUSE = Reference.parse("registry.k8s.io/pause:3.10.2")


class GrpcOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[grpc]`: where clients reach the daemon."""

    address: SocketPath = SocketPath(SYSTEM_SOCKET)
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
    """`host:port` that serves /metrics, /v1/metrics, /livez, /readyz and /healthz; empty: off."""
    page: bool = False
    """Whether the same address serves a page for people at /: running and last pulls, the store,
    problems, registries. It shows names of images and pods, so the address must be a loopback one,
    or the page has a socket of its own."""
    page_socket: SocketPath | None = None
    """Path of a Unix socket that serves the page in place of `address`, which may be the node's own
    then. It belongs to `grpc.uid` and `grpc.gid`; `ssh -L` brings it to a browser. Empty: none."""
    containerd_names: tuple[Literal["1.7", "2"], ...] = ("1.7",)
    """Whose names containerd's metrics have: "1.7" (containerd_cri_*), "2" (containerd 2.x',
    containerd_cri_sandboxed_*), or both."""
    registries: tuple[str, ...] = ()
    """Registries, by host, that metrics tell apart, besides those that have a folder in
    image.registry.config_path. All others are `other`; at most 100."""

    def __post_init__(self) -> None:
        if self.page_socket and not self.page:
            raise ValueError("page_socket: serves the page alone, want page = true")
        local = self.page_socket or (self.address and self.address.is_loopback)
        if self.page and not local:
            raise ValueError(
                "page: shows names of images and pods, goes with a page_socket or a loopback "
                'address alone, such as address = "127.0.0.1:9091"'
            )


class TracingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[tracing]`: pulls as traces of OpenTelemetry; needs `cri-imaged[tracing]`."""

    endpoint: str = ""
    """URL that takes OTLP over HTTP, with its path: `http://collector:4318/v1/traces`. Empty: where
    OTEL_EXPORTER_OTLP_ENDPOINT says, else no traces. The SDK's other variables count as well."""


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


class PolicyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[[image.verification.policy]]`: what the images of a registry, or of some of its
    repositories, need to be pulled."""

    match: RepositoryPrefix = RepositoryPrefix("*")
    """Registry, or registry and the begin of a path by whole components: `docker.io/library`. The
    longest that fits counts; `*` is for all others. Without any that fits an image needs nothing.
    """
    require: Literal["accept", "reject", "signed"] = "reject"
    """accept: nothing. reject: it is not pulled. signed: a signature by one of `keys`."""
    keys: list[FilePath] = []
    """Files of public keys in PEM, read for each pull: ECDSA, RSA or Ed25519, as cosign makes."""

    def __post_init__(self) -> None:
        if (self.require == "signed") != bool(self.keys):
            raise ValueError('keys: go with require = "signed", and that with one key at least')


class VerificationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[image.verification]`: which images may be pulled."""

    bin_dir: Directory = Directory(Path("/opt/containerd/image-verifier/bin"))
    """Folder of programs that are asked about each image, by containerd's protocol; all have to
    accept. Where it is empty or not there, nobody is asked."""
    max_verifiers: AtMost = AtMost(10)
    """Of these programs the first so many by name are asked; -1: all."""
    per_verifier_timeout: Duration = Duration(10.0)
    """A program that takes longer rejects the image."""
    policy: list[PolicyOptions] = []

    def __post_init__(self) -> None:
        matches = [each.match for each in self.policy]
        for match in matches:
            if matches.count(match) > 1:
                raise ValueError(f'two policies match "{match}"')


class DecryptionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[image.image_decryption]`: what encrypted layers (ocicrypt) are decrypted by."""

    key_model: Literal["", "node"] = "node"
    """node: by what this node has, whoever pulls; read for each pull of an encrypted image. Empty:
    such images are refused."""
    keys_path: Directory = Directory(Path("/etc/containerd/ocicrypt/keys"))
    """Folder of private keys in PEM, RSA or EC, for JWE; the pass-phrase of NAME is in NAME.pass.
    """
    keyprovider_config: FilePath = FilePath(
        Path("/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf")
    )
    """Key providers, in the format of the file that OCICRYPT_KEYPROVIDER_CONFIG names."""


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[image]`: pulling and keeping images."""

    snapshotter: SnapshotterName = ""
    """overlay, native, erofs or one of `[proxy_snapshotters]`; empty: overlay where a trial mount
    works, else native. erofs keeps each layer as one file, an image of a file system."""
    erofs_loop_devices: bool = False
    """Whether the erofs snapshotter mounts by loop devices what this kernel could mount from
    files."""
    max_concurrent_downloads: AtLeastOne = 3
    """Layers of one image that are downloaded at the same time."""
    max_concurrent_unpacks: int = 0
    """Downloaded layers that are unpacked at the same time in the whole daemon; 0: one for each
    CPU. Layers that still arrive are unpacked besides, up to four times as many."""
    image_pull_progress_timeout: Duration = Duration(300.0)
    """A pull that waits for a registry and gets not a byte for this long ends; 0s: never."""
    image_pull_with_sync_fs: bool = False
    """Whether a pull answers only when all it wrote is on the disk for good."""
    discard_unpacked_layers: bool = False
    """Whether a layer's compressed blob is dropped once its snapshot is safe on the disk."""
    stats_collect_period: AtLeastOne = 10
    """Seconds between two measurements of the disk space that images take."""
    disk_reserve: ByteSize = ByteSize(128 * MIB)
    """Disk space that pulls leave free, with 5 % of the inodes, while they fetch and unpack: of
    those that would together go below, the one that took most ends."""
    trust_store: bool = False
    """Whether a pull may use every layer that is here, from wherever it came, without asking its
    own registry for it: fewer requests, but who may pull any image at all reads each layer of this
    node whose digest he knows."""
    enable_schema1: bool = False
    """Whether Docker schema 1 manifests, which nobody should push any more, are converted to images
    when they are pulled."""
    pinned_images: dict[str, PinnedImage] = msgspec.field(
        default_factory=lambda: {"sandbox": _PAUSE}
    )
    """Images, by a name of your choice, that the kubelet's garbage collection leaves alone; the
    one called `sandbox` is the pause image. A name with `*`, `?` or `[` in it is a pattern of
    whole names (`registry.example/team/*`, `docker.io/library/busybox:*`); `*` passes over `/`."""
    registry: RegistryOptions = RegistryOptions()
    verification: VerificationOptions = VerificationOptions()
    image_decryption: DecryptionOptions = DecryptionOptions()
    preload: PreloadOptions = PreloadOptions()
    bandwidth: BandwidthOptions = BandwidthOptions()
    gc: GcOptions = GcOptions()
    runtime_platforms: dict[str, RuntimePlatform] = {}
    limits: Limits = msgspec.field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in self.preload.runtime_handlers:
            if name and name not in self.runtime_platforms:
                raise ValueError(
                    f"preload.runtime_handlers: {name!r} has no table "
                    "[image.runtime_platforms.NAME], which may be empty"
                )

    @property
    def pins(self) -> list[Reference | NamePattern]:
        """What is pinned."""
        preloaded = self.preload.images if self.preload.pinned else []
        return [*self.pinned_images.values(), *preloaded]

    @property
    def required_images(self) -> dict[str, Reference]:
        """The pinned images that have a whole name: those that a node cannot do without."""
        return {
            use: pinned
            for use, pinned in self.pinned_images.items()
            if isinstance(pinned, Reference)
        }


class ProxySnapshotter(msgspec.Struct, frozen=True, kw_only=True):
    """`[proxy_snapshotters.NAME]`: another program that keeps snapshots, by containerd's snapshots
    API v1, as stargz-snapshotter and nydus-snapshotter do. It is asked for NAME. It must be ours
    alone: not one that containerd uses as well."""

    address: SocketPath = SocketPath(
        Path("/run/containerd-stargz-grpc/containerd-stargz-grpc.sock")
    )
    """Its socket; the default is stargz-snapshotter's."""
    root: Directory = Directory(Path("/var/lib/containerd-stargz-grpc"))
    """Below which all directories are that it gives to be mounted; others are refused."""
    capabilities: tuple[Literal["remap-ids", "rebase"], ...] = ()
    """As in containerd's `proxy_plugins`, so that a table can be taken over. Both are ways of
    working that a proxy may offer, and need not be used."""


class ContainerdOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[runtime.containerd]`: containerd runs containers from our images. Absent: it does not."""

    address: SocketPath = SocketPath(Path("/run/containerd/containerd.sock"))
    """containerd's socket."""
    namespace: str = "k8s.io"
    """The namespace of containerd's that its CRI plugin uses."""
    snapshotter: str = "cri-imaged"
    """What containerd's configuration calls our proxy plugin. It stands for the default
    snapshotter; another one of ours is this name, `-` and that one's name."""


class ContainersStorageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[runtime.containers_storage]`: podman, buildah, skopeo and CRI-O read our images. Absent:
    they do not."""

    path: Directory = Directory(Path("/var/lib/cri-imaged/containers-storage"))
    """Where the additional image store is published; one of their `additionalimagestores`."""
    graph_root: Directory = Directory(Path("/var/lib/containers/storage"))
    """Where they keep their containers: what one of them uses is not withdrawn."""


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[runtime]`: the runtimes of this node that run containers from our images."""

    snapshots_address: SocketPath = SocketPath(Path("/run/cri-imaged/snapshots.sock"))
    """Path of the Unix socket that containerd reaches our snapshots by; root's alone. Served where
    `[runtime.containerd]` is there."""
    image_id_format: Literal["digest", "hex"] = "digest"
    """digest: image IDs are `sha256:` and 64 digits, as containerd's. hex: the digits alone, as
    CRI-O takes them."""
    containerd: ContainerdOptions | None = None
    containers_storage: ContainersStorageOptions | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration."""

    root: Directory = Directory(Path("/var/lib/cri-imaged"))
    """Directory of all persistent data: blobs, snapshots, metadata."""
    state: Directory = Directory(Path("/run/cri-imaged"))
    """Directory of what need not survive a reboot."""
    grpc: GrpcOptions = GrpcOptions()
    metrics: MetricsOptions = MetricsOptions()
    tracing: TracingOptions = TracingOptions()
    debug: DebugOptions = DebugOptions()
    image: ImageOptions = ImageOptions()
    proxy_snapshotters: dict[str, ProxySnapshotter] = {}
    runtime: RuntimeOptions = RuntimeOptions()

    def __post_init__(self) -> None:
        for name in self.proxy_snapshotters:
            if name in OWN_SNAPSHOTTERS or not name:
                raise ValueError(
                    f"{joined('proxy_snapshotters', name)}: is the name of a snapshotter of ours"
                )
        known = ("", *OWN_SNAPSHOTTERS, *self.proxy_snapshotters)
        platforms = self.image.runtime_platforms.items()
        chosen = {
            "image.snapshotter": self.image.snapshotter,
            **{
                f"image.runtime_platforms.{key}.snapshotter": each.snapshotter
                for key, each in platforms
            },
        }
        for key, name in chosen.items():
            if name not in known:
                listed = ", ".join(f'"{each}"' for each in known[1:])
                raise ValueError(
                    f"{key}: there is no snapshotter {name!r}, only {listed}; others are "
                    "configured in [proxy_snapshotters.NAME]"
                )
