"""Platforms and their matching, as containerd's `platforms` package does it.

A platform is `os/architecture[/variant]`. Architecture and variant are normalised (`x86_64` →
`amd64`, `aarch64` → `arm64` with variant `v8` dropped, `armhf` → `arm/v7`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cri_imaged.errors import InvalidRequestError

_ARCHITECTURES = {
    "i386": "386",
    "i686": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "armv8l": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
}
_IMPLIED_VARIANTS = {"armhf": "v7", "armv7l": "v7", "armel": "v6", "armv6l": "v6"}
_NUMERIC_VARIANTS = {"5": "v5", "6": "v6", "7": "v7", "8": "v8"}


@dataclass(frozen=True, slots=True)
class Platform:
    """A normalised platform."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "", os_version: str = "") -> Platform:
        """Normalise the parts as an image's index or config gives them."""
        raw = architecture.lower()
        normal = _ARCHITECTURES.get(raw, raw)
        variant = variant.lower() or _IMPLIED_VARIANTS.get(raw, "")
        variant = _NUMERIC_VARIANTS.get(variant, variant)
        if normal == "arm64" and variant == "v8":
            variant = ""
        if normal == "arm" and not variant:
            variant = "v7"
        if normal == "amd64" and variant == "v1":
            variant = ""
        return cls(os.lower(), normal, variant, os_version)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse `os/architecture[/variant]`. Raises `InvalidRequestError`."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise InvalidRequestError(
                f"platform {text!r} is malformed, want os/architecture[/variant]: linux/arm64"
            )
        return cls.of(*parts)

    @classmethod
    def host(cls) -> Platform:
        """The platform this process runs on."""
        uname = os.uname()
        return cls.of(uname.sysname, uname.machine)

    def __str__(self) -> str:
        parts = (self.os, self.architecture, self.variant)
        return "/".join(part for part in parts if part)


def acceptable(wanted: Platform) -> Sequence[Platform]:
    """The platforms that `wanted` can run, best first."""
    older: list[Platform] = [wanted]
    if wanted.architecture in {"arm", "amd64"} and wanted.variant[1:].isdigit():
        lowest = 5 if wanted.architecture == "arm" else 2
        for number in range(int(wanted.variant[1:]) - 1, lowest - 1, -1):
            older.append(Platform(wanted.os, wanted.architecture, f"v{number}"))
    if wanted.architecture == "amd64" and wanted.variant:
        older.append(Platform(wanted.os, "amd64"))
    if wanted.architecture == "arm64":
        if wanted.variant:
            older.append(Platform(wanted.os, "arm64"))
        older.extend(Platform(wanted.os, "arm", f"v{number}") for number in (8, 7, 6, 5))
    if wanted.architecture == "amd64":
        older.append(Platform(wanted.os, "386"))
    return older


def choose(wanted: Platform, offered: Sequence[Platform | None]) -> int | None:
    """The position of the best offered platform for `wanted`, the first among equals, or None.

    An entry without a platform matches only where nothing else does (its config decides later).
    """
    for candidate in acceptable(wanted):
        for position, platform in enumerate(offered):
            if platform is not None and _same(platform, candidate):
                return position
    for position, platform in enumerate(offered):
        if platform is None:
            return position
    return None


def _same(offered: Platform, wanted: Platform) -> bool:
    return (offered.os, offered.architecture, offered.variant) == (
        wanted.os,
        wanted.architecture,
        wanted.variant,
    )
