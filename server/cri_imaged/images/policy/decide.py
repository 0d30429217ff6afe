"""Which images go: by age, then by size, longest unused first. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cri_imaged.oci.digest import Digest
from cri_imaged.oci.pattern import NamePattern
from cri_imaged.oci.reference import Reference

_YOUNG_SECONDS = 600.0
"""What was used or pulled since may be about to be used: a pod is on its way."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is configured; nothing is ever removed without."""

    max_age: float = 0.0
    """Seconds; 0: any."""
    max_bytes: int = 0
    """Of all images together; 0: any."""
    keep: Sequence[Reference | NamePattern] = ()
    keep_imported: bool = True

    @property
    def wanted(self) -> bool:
        """Whether anything may go by them."""
        return bool(self.max_age or self.max_bytes)

    def keeps(self, names: Sequence[str]) -> bool:
        """Whether an image of these names is on the list of those that stay."""
        return any(
            each.matches(name) if isinstance(each, NamePattern) else str(each) == name
            for each in self.keep
            for name in names
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image as it is here."""

    id: Digest
    handler: str
    names: tuple[str, ...]
    last_used: float
    """Unix seconds; when it was pulled, where it was not used since."""
    held: bool
    """Whether it is pinned, or something stands on it."""
    imported: bool
    parts: Mapping[str, int]
    """Bytes of what it needs, by what tells these apart: images share them."""


@dataclass(frozen=True, slots=True)
class Removal:
    """An image that goes."""

    image: Candidate
    reason: Literal["age", "size"]
    bytes: int
    """What its removal frees, after those before it."""


def decide(images: Sequence[Candidate], rules: Rules, now: float) -> Iterator[Removal]:
    """The images that go, in their order. `now`: Unix seconds."""
    users = Counter(part for image in images for part in image.parts)
    sizes = {part: size for image in images for part, size in image.parts.items()}
    total = sum(sizes.values())
    for image in sorted(images, key=lambda image: image.last_used):
        age = now - image.last_used
        too_old = bool(rules.max_age) and age > rules.max_age
        too_much = bool(rules.max_bytes) and total > rules.max_bytes
        if not (too_old or too_much) or _stays(image, rules, age):
            continue
        users.subtract(image.parts.keys())
        freed = sum(sizes[part] for part in image.parts if not users[part])
        total -= freed
        yield Removal(image, "age" if too_old else "size", freed)


def _stays(image: Candidate, rules: Rules, age: float) -> bool:
    return (
        image.held
        or age < _YOUNG_SECONDS
        or (image.imported and rules.keep_imported)
        or rules.keeps(image.names)
    )
