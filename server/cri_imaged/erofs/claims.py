"""Which parts of an image its structures are in: no two may be in the same place, as a change of
one would be a change of the other."""

from __future__ import annotations

from cri_imaged.erofs.format import BLOCK, SLOT, damaged

_SLOTS = BLOCK // SLOT


class Claims:
    """Places of structures, in slots as inodes have; some 100 bytes for each block of them."""

    def __init__(self) -> None:
        self._taken: dict[int, int] = {}
        """For each block a bit for each slot."""

    def take(self, address: int, size: int) -> None:
        """A structure of `size` bytes is at `address`.

        Raises:
            CorruptContentError: another one is there.
        """
        slot, end = address // SLOT, -(-(address + size) // SLOT)
        while slot < end:
            block, first = divmod(slot, _SLOTS)
            stop = min(first + end - slot, _SLOTS)
            slots = (1 << stop) - (1 << first)
            taken = self._taken.get(block, 0)
            if taken & slots:
                raise damaged("what it holds: two things are in one place, which")
            self._taken[block] = taken | slots
            slot += stop - first
