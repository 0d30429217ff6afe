"""What mounts a proxy may give, decided from the values alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cri_imaged.errors import ProxyFailedError, UnsupportedContentError
from cri_imaged.ports import Mount

_FLAGS = frozenset(
    {
        *("bind", "rbind", "ro", "rw", "nodev", "noexec", "nosuid", "noatime", "relatime"),
        *("userxattr", "volatile", "metacopy=on", "metacopy=off", "index=on", "index=off"),
        *("redirect_dir=on", "redirect_dir=off", "redirect_dir=follow", "redirect_dir=nofollow"),
        *("xino=on", "xino=off", "xino=auto"),
    }
)
_PATHS = ("lowerdir", "upperdir", "workdir")


class Writable(NamedTuple):
    """Where a layer is applied."""

    layer: Path
    lower: Sequence[Path]
    """The layers below, topmost first."""


def judged(mounts: Sequence[Mount], root: Path, name: str) -> Sequence[Mount]:
    """`mounts` where proxy `name` may give them out: one bind or overlay mount of directories below
    `root`.

    Raises:
        ProxyFailedError: it may not; says why.
    """
    if len(mounts) != 1:
        raise ProxyFailedError(f"proxy snapshotter {name}: gives {len(mounts)} mounts, not one")
    (mount,) = mounts
    if mount.type not in ("bind", "overlay"):
        raise ProxyFailedError(
            f"proxy snapshotter {name}: gives a mount of type {mount.type[:100]!r}; only bind and "
            "overlay are taken"
        )
    paths = [mount.source] if mount.type == "bind" else []
    for option in mount.options:
        key, _, value = option.partition("=")
        if mount.type == "overlay" and key in _PATHS:
            paths += value.split(":")
        elif option not in _FLAGS:
            raise ProxyFailedError(
                f"proxy snapshotter {name}: gives a mount with the option {option[:100]!r}"
            )
    for path in paths:
        if os.path.normpath(path) != path or not Path(path).is_relative_to(root):
            raise ProxyFailedError(
                f"proxy snapshotter {name}: gives a mount of {path[:200]!r}, which is not below "
                f"{root} (its `root`)"
            )
    return mounts


def writable(mounts: Sequence[Mount], parent: str, name: str) -> Writable:
    """Where a layer on top of `parent` ("" for none) is applied, of `judged` mounts.

    Raises:
        UnsupportedContentError: layers cannot be applied into such a one.
    """
    (mount,) = mounts
    options = dict(option.partition("=")[::2] for option in mount.options)
    if mount.type == "overlay" and "upperdir" in options:
        lower = [Path(path) for path in options.get("lowerdir", "").split(":") if path]
        return Writable(Path(options["upperdir"]), lower)
    if mount.type == "bind" and not parent and "ro" not in options:
        return Writable(Path(mount.source), ())
    raise UnsupportedContentError(
        f"proxy snapshotter {name} gives a {mount.type} mount for a layer to be unpacked into; an "
        "overlay's upper directory can be filled, and a directory where there is no layer below"
    )
