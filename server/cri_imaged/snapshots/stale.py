"""Which views nobody has mounted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from cri_imaged.mounting import MountInfo
from cri_imaged.ports import Mount, View


def stale_views(mounted: Sequence[MountInfo], views: Sequence[View]) -> list[str]:
    """Keys of `views` that are not mounted in the mount namespace that `mounted` lists.

    Read-only views of one snapshot cannot be told apart: where one is mounted, none is stale. Nor
    is one whose mounts are not known. Mounts in other namespaces are not seen.
    """
    overlays = [_layers(options.options) for options in mounted if options.type == "overlay"]
    # A layer may be mounted itself, which shows no view.
    sources = {mount.source for view in views for mount in view.mounts}
    places = {(mount.device, mount.root) for mount in mounted if mount.mount_point not in sources}
    known = [view for view in views if view.mounts]
    return [
        view.key
        for view in known
        if not any(_is_mounted(mount, mounted, overlays, places) for mount in view.mounts)
    ]


def _is_mounted(
    mount: Mount,
    mounted: Sequence[MountInfo],
    overlays: Sequence[tuple[str, str]],
    places: set[tuple[str, str]],
) -> bool:
    if mount.type == "overlay":
        wanted = _layers(mount.options)
        return any(all(map(_same, shown, wanted)) for shown in overlays)
    return _within_file_system(mount.source, mounted) in places


def _layers(options: Sequence[str]) -> tuple[str, str]:
    """The topmost lower layer and the upper one, empty where there is none."""
    lower = next(_values(options, "lowerdir", "lowerdir+"), "")
    return lower.partition(":")[0], next(_values(options, "upperdir"), "")


def _values(options: Sequence[str], *keys: str) -> Iterator[str]:
    for option in options:
        key, _, value = option.partition("=")
        if key in keys:
            yield value


def _same(shown: str, wanted: str) -> bool:
    """Whether two paths are the same; the kernel shows one as it was given, maybe relative."""
    if not shown or not wanted or shown.startswith("/"):
        return shown == wanted
    return wanted.endswith(f"/{shown}")


def _within_file_system(path: str, mounted: Sequence[MountInfo]) -> tuple[str, str] | None:
    """The device that holds `path`, and the path from its file system's root."""
    best: tuple[MountInfo, PurePosixPath] | None = None
    for mount in mounted:
        try:
            relative = PurePosixPath(path).relative_to(mount.mount_point)
        except ValueError:
            continue
        if best is None or len(relative.parts) <= len(best[1].parts):
            best = mount, relative
    if best is None:
        return None
    return best[0].device, str(PurePosixPath(best[0].root) / best[1])
