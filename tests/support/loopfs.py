"""Small ext4 file systems in loop devices: to be filled up, and to lose their power."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.support.process import wait_until
from tests.support.require import require_real

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


class LoopFileSystem:
    """One ext4 file system, mounted on a directory while the context lasts."""

    def __init__(
        self, image: Path, mount_point: Path, megabytes: int, *, inodes: int = 0, options: str = ""
    ) -> None:
        """`inodes`: how many there are (0: as mkfs thinks). `options` are mount's."""
        self.mount_point = mount_point
        self._first = self._image = image
        self._options = ",".join(filter(None, ("loop", options)))
        self._size = megabytes << 20
        self._inodes = inodes

    def __enter__(self) -> Self:
        require_real(os.geteuid() == 0, "only root can mount")
        require_real(shutil.which("mkfs.ext4") is not None, "mkfs.ext4 is not installed")
        require_real(Path("/dev/loop-control").exists(), "there are no loop devices")
        with self._image.open("wb") as file:
            file.truncate(self._size)
        command = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"]
        command += ["-N", str(self._inodes)] if self._inodes else []
        subprocess.run([*command, str(self._image)], check=True)
        self.mount_point.mkdir(exist_ok=True)
        self._mount()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.mount_point.is_mount():
            self.unmount()
        self._image.unlink()

    def restart(self) -> None:
        """After a power cut: mount what the disk holds, which replays its journal. It is a copy
        of the disk, as somebody's mount namespace may keep the dead file system for a while."""
        self.unmount()
        old, self._image = self._image, self._first.with_suffix(f".{uuid.uuid4().hex}")
        subprocess.run(["cp", "--sparse=always", str(old), str(self._image)], check=True)
        old.unlink()
        self._mount()

    def _mount(self) -> None:
        command = ["mount", "-o", self._options, str(self._image), str(self.mount_point)]
        subprocess.run(command, check=True, capture_output=True)

    def unmount(self) -> None:
        """Unmount it as soon as nobody uses it any more."""
        wait_until(self._unmounted, f"{self.mount_point} is not in use any more")

    def cut_power(self) -> None:
        """Nothing reaches the disk from now on, not even what the journal holds in memory."""
        fd = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def turn_read_only(self) -> None:
        """As the kernel does after an error of the disk (mount option `errors=remount-ro`)."""
        device = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(self.mount_point)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("test\n")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever writes to it stands still."""
        subprocess.run(["fsfreeze", "-f", str(self.mount_point)], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "-u", str(self.mount_point)], check=True)

    def free(self) -> int:
        """Bytes."""
        info = os.statvfs(self.mount_point)
        return info.f_bavail * info.f_frsize

    def fill_up_to(self, path: Path, left: int) -> None:
        """Let `path` on it take all its space but `left` bytes."""
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free() - left))

    def free_inodes(self) -> int:
        return os.statvfs(self.mount_point).f_favail

    def _unmounted(self) -> bool:
        run = subprocess.run(["umount", str(self.mount_point)], capture_output=True, check=False)
        return run.returncode == 0
