"""Layers as their merged tree, whatever each is kept in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from cri_imaged.errors import LimitExceededError
from cri_imaged.oci.layer_path import components

D = TypeVar("D")

_HELD = 256
"""Directories that are kept between look-ups, beside those of the last one."""


class _Level(NamedTuple, Generic[D]):
    path: tuple[bytes, ...]
    directories: list[D]


class Merged(ABC, Generic[D]):
    """The directories of layers, topmost first, that are merged at a path."""

    def __init__(self, limit: int | None = None) -> None:
        """At most `limit` directories are entered in all."""
        self._left = limit
        self._levels: list[_Level[D]] = []

    def __enter__(self) -> Merged[D]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let all go."""
        while self._levels:
            self._let_go(self._levels.pop().directories)

    def directory(self, path: bytes) -> D | None:
        """The topmost layer's part of the directory `path`; None where there is no directory.
        Good until the next look-up."""
        directories = self._enter(components(path))
        return directories[0] if directories else None

    @abstractmethod
    def _roots(self) -> list[D]:
        """Those of all layers."""

    @abstractmethod
    def _child(self, directory: D, name: bytes) -> D | None:
        """A directory in another one; None where nothing is there. Raises `NotADirectoryError` for
        anything else: it hides what is below."""

    @abstractmethod
    def _is_opaque(self, directory: D) -> bool:
        """Whether it hides those below it."""

    @abstractmethod
    def _let_go(self, directories: Sequence[D]) -> None:
        """They are not needed any more."""

    def _enter(self, path: tuple[bytes, ...]) -> list[D]:
        """The directories that are merged at `path`, topmost first."""
        while self._levels and path[: len(self._levels[-1].path)] != self._levels[-1].path:
            self._let_go(self._levels.pop().directories)
        if not self._levels:
            self._push((), self._roots())
        for depth in range(len(self._levels[-1].path), len(path)):
            self._push(path[: depth + 1], self._descend(path[depth]))
        return self._levels[-1].directories

    def _push(self, path: tuple[bytes, ...], directories: list[D]) -> None:
        self._levels.append(_Level(path, directories))
        if sum(len(level.directories) for level in self._levels) > _HELD:
            for level in self._levels[:-1]:
                self._let_go(level.directories)
            del self._levels[:-1]

    def _descend(self, name: bytes) -> list[D]:
        below: list[D] = []
        try:
            for directory in self._levels[-1].directories:
                self._spend()
                try:
                    child = self._child(directory, name)
                except NotADirectoryError:
                    break  # a file, a link or a whiteout hides what is below
                if child is None:
                    continue
                below.append(child)
                if self._is_opaque(child):
                    break
        except BaseException:
            self._let_go(below)
            raise
        return below

    def _spend(self) -> None:
        if self._left is None:
            return
        if not self._left:
            raise LimitExceededError(
                "the layer's directories are in too many of the layers below (seal_directories)"
            )
        self._left -= 1
