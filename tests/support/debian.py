"""Real root file systems: a Debian root by debootstrap, and a static busybox."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.images import Tree, directory, file, symlink
from tests.support.require import require_real

CACHE = Path(__file__).parents[2] / ".cache" / "tests"
_APPLETS = ("sh", "cat", "echo", "ls", "id", "uname", "stat", "env", "sleep", "true")


def busybox_tree() -> Tree:
    """A root file system of one static program and a few files; its programs run anywhere."""
    found = shutil.which("busybox")
    require_real(found is not None, "busybox is not installed (busybox-static)")
    assert found is not None
    program = Path(found).read_bytes()
    require_real(b"/lib64/ld-linux" not in program, "busybox is not static (busybox-static)")
    return {
        "bin": directory(),
        "bin/busybox": file(program, mode=0o755),
        **{f"bin/{applet}": symlink("busybox") for applet in _APPLETS},
        "etc": directory(),
        "etc/passwd": file("root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n"),
        "etc/motd": file("hello from the image\n"),
        "proc": directory(),
        "sys": directory(),
        "dev": directory(),
        "tmp": directory(mode=0o1777),
    }


def debian_archive() -> Path:
    """A minimal Debian root as an uncompressed archive, made once per checkout.

    Comes from the mirror and for the release that this machine's own apt uses.
    """
    require_real(shutil.which("debootstrap") is not None, "debootstrap is not installed")
    with _exclusive(CACHE / "debian.lock"):
        archive = CACHE / "debian.tar"
        if not archive.exists():
            with tempfile.TemporaryDirectory(prefix="debian-root-") as scratch:
                root = Path(scratch) / "root"
                _debootstrap(root)
                unfinished = archive.with_suffix(".part")
                _run(
                    *("tar", "--create", "--one-file-system", "--numeric-owner", "--sort=name"),
                    *("--xattrs", "--format=pax", f"--file={unfinished}", f"--directory={root}"),
                    *("--exclude=./var/cache/apt/archives/*.deb", "."),
                )
                unfinished.rename(archive)
        return archive


def _debootstrap(root: Path) -> None:
    mirror, codename = _mirror()
    run = subprocess.run(
        ["debootstrap", "--variant=minbase", codename, str(root), mirror],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    require_real(
        run.returncode == 0, f"debootstrap from {mirror} failed: {(run.stdout + run.stderr)[-500:]}"
    )


def _mirror() -> tuple[str, str]:
    """(URL, codename) of the distribution's main archive, as apt is configured here."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    codename = release.get("VERSION_CODENAME", "").strip('"')
    targets = _run(
        "apt-get", "indextargets", "--format", "$(CREATED_BY) $(CODENAME) $(COMPONENT) $(REPO_URI)"
    )
    for line in targets.splitlines():
        kind, name, component, url = line.split(" ", 3)
        if (kind, name, component) == ("Packages", codename, "main"):
            return url, codename
    require_real(False, f"apt knows no main archive of {codename!r} here")
    raise AssertionError  # require_real does not return here


def _run(*command: str) -> str:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
