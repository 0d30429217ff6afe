"""The Debian package: built, installed in a Debian root, served from, upgraded, removed, purged."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cri_imaged import __version__
from tests.support.debian import debian_archive
from tests.support.deploy import DEPLOY
from tests.support.images import file, host_architecture, image, layer, write_layout
from tests.support.require import require_real

pytestmark = pytest.mark.real

BUILD = DEPLOY / "debian" / "build.sh"
ELF_X86_64, ELF_AARCH64 = 62, 183


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_in(tmp_path_factory.mktemp("debs"))


def built_in(folder: Path, **chosen: str) -> Path:
    """A package, built in an empty folder."""
    require_real(shutil.which("dpkg-deb") is not None, "not Debian: no dpkg-deb")
    require_real(Path("/usr/lib/python3/dist-packages/pip").is_dir(), "python3-pip is missing")
    environment = {**os.environ, "COMPRESSION": "none", **chosen}
    subprocess.run([BUILD, folder], env=environment, check=True, capture_output=True)
    (built,) = folder.glob("*.deb")
    return built


class Root:
    """A Debian system without systemd running."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, **env: str) -> str:
        done = subprocess.run(
            ["chroot", self.path, *command],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND": "noninteractive",
                **env,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, package: Path) -> None:
        shutil.copy(package, self.path / "tmp" / package.name)
        options = ("-y", "-qq", "--allow-downgrades")
        self.run("apt-get", "install", *options, f"/tmp/{package.name}")

    def client(self, *arguments: str) -> str:
        """What a command prints that asks the daemon."""
        return self.run("cri-imaged", *arguments, CRI_IMAGED_ADDRESS="/run/cri.sock")

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path / name.lstrip("/"))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    require_real(os.geteuid() == 0, "only root may chroot")
    path = tmp_path / "root"
    path.mkdir()
    subprocess.run(
        ["tar", "-C", path, "--xattrs", "--numeric-owner", "-xf", debian_archive()], check=True
    )
    subprocess.run(["mount", "-t", "proc", "proc", path / "proc"], check=True)
    shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")
    try:
        yield Root(path)
    finally:
        subprocess.run(["umount", path / "proc"], check=True)


def newer(package: Path, folder: Path) -> Path:
    """The same package as another version."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    (init,) = tree.glob("opt/cri-imaged/lib/python3*/site-packages/cri_imaged/__init__.py")
    for each in (control, init):
        each.write_text(each.read_text().replace(__version__, f"{__version__}+1"))
    made = folder / "newer.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, made], check=True)
    return made


def test_the_package_lives_as_debians_do(package: Path, root: Root, tmp_path: Path) -> None:
    root.run("apt-get", "update", "-qq")
    root.install(package)
    assert root.run("cri-imaged", "--version") == f"cri-imaged {__version__}\n"
    config = root.path / "etc/cri-imaged/config.toml"
    root.run("cri-imaged", "config", "check", "/etc/cri-imaged/config.toml")
    shared = root.path / "usr/share"
    assert "cri_imaged" in (shared / "bash-completion/completions/cri-imaged").read_text()
    zsh = shared / "zsh/vendor-completions/_cri-imaged"
    assert zsh.read_text().startswith("#compdef cri-imaged\n")
    assert (shared / "fish/vendor_completions.d/cri-imaged.fish").read_text()
    assert (shared / "man/man1/cri-imaged-pull.1.gz").exists()

    config.write_text('root = "/var/lib/cri-imaged"\n[grpc]\naddress = "/run/cri.sock"\n')
    write_layout(root.path / "tmp/layout", "app:1", image(layer({"a": file("a")})))
    with serving(root):
        root.client("import", "--name", "app:1", "/tmp/layout")
    root.install(newer(package, tmp_path))
    assert root.run("cri-imaged", "--version") == f"cri-imaged {__version__}+1\n"
    assert config.read_text().startswith('root = "/var'), "an upgrade keeps what people wrote"
    with serving(root):
        assert "library/app" in root.client("images")
    root.install(package)
    assert root.run("cri-imaged", "--version") == f"cri-imaged {__version__}\n"
    with serving(root):
        assert "library/app" in root.client("images")
        assert "0 problems" in root.client("check")

    root.run("dpkg", "--remove", "cri-imaged")
    assert not root.has("/opt/cri-imaged")
    assert root.has("/var/lib/cri-imaged/metadata.db")
    root.run("dpkg", "--purge", "cri-imaged", KEEP_IMAGES="1")
    assert not root.has("/etc/cri-imaged")
    assert root.has("/var/lib/cri-imaged/metadata.db")

    root.install(package)
    root.run("dpkg", "--purge", "cri-imaged")
    assert not root.has("/var/lib/cri-imaged")


def test_the_service_is_enabled_unless_somebody_has_disabled_it(
    package: Path, root: Root, tmp_path: Path
) -> None:
    """Also where nothing runs: in the root of which a node's image is made."""
    wanted = "/etc/systemd/system/multi-user.target.wants/cri-imaged.service"
    root.run("apt-get", "update", "-qq")
    root.install(package)
    assert root.has(wanted)
    (root.path / wanted.lstrip("/")).unlink()  # what `systemctl disable` does
    root.install(newer(package, tmp_path))
    assert not root.has(wanted)
    root.run("dpkg", "--purge", "cri-imaged")
    root.install(package)
    assert root.has(wanted)
    root.run("dpkg", "--purge", "cri-imaged")
    assert root.run("find", "/etc", "/var/lib/systemd", "-name", "*cri-imaged*") == ""


@contextmanager
def serving(root: Root) -> Iterator[None]:
    """While the installed daemon serves."""
    command = ["chroot", root.path, "cri-imaged", "serve"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        try:
            for line in daemon.stderr:
                if "serving" in line:
                    break
            yield
        finally:
            daemon.terminate()
            daemon.stderr.read()
    assert daemon.returncode == 0


def test_the_other_architectures_package_holds_its_wheels_alone(tmp_path: Path) -> None:
    other, machine = (
        ("arm64", ELF_AARCH64) if host_architecture() == "amd64" else ("amd64", ELF_X86_64)
    )
    package, tree = built_in(tmp_path, ARCHITECTURE=other), tmp_path / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    assert f"Architecture: {other}\n" in (tree / "DEBIAN/control").read_text()
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    heads = [path.read_bytes()[:20] for path in files]
    machines = [int.from_bytes(head[18:], "little") for head in heads if head[:4] == b"\x7fELF"]
    assert set(machines) == {machine}
    assert list(tree.rglob("cri_imaged/cli/main.py"))
