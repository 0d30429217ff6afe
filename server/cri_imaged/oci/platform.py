"""Platforms and their matching, as containerd's `platforms` package does it.

A platform is `os/architecture[/variant]`, in Go's names. Architecture and variant are normalised
(`x86_64` → `amd64`, `aarch64` → `arm64` with variant `v8` dropped, `armhf` → `arm/v7`), the
kernel's names of machines (`uname -m`) too: `loongarch64` → `loong64`, `armv5tel` → `arm/v5`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from cri_imaged.errors import InvalidRequestError

_ARCHITECTURES = {
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "aarch64_be": "arm64be",
    "armhf": "arm",
    "armel": "arm",
    "loongarch64": "loong64",
    "riscv32": "riscv",
}
_IMPLIED_VARIANTS = {"armhf": "v7", "armel": "v6"}
_ARM = re.compile(r"armv([3-8])[a-z]*?(b?)")
"""The kernel's names: version, extensions, `l` or `b` for the order of bytes."""
_VARIANTS = {
    "arm": {"5": "v5", "6": "v6", "7": "v7", "8": "v8", "": "v7"},
    "arm64": {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"},
    "amd64": {"v1": ""},
}


@dataclass(frozen=True, slots=True)
class Platform:
    """A normalised platform."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    implied: bool = field(default=False, compare=False)
    """Whether the variant was not said, but is what the name alone means."""

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "", os_version: str = "") -> Platform:
        """Normalise the parts as an image's index or config gives them, or the kernel."""
        normal = raw = architecture.lower()
        given = variant.lower()
        if kernel := _ARM.fullmatch(raw):
            version, big = kernel.groups()
            normal = "armbe" if big else "arm"
            given = given or f"v{version}"
        else:
            normal = _ARCHITECTURES.get(raw, raw)
            given = given or _IMPLIED_VARIANTS.get(raw, "")
        told = _VARIANTS.get(normal, {}).get(given, given)
        return cls(os.lower(), normal, told, os_version, implied=not given)

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
        machine = uname.machine
        if machine in ("mips", "mips64") and sys.byteorder == "little":
            machine += "le"
        return cls.of(uname.sysname, machine)

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

    `arm` without a variant means v7; as images for older machines leave it out too, any of these
    takes it where nothing else fits. An entry without a platform matches only where nothing else
    does (its config decides later).
    """
    for candidate in acceptable(wanted):
        for position, platform in enumerate(offered):
            if platform is not None and _same(platform, candidate):
                return position
    for position, platform in enumerate(offered):
        if platform is not None and platform.implied and _same_arm(platform, wanted):
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


def _same_arm(offered: Platform, wanted: Platform) -> bool:
    return wanted.architecture == "arm" and (offered.os, offered.architecture) == (wanted.os, "arm")
