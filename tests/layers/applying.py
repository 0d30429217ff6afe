"""Applying archives as root, and as an ordinary user, into directories, or as root into images.

Also a program, `python -m tests.layers.applying FILE`, which applies what FILE lists (JSON: a list
of [archive, media type, directory, limits]) and prints the outcomes; the tests run it as nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cri_imaged.errors import ImagedError
from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.ports import Applied, DirectoryTarget, ImageTarget, Target
from tests.layers.sources import Whole, described
from tests.support.require import require_real
from tests.support.unprivileged import CHECKOUT, as_nobody

SETTINGS = ("root", "ordinary user")
IMAGES = "images"
"""The third setting, of root's."""
PLAIN = media_types.OCI_LAYER


@dataclass(frozen=True)
class Outcome:
    """What became of one archive."""

    error: str
    """Name of the exception's class; empty where it was applied."""
    message: str
    skipped: tuple[int, int, int, int] = (0, 0, 0, 0)
    """owners, devices, xattrs, times"""
    usage: tuple[int, int] = (0, 0)
    whiteouts: tuple[bytes, ...] = ()
    opaques: tuple[bytes, ...] = ()
    implicit: tuple[bytes, ...] = ()
    links: tuple[tuple[bytes, bytes], ...] = ()
    devices: tuple[tuple[bytes, int, int, int], ...] = ()
    """name, mode, major, minor"""

    def accept(self) -> Outcome:
        """Fail unless it was applied."""
        assert not self.error, f"{self.error}: {self.message}"
        return self


Job = tuple[Path, str, Path]


def apply_all(
    setting: str, jobs: Sequence[Job], folder: Path, limits: Limits | None = None
) -> list[Outcome]:
    """Apply archives into empty directories, all in one pool."""
    chosen = limits or Limits()
    if setting in ("root", IMAGES):
        require_real(os.geteuid() == 0, "only root applies layers with all their attributes")
        kind = ImageTarget if setting == IMAGES else DirectoryTarget
        raw = asyncio.run(_apply_all(jobs, chosen, kind))
    else:
        raw = _as_ordinary_user(jobs, folder, chosen)
    return [_outcome(values) for values in raw]


def apply_one(setting: str, archive: bytes, folder: Path) -> tuple[Outcome, Path]:
    """Apply one plain archive; the outcome and the directory."""
    file, target = folder / "layer.tar", folder / "root"
    file.write_bytes(archive)
    make_target(target)
    return apply_all(setting, [(file, PLAIN, target)], folder)[0], target


def make_target(target: Path) -> None:
    """An empty directory that either user may fill."""
    target.mkdir()
    target.chmod(0o777)


def _as_ordinary_user(
    jobs: Sequence[Job], folder: Path, limits: Limits
) -> list[Mapping[str, object]]:
    given = folder / "jobs.json"
    given.write_text(
        json.dumps(
            {
                "limits": {name: getattr(limits, name) for name in limits.__struct_fields__},
                "jobs": [[str(part) for part in job] for job in jobs],
            }
        )
    )
    command = [sys.executable, "-m", "tests.layers.applying", str(given)]
    if os.geteuid() == 0:
        folder.chmod(0o755)
        for archive, _, target in jobs:
            archive.chmod(0o644)
            os.chown(target, 65534, 65534)
        command = as_nobody(command, folder)
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"applying as an ordinary user: {done.stderr}")
    answer: list[Mapping[str, object]] = json.loads(done.stdout)
    return answer


async def _apply_all(
    jobs: Sequence[Job], limits: Limits, kind: Callable[[Path], Target] = DirectoryTarget
) -> list[Mapping[str, object]]:
    out = []
    async with WorkerPool(limits, max_workers=2) as pool:
        for archive, media_type, target in jobs:
            into, source = kind(Path(target)), Whole(Path(archive))
            try:
                applied = await pool.apply(source, described(media_type), into)
            except (ImagedError, OSError) as error:
                out.append({"error": type(error).__name__, "message": str(error)})
            else:
                out.append(_plain(applied))
    return out


def _plain(applied: Applied) -> Mapping[str, object]:
    skipped = applied.skipped

    def text(path: bytes) -> str:
        return path.decode("latin-1")

    return {
        "error": "",
        "message": "",
        "skipped": (skipped.owners, skipped.devices, skipped.xattrs, skipped.times),
        "usage": (applied.usage.bytes, applied.usage.inodes),
        "whiteouts": [text(path) for path in applied.whiteouts],
        "opaques": [text(path) for path in applied.opaques],
        "implicit": [text(path) for path in applied.implicit],
        "links": [(text(name), text(target)) for name, target in applied.links],
        "devices": [
            (text(name), device.mode, device.major, device.minor)
            for device in applied.devices
            for name in device.names
        ],
    }


def _outcome(values: Mapping[str, object]) -> Outcome:
    def encoded(value: object) -> object:
        if isinstance(value, str):
            return value.encode("latin-1")
        return tuple(map(encoded, value)) if isinstance(value, list | tuple) else value

    paths = {"whiteouts", "opaques", "implicit", "links", "devices"}
    return Outcome(
        **{
            key: encoded(value)
            if key in paths
            else (tuple(value) if isinstance(value, list) else value)
            for key, value in values.items()
        }  # type: ignore[arg-type]
    )


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(asyncio.run(_apply_all(given["jobs"], Limits(**given["limits"])))))


if __name__ == "__main__":
    main()
