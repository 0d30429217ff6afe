"""A parser bug gives a stranger a worker: what can be reached from it, by each means against it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cri_imaged.layers.worker import landlock, seccomp
from tests.support.require import require_real
from tests.support.unprivileged import CHECKOUT, as_nobody

ATTEMPTS = """
import ctypes, json, mmap, os, socket, stat, sys, threading
from cri_imaged import libc
from cri_imaged.layers.worker import confine, landlock, namespaces, seccomp
from cri_imaged.limits import Limits

how, root, outside, port, victim = sys.argv[1:]
privileged = confine.privileged()
root_fd = os.open(root, os.O_RDONLY)
lib = ctypes.CDLL(None, use_errno=True)
syscalls = {"keyctl": (250, 0, -3, 1), "bpf": (321, 0, 0, 0), "io_uring": (425, 4, bytes(120))}

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")

def execute():
    pid = os.fork()
    if pid == 0:
        try:
            os.execv("/bin/true", ["true"])
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise OSError

def fork():
    if os.fork() == 0:
        os._exit(0)

def make_executable():
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    call(lib.mprotect(ctypes.c_void_p(address), 4096, 7))

def kernel_log():
    os.mknod("log", stat.S_IFCHR | 0o600, os.makedev(1, 11), dir_fd=root_fd)
    os.close(os.open("log", os.O_WRONLY, dir_fd=root_fd))

attempts = {
    "block device": lambda: os.mknod("disk", stat.S_IFBLK, os.makedev(7, 0), dir_fd=root_fd),
    "kernel log": kernel_log,
    "read": lambda: os.open(outside, os.O_RDONLY),
    "alter": lambda: os.open(outside, os.O_WRONLY),
    "create": lambda: os.open(outside + ".new", os.O_WRONLY | os.O_CREAT),
    "remove": lambda: os.unlink(outside + ".spare"),
    "rename": lambda: os.rename(outside + ".spare", outside + ".other"),
    "chmod": lambda: os.chmod(outside, 0o640),
    "touch": lambda: os.utime(outside, (1, 1)),
    "stat": lambda: os.stat(outside),
    "list": lambda: os.listdir(os.path.dirname(outside)),
    "link": lambda: os.link(outside, "linked", dst_dir_fd=root_fd),
    "tcp": lambda: socket.socket().connect(("127.0.0.1", int(port))),
    "abstract socket": lambda: socket.socket(socket.AF_UNIX).connect("\\0confined-" + port),
    "socket pair": socket.socketpair,
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "signal": lambda: os.kill(int(victim), 0),
    "own signal of files": lambda: call(lib.fcntl(root_fd, 8, int(victim))),
    "trace": lambda: call(lib.ptrace(16, int(victim), 0, 0)),
    "program": execute,
    "process": fork,
    "limits of others": lambda: call(lib.prlimit(int(victim), 7, None, bytes(16))),
    "ioctl": lambda: call(lib.ioctl(root_fd, 0x5421, bytes(4))),
    "directory left open": lambda: os.open("file", os.O_RDONLY, dir_fd=left_open),
    "standard stream": lambda: os.pwrite(0, b"", 0),
    "user namespace": lambda: call(lib.unshare(0x10000000)),
    "executable memory": lambda: mmap.mmap(-1, 4096, prot=7),
    "memory made executable": make_executable,
    **{name: lambda a=a: call(lib.syscall(*a)) for name, a in syscalls.items()},
    "thread": threading.Thread(target=int).start,
}

def outcome(attempt):
    try:
        attempt()
    except (OSError, ImportError, RuntimeError) as error:
        return type(error).__name__
    return "POSSIBLE"

left_open = os.open(os.path.dirname(outside), os.O_RDONLY)
memory = mmap.mmap(-1, 4096)
told = os.dup(1)
if how in ("writer", "decoder"):
    confine.keep_descriptors([root_fd, left_open, told])
    if how == "writer":
        confine.confine(root_fd, Limits(), chroot=privileged)
    else:
        confine.confine_decoder(Limits())
    seccomp.end_threads()
