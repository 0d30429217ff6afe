"""Where rooms put what is to be removed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Trash(Protocol):
    """Takes what is to be removed in the background."""

    def put(self, path: Path) -> None:
        """Move `path` out of sight. What is not there is ignored."""
        ...

    @property
    def waiting(self) -> int:
        """How many files and directories are still to be removed."""
        ...

    async def drain(self) -> None:
        """Wait until what was put so far has been removed, as far as it can be."""
        ...
