"""A systemd of the tests' own, in namespaces and a cgroup, that runs the unit we ship."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support.deploy import CHECKOUT
from tests.support.leaks import emitted
from tests.support.process import Process, wait_until
from tests.support.require import require_real

UNIT_NAME = "cri-imaged"
PROGRAM = "/opt/cri-imaged/bin/cri-imaged"
_BOOT = Path(__file__).with_name("boot.sh")
_NAMESPACES = ("mount", "pid", "ipc", "uts", "cgroup")


class Machine:
    """A booted system that shares this machine's network and nothing else. Nothing stays of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "machine"
        self._cgroup = _cgroups() / f"cri-imaged-tests-{os.getpid()}"
        join = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
        self._process = Process(
            [
                *("sh", "-c", join, str(self._cgroup)),
                *("unshare", *(f"--{each}" for each in _NAMESPACES)),
                *("--fork", "--kill-child", "--propagation=private"),
                *("sh", str(_BOOT), str(self._directory), str(CHECKOUT), sys.prefix),
            ],
            directory / "machine.log",
        )
        self._pid = 0

    def __enter__(self) -> Self:
        self._directory.mkdir()
        self._cgroup.mkdir()
        self._process.start()
        try:
            self._pid = wait_until(self._init, "systemd is started", self._process)
            wait_until(self._booted, "systemd has booted", self._process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stop(number=signal.SIGKILL)  # unshare heeds no other; all goes with it
        below = [folder for folder, _, _ in os.walk(self._cgroup, topdown=False)]
        wait_until(lambda: _empty(self._cgroup), "nothing runs any more in the machine")
        for folder in below:
            Path(folder).rmdir()

    # --- the system -------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Where this process finds a file of the system's."""
        return Path(f"/proc/{self._pid}/root") / name.lstrip("/")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in it."""
        done = subprocess.run(
            [
                *("nsenter", f"--target={self._pid}", *(f"--{each}" for each in _NAMESPACES)),
                *("--root", "--wd", *command),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        emitted(" ".join(command), done.stdout + done.stderr)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}\n{self.journal()}"
        return done

    def systemctl(self, verb: str, *, check: bool = True) -> int:
        """Start, stop, restart or reload our unit; the exit code."""
        return self.run("systemctl", verb, UNIT_NAME, check=check).returncode

    def show(self, name: str) -> str:
        """One property of our unit."""
        return self.run(
            "systemctl", "show", UNIT_NAME, f"--property={name}", "--value"
        ).stdout.strip()

    def configure(self, text: str) -> None:
        """Write the daemon's configuration."""
        self.path("/etc/cri-imaged/config.toml").write_text(text)

    def drop_in(self, text: str) -> None:
        """Have the unit say this, too."""
        folder = self.path(f"/etc/systemd/system/{UNIT_NAME}.service.d")
        folder.mkdir(exist_ok=True)
        (folder / "tests.conf").write_text(text)
        self.run("systemctl", "daemon-reload")

    def client(self, *arguments: str) -> str:
        """What one of our own commands prints."""
        return self.run(PROGRAM, *arguments).stdout

    def journal(self) -> str:
        """What our unit has logged."""
        command = ("journalctl", "--unit", UNIT_NAME, "--output=cat", "--no-pager")
        return self.run(*command, check=False).stdout if self._pid else ""

    def until_logged(self, text: str) -> None:
        """Wait until our unit's journal has `text`."""
        wait_until(lambda: text in self.journal(), f"the journal has {text}", self._process)

    # --- its life ---------------------------------------------------------------------------

    def _init(self) -> int:
        """systemd's process ID, as seen from here; 0 before it is there."""
        mine = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        for child in mine.split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        return 0

    def _booted(self) -> bool:
        done = self.run("systemctl", "is-system-running", check=False)
        return done.stdout.strip() in ("running", "degraded")


def _cgroups() -> Path:
    """The cgroup (v2) that this process is in."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [place for _, place, kind, *_ in mounts if kind == "cgroup2"]
    require_real(bool(places), "cgroup v2 is not mounted")
    own = Path("/proc/self/cgroup").read_text().split("0::", 1)[1].split("\n", 1)[0]
    return Path(places[0]) / own.lstrip("/")


def _empty(cgroup: Path) -> bool:
    return "populated 0" in (cgroup / "cgroup.events").read_text()
