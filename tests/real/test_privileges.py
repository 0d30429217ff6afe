"""The privileges that deploy/ leaves to the daemon suffice for everything that layers hold."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.real.test_kinds_of_images import mounted
from tests.support.daemon import Daemon
from tests.support.deploy import unit_capabilities
from tests.support.docker_registry import DockerRegistry
from tests.support.images import WHITEOUT, Node, directory, file, image, layer
from tests.support.require import require_real

pytestmark = pytest.mark.real

# vfs_cap_data, revision 2 (linux/capability.h): cap_net_raw, permitted and effective.
FILE_CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

LOWER = {
    "etc": directory(),
    "etc/hidden": file("x"),
    "bin": directory(mode=0o700, uid=7, gid=7),
    "bin/setuid": file("s", mode=0o4755, uid=5, gid=6),
    "bin/ping": file("p", mode=0o755, xattrs={"security.capability": FILE_CAPABILITY}),
    "secret": file("for its owner", mode=0o000, uid=9),
    "null": Node(type=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
}
UPPER = {"etc/.wh..wh..opq": WHITEOUT, "etc/new": file("n"), "bin/setgid": file("g", mode=0o2755)}


@pytest.mark.parametrize("snapshotter", ["overlay", "native", "erofs"])
def test_the_units_capabilities_suffice(
    scratch: Scratch, registry: DockerRegistry, tmp_path: Path, snapshotter: str
) -> None:
    require_real(os.geteuid() == 0, "only root can mount and chroot")
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in sorted(unit_capabilities()))
    wrapper = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{kept}"]
    reference = registry.push(image(layer(LOWER), layer(UPPER)), "privileges/special:1")
    daemon = Daemon(scratch("caps"), snapshotter=snapshotter, wrapper=wrapper)
    with daemon:
        daemon.pull(reference)
        with mounted(daemon, reference, tmp_path / "root") as root:
            assert sorted(path.name for path in (root / "etc").iterdir()) == ["new"]
            setuid = (root / "bin/setuid").stat()
            assert (stat.S_IMODE(setuid.st_mode), setuid.st_uid, setuid.st_gid) == (0o4755, 5, 6)
            assert stat.S_IMODE((root / "bin/setgid").stat().st_mode) == 0o2755
            assert (root / "bin").stat().st_uid == 7
            assert os.getxattr(root / "bin/ping", "security.capability") == FILE_CAPABILITY
            assert (root / "secret").read_text() == "for its owner"
            assert (root / "null").stat().st_rdev == os.makedev(1, 3)