else:
    libc.prctl(38, 1)
    if how == "landlock":
        assert landlock.restrict(root_fd)
    elif how == "seccomp":
        assert seccomp.restrict(files=True)
    elif how == "mount":
        root_fd = namespaces.without_devices(root_fd)
answer = {name: outcome(attempt) for name, attempt in attempts.items()}
os.write(told, json.dumps(answer).encode())
os._exit(0)  # as a worker ends: nobody reads its standard streams any more
"""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("file", "file.spare"):
        (tmp_path / "other" / name).write_text("another snapshot's")
    return tmp_path


def possible(
    scene: Path, how: str, wrap: Callable[[list[str]], list[str]] = lambda command: command
) -> set[str]:
    """What a process confined in this way can do."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
        subprocess.Popen(["sleep", "600"]) as victim,
    ):
        port = listener.getsockname()[1]
        abstract.bind(f"\0confined-{port}")
        abstract.listen()
        arguments = [str(scene / "root"), str(scene / "other/file"), str(port), str(victim.pid)]
        command = wrap([sys.executable, "-I", "-c", ATTEMPTS, how, *arguments])
        try:
            with (scene / "other/file").open("r+b") as stream:
                done = subprocess.run(
                    command,
                    cwd=CHECKOUT,
                    stdin=stream,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=60,
                )
        finally:
            victim.kill()
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return {name for name, answer in found.items() if answer == "POSSIBLE"}


def ordinary(scene: Path) -> Callable[[list[str]], list[str]]:
    """To be run as nobody, whose files these are."""
    scene.chmod(0o755)
    for path in scene.rglob("*"):
        os.chown(path, 65534, 65534)
    return lambda command: as_nobody(command, scene)


def test_unconfined_root_can_do_it_all(scene: Path) -> None:
    """The attempts are real: they succeed where nothing stops them."""
    require_real(os.geteuid() == 0, "only root makes devices")
    assert possible(scene, "nothing") >= {
        *("block device", "kernel log", "read", "alter", "create", "remove", "chmod", "touch"),
        *("stat", "list", "link", "tcp", "abstract socket", "netlink", "signal", "trace"),
        *("program", "user namespace", "executable memory", "own signal of files"),
        *("thread", "standard stream", "process", "limits of others", "ioctl"),
        *("directory left open", "memory made executable"),
    }


NOT_WITHOUT_LANDLOCK = set() if landlock.supported() else {"directory left open"}


@pytest.mark.parametrize("how", ["writer", "decoder"])
def test_root(scene: Path, how: str) -> None:
    require_real(os.geteuid() == 0, "only root has rights to lose")
    assert possible(scene, how) <= NOT_WITHOUT_LANDLOCK


@pytest.mark.parametrize("how", ["writer", "decoder"])
def test_an_ordinary_user(scene: Path, how: str) -> None:
    assert possible(scene, how, ordinary(scene)) <= NOT_WITHOUT_LANDLOCK


def test_landlock_alone(scene: Path) -> None:
    require_real(landlock.supported(), "the kernel has no Landlock with links")
    reached = possible(scene, "landlock")
    assert reached.isdisjoint({"block device", "kernel log", "read", "alter", "create", "remove"})
    assert reached.isdisjoint({"rename", "list", "link", "program", "directory left open"})
    version = landlock._version()
    assert version < 4 or "tcp" not in reached
    assert version < 6 or reached.isdisjoint({"abstract socket", "signal"})


def test_seccomp_alone(scene: Path) -> None:
    require_real(seccomp.supported(), "no system call numbers for this machine")
    # It cannot tell one file from another.
    assert possible(scene, "seccomp") <= {
        *("read", "alter", "create", "remove", "chmod", "touch", "stat", "list", "link"),
        *("thread", "standard stream", "directory left open"),
    }


def test_devices_do_not_work_on_the_targets_mount(scene: Path) -> None:
    require_real(os.geteuid() == 0, "only root mounts")
    assert "kernel log" not in possible(scene, "mount")
