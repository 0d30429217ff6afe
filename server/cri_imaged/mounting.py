"""Perform mounts of views in the caller's mount namespace, and read what is mounted there.

The kernel takes one page of option text, too little for many layers. Beyond it, names are given
relative to the directory that the layers share, and beyond that one by one (`lowerdir+`,
Linux 6.7).
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cri_imaged import libc
from cri_imaged.full_disk import is_full
from cri_imaged.ports import Mount

T = TypeVar("T")

_MS_RDONLY = 0x1
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000
_MS_REC = 0x4000
_FLAGS = {
    "ro": _MS_RDONLY,
    "nosuid": _MS_NOSUID,
    "nodev": _MS_NODEV,
    "rw": 0,
    "bind": _MS_BIND,
    "rbind": _MS_BIND | _MS_REC,
}
_MS_ATTRIBUTES = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
"""What a bind mount takes only when it is mounted again; fsmount(2) has the same numbers."""
_MNT_DETACH = 0x2
_UMOUNT_NOFOLLOW = 0x8
_CLONE_FS = 0x200
_SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 429, 430, 431, 432
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 0x1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_AT_FDCWD = -100
_LAYER_OPTIONS = ("lowerdir", "upperdir", "workdir")


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

    device: str
    """major:minor of the file system."""
    root: str
    """What of the file system is mounted."""
    mount_point: str
    type: str
    source: str
    options: tuple[str, ...]
    """Of the mount, then of the file system."""


def mount(what: Mount, target: Path) -> None:
    """Mount `what` on `target`.

    Raises:
        OSError: the kernel refused; names the target.
    """
    flags = 0
    data: list[str] = []
    for option in what.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        else:
            data.append(option)
    if what.type == "overlay" and len(",".join(data)) >= os.sysconf("SC_PAGE_SIZE"):
        _mount_large_overlay(what.source, target, flags, data)
        return
    _mount(what.source, target, what.type, flags, ",".join(data))
    if flags & _MS_BIND and flags & _MS_ATTRIBUTES:
        try:
            _mount("none", target, "", flags | _MS_REMOUNT, "")
        except OSError:
            unmount(target)
            raise


def unmount(target: Path, *, lazy: bool = False) -> None:
    """Unmount what is mounted on `target`; `lazy` when it is no longer in use.

    Raises:
        OSError: nothing is mounted there, it is in use, or that is not permitted.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    libc.checked(libc.lib.umount2(os.fsencode(target), flags), f"unmount {target}")


def mounts(path: Path = Path("/proc/self/mountinfo")) -> list[MountInfo]:
    """What is mounted in this mount namespace, in the order of mounting."""
    return parse_mountinfo(os.fsdecode(path.read_bytes()))


def parse_mountinfo(text: str) -> list[MountInfo]:
    """Parse the text of a mountinfo file. Lines that are not understood are left out."""
    found = []
    for line in text.split("\n"):  # a path may hold what else Python takes for a line's end
        mounted, separator, file_system = line.partition(" - ")
        fields, rest = mounted.split(" "), file_system.split(" ")
        if not separator or len(fields) < 6 or len(rest) < 3:
            continue
        found.append(
            MountInfo(
                device=fields[2],
                root=_unescape(fields[3]),
                mount_point=_unescape(fields[4]),
                type=rest[0],
                source=_unescape(rest[1]),
                options=tuple(_unescape(f"{fields[5]},{rest[2]}").split(",")),
            )
        )
    return found


def overlay_obstacle(directory: Path) -> str | None:
    """Why overlay cannot be used with layers in `directory`: None where a trial mount, with a
    whiteout and an opaque directory, shows what it should. The user ID does not matter."""
    if re.search(r"[:,\\\\]", str(directory)):
        return f"{directory} has a character that overlay's options cannot hold (: , \\\\)"
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".overlay-trial-") as trial:
            return _try_overlay(Path(trial))
    except OSError as error:
        # For want of room it cannot be tried: a full disk must not keep the daemon from its images.
        return None if is_full(error) else f"trial mount in {directory}: {error}"


def _try_overlay(trial: Path) -> str | None:
    lower, upper, merged = trial / "lower", trial / "upper", trial / "merged"
    for path in (lower / "opaque", upper / "opaque", merged):
        path.mkdir(parents=True)
    (lower / "opaque/below").touch()
    (lower / "gone").touch()
    os.mknod(upper / "gone", 0o600 | 0o020000, os.makedev(0, 0))
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    mount(Mount("overlay", "overlay", (f"lowerdir={upper}:{lower}",)), merged)
    try:
        shown = sorted(path.name for path in merged.rglob("*"))
    finally:
        unmount(merged, lazy=True)
    return None if shown == ["opaque"] else f"trial mount in {trial.parent} shows {shown}"


def _mount_large_overlay(source: str, target: Path, flags: int, data: Sequence[str]) -> None:
    paths: list[tuple[str, str]] = []
    others: list[str] = []
    for option in data:
        key, _, value = option.partition("=")
        if key in _LAYER_OPTIONS:
            paths.extend((key, path) for path in value.split(":"))
        else:
            others.append(option)
    base = os.path.commonpath([path for _, path in paths])
    relative = [(key, os.path.relpath(path, base)) for key, path in paths]
    text = ",".join([*_joined(relative), *others])
    target = target.absolute()

    def work() -> None:
        libc.checked(libc.lib.unshare(_CLONE_FS), "unshare the working directory")
        os.chdir(base)
        if len(text) < os.sysconf("SC_PAGE_SIZE"):
            _mount(source, target, "overlay", flags, text)
        else:
            _mount_by_parts(source, target, flags, relative, others)

    _in_own_thread(work)


def _joined(paths: Sequence[tuple[str, str]]) -> Iterator[str]:
    for key in _LAYER_OPTIONS:
        if values := [path for of, path in paths if of == key]:
            yield f"{key}={':'.join(values)}"


def _mount_by_parts(
    source: str,
    target: Path,
    flags: int,
    paths: Sequence[tuple[str, str]],
    others: Sequence[str],
) -> None:
    """One option at a time, by fsopen(2), fsconfig(2), fsmount(2) and move_mount(2)."""
    context = libc.syscall(_SYS_FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    try:
        _configure(context, "source", source)
        for key, path in paths:
            _configure(context, "lowerdir+" if key == "lowerdir" else key, path)
        for option in others:
            key, separator, value = option.partition("=")
            _configure(context, key, value if separator else None)
        libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        attributes = flags & _MS_ATTRIBUTES
        detached = libc.syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise OSError(
            error.errno, f"mount overlay on {target}: {_explain(context, error)}"
        ) from error
    finally:
        os.close(context)
    try:
        libc.syscall(
            _SYS_MOVE_MOUNT, detached, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
        )
    finally:
        os.close(detached)


def _configure(context: int, key: str, value: str | None) -> None:
    if value is None:
        libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_FLAG, key.encode(), None, 0)
    else:
        text = os.fsencode(value)
        libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), text, 0)


def _explain(context: int, error: OSError) -> str:
    """The kernel's own words about a failed configuration, one message a read."""
    messages = []
    with contextlib.suppress(OSError):
        while message := os.read(context, 4096):
            messages.append(message.decode(errors="replace").strip())
    return "; ".join(messages) or os.strerror(error.errno or 0)


def _mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    result = libc.lib.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(data) or None
    )
    libc.checked(result, f"mount {kind or source} on {target}")


def _in_own_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, whose working directory may become its own too."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="mounting")
    thread.start()
    thread.join()
    return result.result()


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
