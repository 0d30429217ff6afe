"""What images the kubelet's garbage collection leaves alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cri_imaged.oci.pattern import NamePattern
from cri_imaged.oci.reference import Reference


class Pins:
    """What is pinned: by the configuration, and by clients. An image is pinned by any of its names,
    so that pins outlast its removal, and a tag that moves takes its pin along."""

    def __init__(self, configured: Iterable[Reference | NamePattern] = ()) -> None:
        self.asked_for: frozenset[str] = frozenset()
        """The names that clients pinned."""
        self.preloaded: frozenset[str] = frozenset()
        """What the archives of the preload folder brought."""
        self.configure(configured)

    def configure(self, wanted: Iterable[Reference | NamePattern]) -> None:
        """Take over what the configuration pins now."""
        every = tuple(wanted)
        self._patterns = tuple(each for each in every if isinstance(each, NamePattern))
        self._names = frozenset(str(each) for each in every if isinstance(each, Reference))

    def configured(self, names: Collection[str]) -> bool:
        """Whether the configuration pins an image of these names."""
        fixed = self._names | self.preloaded
        return not fixed.isdisjoint(names) or any(
            pattern.matches(name) for pattern in self._patterns for name in names
        )

    def holds(self, names: Collection[str]) -> bool:
        """Whether an image of these names is pinned."""
        return not self.asked_for.isdisjoint(names) or self.configured(names)
