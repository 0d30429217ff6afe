"""A network of one's own, whose loopback is as slow as a real link."""

from __future__ import annotations

import os
import subprocess
import sys

_INSIDE = "CRI_IMAGED_BENCH_LINK"
_NETEM = "netem delay 10ms rate {rate}mbit limit 20000"
_TBF = "tbf rate {rate}mbit burst 256kb latency 50ms"


def enter() -> None:
    """Begin this program anew in a network namespace, unless it is in one."""
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def slow_down(megabits: int) -> str:
    """Hold all of loopback to a rate, with 20 ms for a round trip where the kernel can do that.
    Tells what was done."""
    for shaping in (_NETEM, _TBF):
        what = shaping.format(rate=megabits)
        command = ["tc", "qdisc", "replace", "dev", "lo", "root", *what.split()]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
            return f"loopback of a network namespace, {what}"
    raise OSError("tc can shape nothing here: the kernel has neither sch_netem nor sch_tbf")


def restore() -> None:
    """Let loopback be as quick as it was."""
    subprocess.run(["tc", "qdisc", "delete", "dev", "lo", "root"], check=True)
