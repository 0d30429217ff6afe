"""The images of layers that are mounted: each once, in a directory of its own, by its snapshot."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from cri_imaged import mounting
from cri_imaged.errors import LimitExceededError
from cri_imaged.loops import loop_device
from cri_imaged.ports import Mount
from cri_imaged.private import private_directory

_NOT_FROM_FILES = (errno.ENOTBLK, errno.EINVAL, errno.EOPNOTSUPP)
"""What a kernel answers that mounts no images from files, or none from that file system."""


class LayerMounts:
    """Mounts them under `directory`, which is not on the disk for good. Blocks."""

    def __init__(self, directory: Path, limit: int, *, loops: bool) -> None:
        """`limit`: of images that are mounted. `loops`: always by loop devices."""
        self._directory = directory
        self._limit = limit
        self._loops = loops
        self._lock = threading.Lock()

    def of(self, place: Path) -> Path:
        """Where the image in `place` is shown."""
        return self._directory / place.name

    def mount(self, images: Mapping[Path, Path]) -> None:
        """Mount images, given by their places, those that are not mounted yet.

        Raises:
            LimitExceededError: there would be too many.
            OSError: the kernel refused.
        """
        with self._lock:
            mounted = self._mounted()
            wanted = [place for place in images if str(self.of(place)) not in mounted]
            if len(mounted) + len(wanted) > self._limit:
                raise LimitExceededError(
                    f"{len(mounted)} layers are mounted, and {len(wanted)} more would be more than "
                    f"{self._limit} (mounted_layers): remove containers or views"
                )
            private_directory(self._directory)  # what is in it are programs of any user's
            for place in wanted:
                target = self.of(place)
                target.mkdir(mode=0o700, exist_ok=True)
                mount_image(images[place], target, loops=self._loops)

    def keep(self, places: Sequence[Path]) -> None:
        """Unmount all but those in `places`. A mount of overlay that shows one keeps it."""
        with self._lock:
            kept = {str(self.of(place)) for place in places}
            for target in self._mounted() - kept:
                mounting.unmount(Path(target), lazy=True)
            with contextlib.suppress(FileNotFoundError):
                for left in self._directory.iterdir():
                    if str(left) not in kept:
                        with contextlib.suppress(OSError):
                            left.rmdir()

    def _mounted(self) -> set[str]:
        below = f"{self._directory}/"
        return {
            info.mount_point for info in mounting.mounts() if info.mount_point.startswith(below)
        }


def mount_image(image: Path, target: Path, *, loops: bool = False) -> None:
    """Mount an image on `target`: from the file itself, or by a loop device where `loops` says so
    or the kernel cannot.

    Raises:
        OSError: the kernel refused.
    """
    if not loops:
        try:
            mounting.mount(Mount("erofs", str(image), ("ro",)), target)
            return
        except OSError as error:
            if error.errno not in _NOT_FROM_FILES:
                raise
    with loop_device(image) as device:
        mounting.mount(Mount("erofs", device, ("ro",)), target)
