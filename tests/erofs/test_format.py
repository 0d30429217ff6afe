"""What the format cannot say is refused when it is to be written."""

from __future__ import annotations

import stat

import pytest

from cri_imaged.erofs.format import Inode, Stat, encode_inode

FILE = stat.S_IFREG | 0o644
_SECOND = 1_000_000_000


@pytest.mark.parametrize(
    "inode",
    [
        Inode(Stat(FILE, 0, 0, _SECOND << 63), 0),
        Inode(Stat(FILE, 0, 0, -(_SECOND << 63) - 1), 0),
        Inode(Stat(FILE, 1 << 32, 0, 0), 0),
        Inode(Stat(FILE, 0, 0, 0), 1 << 64),
        Inode(Stat(FILE, 0, 0, 0), 0, links=1 << 32),
        Inode(Stat(FILE, 0, 0, 0), -1),
    ],
)
def test_an_inode_that_says_more_than_it_can(inode: Inode) -> None:
    with pytest.raises(ValueError, match="not an inode"):
        encode_inode(inode, 0)
