"""Apply one layer: this applier beside the native tools and `tarfile`, in one run.

    python benchmarks/layers.py [--rounds N] [--scale F] [--json FILE]

The native tools do the same work one after another on one core: decompress to a file, `sha256sum`
it, `tar` it out. The applier does it in one pass, once as it runs in the daemon and once on that
same one core. All on tmpfs, memory warmed by one round that is not counted, contenders alternating
within each round, medians over the rounds. Run as root, as the daemon does.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Complete, DirectoryTarget, Watermark

CORE = 0
TYPES = {
    "gzip": media_types.OCI_LAYER_GZIP,
    "zstd": media_types.OCI_LAYER_ZSTD,
    "tar": media_types.OCI_LAYER,
}


class File:
    """A complete layer source."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    async def watermarks(self) -> AsyncIterator[Watermark]:
        yield Complete(self.path.stat().st_size)


def text(source: random.Random, size: int) -> bytes:
    """About as compressible as programs and scripts are: a third is noise."""
    words = [
        b"import ",
        b"return ",
        b"self.",
        b"    ",
        b"\n",
        b"def ",
        b"value",
        b"(",
        b")",
        b" = ",
    ]
    out = bytearray()
    while len(out) < size:
        out += b"".join(source.choices(words, k=40)) + source.randbytes(64)
    return bytes(out[:size])


def small(path: Path, scale: float) -> None:
    """Many small files, as in a tree of Python or Node packages."""
    source = random.Random(1)
    stock = text(source, 4 << 20)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for package in range(int(1500 * scale)):
            folder = f"usr/lib/node_modules/p{package % 50}/node_modules/package-{package}"
            listed(archive, folder)
            for inner in ("", "/lib", "/test"):
                if inner:
                    listed(archive, folder + inner)
                for number in range(9):
                    at = source.randrange(len(stock) - 40_000)
                    size = min(int(source.lognormvariate(7.5, 1.1)), 40_000)
                    added(archive, f"{folder}{inner}/file{number}.js", stock[at : at + size])


def large(path: Path, scale: float) -> None:
    """Few large files."""
    source = random.Random(2)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        listed(archive, "opt")
        for number in range(6):
            part = text(source, 8 << 20)
            added(archive, f"opt/model{number}.bin", part * max(1, int(8 * scale)))


def listed(archive: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_600_000_000
    archive.addfile(info)


def added(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_600_000_000
    archive.addfile(info, io.BytesIO(data))


def run(*command: str | Path, to: Path | None = None) -> float:
    """Seconds that a command takes on the one core."""
    with open(to or os.devnull, "wb") as out:
        begun = time.perf_counter()
        subprocess.run(["taskset", "-c", str(CORE), *map(str, command)], check=True, stdout=out)
        return time.perf_counter() - begun


class Bench:
    """One layer in its three forms, and the contenders over it."""

    def __init__(self, folder: Path, name: str, make: Callable[[Path, float], None], scale: float):
        self.folder, self.name = folder, name
        self.tar = folder / f"{name}.tar"
        make(self.tar, scale)
        subprocess.run(["gzip", "-k", "-6", self.tar], check=True)
        subprocess.run(["zstd", "-q", "-k", "-3", self.tar], check=True)
        self.forms = {
            "tar": self.tar,
            "gzip": self.tar.with_suffix(".tar.gz"),
            "zstd": self.tar.with_suffix(".tar.zst"),
        }
        self.size = self.tar.stat().st_size
        with tarfile.open(self.tar) as archive:
            self.entries = sum(1 for _ in archive)
        with self.tar.open("rb") as file:
            self.digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        self.times: dict[str, list[float]] = {}

    def described(self, form: str) -> Descriptor:
        return Descriptor(TYPES[form], Digest.of(b""), self.forms[form].stat().st_size)

    def target(self) -> Path:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out

    def native(self, form: str) -> float:
        plain = self.folder / "plain.tar"
        plain.unlink(missing_ok=True)
        tools = {"gzip": ("gzip", "-dc"), "zstd": ("zstd", "-q", "-dc")}
        total = run(*tools[form], self.forms[form], to=plain) if form in tools else 0.0
        total += run("sha256sum", plain if form in tools else self.tar)
        return total + run("tar", "-xpf", plain if form in tools else self.tar, "-C", self.target())

    def tarfile(self, form: str) -> float:
        """The standard library, which neither hashes nor confines."""
        mode = "r:gz" if form == "gzip" else "r:"
        out = self.target()
        begun = time.perf_counter()
        with tarfile.open(self.forms[form], mode) as archive:
            archive.extraction_filter = lambda member, _: member  # 3.11.2 has no filters
            archive.extractall(out)
        return time.perf_counter() - begun

    async def applier(self, pool: WorkerPool, form: str) -> float:
        out = self.target()
        begun = time.perf_counter()
        source = File(self.forms[form])
        applied = await pool.apply(source, self.described(form), DirectoryTarget(out))
        elapsed = time.perf_counter() - begun
        assert applied.diff_id == self.digest
        assert applied.entries == self.entries
        return elapsed

    async def measure(self, key: str, work: Callable[[], Awaitable[float] | float]) -> None:
        result = work()
        elapsed = result if isinstance(result, float) else await result
        self.times.setdefault(key, []).append(elapsed)

    def report(self) -> dict[str, float]:
        medians = {key: statistics.median(times[1:]) for key, times in self.times.items()}
        print(f"\n{self.name}: {self.entries} entries, {self.size / 2**20:.0f} MiB")
        for key, seconds in medians.items():
            reference = medians["native " + key.split()[-1]]
            print(
                f"  {key:28} {seconds:7.3f} s {self.entries / seconds:9.0f} entries/s "
                f"{self.size / 2**20 / seconds:7.0f} MiB/s   {seconds / reference:5.2f} x native"
            )
        return medians


async def compare(bench: Bench, rounds: int) -> None:
    everywhere = os.sched_getaffinity(0)
    async with WorkerPool(Limits(), max_workers=1) as pool:
        os.sched_setaffinity(0, {CORE})
        async with WorkerPool(Limits(), max_workers=1) as pinned:
            os.sched_setaffinity(0, everywhere)
            for _ in range(rounds + 1):
                for form in TYPES:
                    await bench.measure(f"native {form}", lambda f=form: bench.native(f))
                    await bench.measure(f"applier {form}", lambda f=form: bench.applier(pool, f))
                    await bench.measure(
                        f"applier, one core {form}", lambda f=form: bench.applier(pinned, f)
                    )
                    if form != "zstd":
                        await bench.measure(f"tarfile {form}", lambda f=form: bench.tarfile(f))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--scale", type=float, default=1.0)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        results = {}
        for label, make in (("many small files", small), ("few large files", large)):
            bench = Bench(Path(name), label.replace(" ", "-"), make, chosen.scale)
            asyncio.run(compare(bench, chosen.rounds))
            results[label] = bench.report()
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
