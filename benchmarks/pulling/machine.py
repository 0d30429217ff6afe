"""The machine that benchmarks run on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

_MIB = 1 << 20
_WARMED = 1536
SETTLED_SECONDS = 0.5


def settle(folder: Path) -> None:
    """Let background removal finish, and warm the memory that stores are put in."""
    warm = folder / "warm"
    with warm.open("wb") as out:
        for _ in range(_WARMED):
            out.write(bytes(_MIB))
    warm.unlink()
    time.sleep(SETTLED_SECONDS)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": os.uname().release,
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }
