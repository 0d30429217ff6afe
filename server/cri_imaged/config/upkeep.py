"""Keys of what the node does by itself: what it brings in, how fast, and what it lets go."""

from __future__ import annotations

import msgspec

from cri_imaged.config.values import (
    ByteSize,
    Directory,
    Duration,
    ImageName,
    PinnedImage,
    TimeOfDay,
    joined,
)
from cri_imaged.daytimes import is_within
from cri_imaged.registry.options import refuse_contradictions


class BandwidthTime(msgspec.Struct, frozen=True, kw_only=True):
    """`[[image.bandwidth.times]]`: another cap for a part of the day."""

    begin: TimeOfDay = TimeOfDay(8 * 60)
    """From when, by the local clock."""
    end: TimeOfDay = TimeOfDay(18 * 60)
    """Until when; over midnight where it is before `begin`."""
    bytes_per_second: ByteSize = ByteSize(0)
    """In place of `image.bandwidth.bytes_per_second`; 0: no cap. Of several that hold at a time
    the first counts."""


class BandwidthOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[image.bandwidth]`: how much may come from registries. It is shared fairly among pulls;
    those of clients go before prefetches, and these before repairs."""

    bytes_per_second: ByteSize = ByteSize(0)
    """Bytes a second of all registries together; 0: no cap."""
    registries: dict[str, ByteSize] = {}
    """Bytes a second of single hosts, by host (and port, where it is not the default), wherever
    they redirect to. A mirror is a host of its own."""
    times: list[BandwidthTime] = []

    def __post_init__(self) -> None:
        for name in self.registries:
            if not name or "/" in name:
                raise ValueError(
                    f"{joined('registries', name)}: is no host, want for example ghcr.io"
                )
        refuse_contradictions("registries", self.registries)

    def at(self, minute: int) -> int:
        """The cap for all registries at a minute of the day."""
        for each in self.times:
            if is_within(each.begin, each.end, minute):
                return each.bytes_per_second
        return self.bytes_per_second


class PreloadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[image.preload]`: images that the node has before anybody asks for them."""

    directory: Directory | None = None
    """Folder of archives of images, `.tar`, `.tar.gz`, `.tgz` or `.tar.zst`, that are imported at
    the start and when they appear; nobody but root and the daemon's user may write there. Empty:
    none."""
    images: list[ImageName] = []
    """Images that are pulled with the node's own credentials where they are missing, after pulls
    of clients, and again and again until that succeeds."""
    refresh: list[TimeOfDay] = []
    """Times of day, by the local clock, at which all of `images` are pulled again: tags may have
    moved. Empty: never."""
    jitter: Duration = Duration(60.0)
    """Each round of pulls begins later by up to this, by chance, so that not all nodes ask a
    registry at once."""
    pinned: bool = True
    """Whether the kubelet's garbage collection leaves alone what is preloaded: `images`, and what
    archives brought that are in the folder still."""
    runtime_handlers: list[str] = []
    """Runtime handlers, by their names in [image.runtime_platforms], that all of it is brought in
    for besides the default one."""
    ready: bool = False
    """Whether /readyz waits until each archive and image has been brought in, or has failed once.
    The daemon serves meanwhile."""


class GcOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[image.gc]`: which images the node removes by itself, once an hour. Neither what is pinned,
    mounted or under a container, nor what was used or pulled in the last ten minutes, nor
    `image.preload.images` are ever removed."""

    max_age: Duration = Duration(0.0)
    """Images that were neither used nor pulled for longer are removed; 0s: none."""
    max_bytes: ByteSize = ByteSize(0)
    """Where images take more of the disk, those that were used longest ago are removed; 0: none."""
    keep: list[PinnedImage] = []
    """Names or patterns, as in `image.pinned_images`, of images that stay."""
    keep_imported: bool = True
    """Whether images that came from an archive, and not from a registry, stay."""

    def __post_init__(self) -> None:
        if 0 < self.max_age < 600:
            raise ValueError("max_age: is below 10m, pods that start would lose their images")
