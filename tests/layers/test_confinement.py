"""What a confined worker can and cannot do: the real confinement, in forked children."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.require import require_real
from tests.support.unprivileged import CHECKOUT, as_nobody

PROBE = """
import json, os, resource, socket, stat, sys
from cri_imaged.layers.worker import confine, zygote
from cri_imaged.limits import Limits

root = os.open(sys.argv[1], os.O_RDONLY)
status = os.open("/proc/self/status", os.O_RDONLY)
descriptors = "/proc/self/fd"
unwanted = socket.socket()
told = os.dup(1)
confine.keep_descriptors([root, status, told])
open_now = sorted(map(int, os.listdir(descriptors)))
loaded = set(sys.modules)
confine.confine(root, Limits(worker_memory_bytes=400 << 20), chroot=confine.privileged())

def outcome(work):
    try:
        return repr(work())
    except BaseException as error:
        return type(error).__name__

def drop_in():
    import colorsys

lines = dict(line.split(":\\t") for line in os.read(status, 1 << 16).decode().splitlines())
answer = {
    "descriptors": len(open_now) - 1,
    "import": outcome(drop_in),
    "loaded": "colorsys" in loaded,
    "outside": outcome(lambda: os.listdir("/etc/ssl")),
    "memory": outcome(lambda: len(bytearray(1 << 30))),
    "status": {k: lines[k] for k in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")},
    "forbidden": sorted(set(sys.modules) & {"grpc", "asyncio", "aiohttp", "ssl", "ctypes.util"}),
    "standard": [stat.S_ISFIFO(os.fstat(number).st_mode) for number in range(3)],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
    "umask": os.umask(0),
}
os.write(told, json.dumps(answer).encode())
os._exit(0)  # as a worker ends: nobody reads its standard streams any more
"""


def probe(tmp_path: Path, wrap: Callable[[list[str]], list[str]]) -> dict[str, object]:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "colorsys.py").write_text("raise SystemExit('the image runs')")
    tmp_path.chmod(0o755)
    command = wrap([sys.executable, "-I", "-c", PROBE, str(tmp_path / "root")])
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_as_root(tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "only root may chroot")
    answer = probe(tmp_path, lambda command: command)
    kept = sum(1 << capability for capability in (0, 1, 3, 4, 31))
    status = answer["status"]
    assert isinstance(status, dict)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == kept
    assert int(status["CapBnd"], 16) & ~kept == 0
    assert answer["outside"] == "FileNotFoundError"
    check(answer)


def test_as_an_ordinary_user(tmp_path: Path) -> None:
    answer = probe(tmp_path, lambda command: as_nobody(command, tmp_path))
    assert int(answer["status"]["CapEff"], 16) == 0  # type: ignore[index]
    check(answer)


def check(answer: dict[str, object]) -> None:
    assert answer["status"]["NoNewPrivs"] == "1"  # type: ignore[index]
    assert answer["descriptors"] == 6  # the standard ones and the three that were kept
    assert answer["standard"] == [True] * 3  # neither the node's /dev/null nor the daemon's log
    assert answer["files"] == 512
    assert answer["import"] in ("ModuleNotFoundError", "ImportError")
    assert answer["loaded"] is False
    assert answer["memory"] == "MemoryError"
    assert answer["forbidden"] == []
    assert answer["core"] == 0
    assert answer["umask"] == 0


def test_the_zygotes_environment_is_empty() -> None:
    """Nothing of the daemon's environment, its sockets or its descriptors gets into the zygote."""
    script = """
import asyncio, os, socket, sys
from pathlib import Path
from cri_imaged.layers.worker.handle import Zygote
from tests.support.process import open_files

async def main():
    server = socket.create_server(("127.0.0.1", 0))
    os.set_inheritable(server.fileno(), True)
    zygote = await Zygote.start()
    (pid,) = map(int, Path("/proc/self/task", str(os.getpid()), "children").read_text().split())
    while b"zygote" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        await asyncio.sleep(0.01)
    print(Path(f"/proc/{pid}/environ").read_bytes())
    print(sum(link.startswith("socket:") for link in open_files(pid).values()))
    await zygote.stop()

asyncio.run(main())
"""
    environment = {**os.environ, "SECRET": "token"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.splitlines() == ["b''", "1"]


def test_the_zygote_ends_with_the_daemon() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    zygote = subprocess.Popen(
        [sys.executable, "-I", "-m", "cri_imaged.layers.worker.zygote", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    ours.close()
    assert zygote.wait(timeout=60) == 0


def test_the_zygotes_rehearsal_leaves_nothing_behind() -> None:
    """It applies layers as workers do, in a process that forks: of one thread, with no descriptor
    that a worker would inherit."""
    require_real(os.geteuid() == 0, "a file system in memory needs root")
    script = """
import os
from cri_imaged.layers.worker import confine
from cri_imaged.layers.worker.rehearsal import rehearse

def around():
    return os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")

before = around()
print(rehearse(privileged=confine.privileged()), around() == before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True"]


def test_the_zygote_has_code_of_layers_fitted_to_its_use_before_it_forks() -> None:
    require_real(os.geteuid() == 0, "a file system in memory needs root")
    script = """
import dis, socket, sys
from cri_imaged.layers.sinks.table import open_sink
from cri_imaged.layers.worker import zygote

def is_fitted(function):
    now, first = (
        [each.opname for each in dis.get_instructions(function, adaptive=adaptive)]
        for adaptive in (True, False)
    )
    return now != first

ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ours.close()
sys.argv[1:] = [str(theirs.detach())]
before = is_fitted(open_sink)
zygote.main()
print(before, is_fitted(open_sink))
"""
    # Without the environment, as measuring coverage keeps code from being fitted.
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], env={}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("module", ["grpc", "asyncio", "aiohttp", "ssl", "multiprocessing"])
def test_the_zygote_loads_no(module: str) -> None:
    script = f"import cri_imaged.layers.worker.zygote, sys; sys.exit({module!r} in sys.modules)"
    # With the zygote's empty environment; measuring coverage would load more.
    subprocess.run([sys.executable, "-I", "-c", script], env={}, check=True)


@pytest.mark.real
def test_a_chroots_root_that_is_no_mount_keeps_no_worker_from_its_namespaces(
    tmp_path: Path,
) -> None:
    require_real(os.geteuid() == 0, "only root may chroot")
    program = (
        "import os, sys; from cri_imaged.layers.worker import namespaces; "
        "os.chroot(sys.argv[1]); os.chdir('/'); print('mount' in namespaces.apart())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert run.stdout == "True\n", run.stderr
