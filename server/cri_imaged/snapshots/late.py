"""Attributes that a layer gets when its tree is complete, from the daemon: it may set more than a
worker."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cri_imaged.full_disk import is_full
from cri_imaged.oci.layer_path import check_name
from cri_imaged.ports import ATTRIBUTE_REFUSED, Attributes, Late, Skipped
from cri_imaged.snapshots.opened import OVERLAY_XATTRS, WRITE
from cri_imaged.snapshots.stack import Found, Stack
from cri_imaged.snapshots.tasks import Check

_EVM = b"security.evm"
"""Signs the other attributes, and so comes last."""
_WORKING = 0o600


class LateAttributes:
    """Sets them, as far as permitted and supported here, and counts the rest."""

    def __init__(self) -> None:
        self._owners = self._xattrs = self._times = 0

    def set_all(self, layer: Path, late: Sequence[Late], check: Check) -> Skipped:
        """Set what `late` says of the tree `layer`. What is not there had to be skipped.

        Raises:
            CorruptContentError: a path that leads out of the layer.
            OSError: anything else that the disk answers.
        """
        for each in late:
            check_name(each.path)
        with Stack([layer], overlay=False, need=WRITE) as own:
            for each in late:
                check(own.close)
                found = own.find(each.path)
                if found is None:
                    self._xattrs += len(each.xattrs)
                else:
                    self._set(found, each)
        return Skipped(owners=self._owners, xattrs=self._xattrs, times=self._times)

    def _set(self, found: Found, late: Late) -> None:
        path = f"/proc/self/fd/{found.directory}/{os.fsdecode(found.name)}"
        is_link = stat.S_ISLNK(found.info.st_mode)
        attributes = late.attributes
        if attributes is not None:
            self._set_owner(path, found.info, attributes)
            if late.xattrs and not is_link:
                os.chmod(path, _WORKING)
        for name, value in sorted(late.xattrs, key=lambda xattr: xattr[0] == _EVM):
            self._set_xattr(path, name, value)
        if attributes is not None:
            if not is_link:
                os.chmod(path, attributes.mode)
            self._set_time(path, attributes)

    def _set_owner(self, path: str, info: os.stat_result, attributes: Attributes) -> None:
        if (info.st_uid, info.st_gid) == (attributes.uid, attributes.gid):
            return
        try:
            os.chown(path, attributes.uid, attributes.gid, follow_symlinks=False)
        except OSError as error:
            if error.errno not in ATTRIBUTE_REFUSED:
                raise
            self._owners += 1

    def _set_xattr(self, path: str, name: bytes, value: bytes) -> None:
        if os.fsdecode(name).startswith(OVERLAY_XATTRS):
            self._xattrs += 1
            return
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            # ext4 answers ENOSPC also where an inode's attributes do not fit into their one block.
            crowded = is_full(error) and os.statvfs(os.path.dirname(path)).f_bavail > 0
            if error.errno not in ATTRIBUTE_REFUSED and not crowded:
                raise
            self._xattrs += 1

    def _set_time(self, path: str, attributes: Attributes) -> None:
        mtime = attributes.seconds * 1_000_000_000 + attributes.nanoseconds
        try:
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
                raise
            self._times += 1
