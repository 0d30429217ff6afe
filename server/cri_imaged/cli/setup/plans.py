"""What has to stand in which file, for each runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri_imaged.cli.setup.toml_edit import parsed, with_key
from cri_imaged.config import Config
from cri_imaged.config.options import ContainerdOptions, ContainersStorageOptions
from cri_imaged.errors import ConfigError

IMPORTS = "/etc/containerd/conf.d/*.toml"
_RUN_ROOT = "/run/containers/storage"
_OLDEST, _NEWEST = 3, 4
"""Versions of containerd's configuration that may import one of version 3."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One file, and what becomes of its text ("" where it is not there yet)."""

    path: Path
    change: Callable[[str], str]
    until_then: Path | None = None
    """What is read by others as long as `path` is not there: it begins as a copy of this."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to change, and what somebody has to do then."""

    edits: tuple[Edit, ...]
    then: tuple[str, ...]
    directory: Path | None = None
    """Which the other side cannot do without, and our daemon fills."""


def containerd(config: Config, file: Path, root: Path) -> Plan:
    """For containerd 2. `file` is our configuration; `root` stands before other programs' paths."""
    options = config.runtime.containerd or ContainerdOptions()
    snippet = containerd_toml(config, options)
    return Plan(
        (
            Edit(root / "etc/containerd/conf.d/cri-imaged.toml", lambda old: snippet),
            Edit(root / "etc/containerd/config.toml", _import_ours),
            Edit(
                file,
                lambda old: with_key(old, "runtime.containerd", "address", str(options.address)),
            ),
        ),
        (
            "systemctl restart cri-imaged && systemctl restart containerd",
            "set imageServiceEndpoint: unix://"
            f"{config.grpc.address} in the kubelet's configuration, and restart the kubelet",
            "cri-imaged doctor",
        ),
    )


def containerd_toml(config: Config, options: ContainerdOptions) -> str:
    """containerd's side of the contract, as a file that its configuration imports."""
    images = "plugins.'io.containerd.cri.v1.images'"
    pause = config.image.required_images.get("sandbox")
    sandbox = f'[{images}.pinned_images]\nsandbox = "{pause}"\n' if pause else ""
    return f"""\
# Written by `cri-imaged setup containerd`: containers run from images that cri-imaged pulls.
version = 3

[proxy_plugins.'{options.snapshotter}']
type = "snapshot"
address = "{config.runtime.snapshots_address}"
capabilities = ["remap-ids"]
[proxy_plugins.'{options.snapshotter}'.exports]
root = "{config.root}/snapshots"

[{images}]
snapshotter = "{options.snapshotter}"
{sandbox}"""


def podman(config: Config, file: Path, root: Path) -> Plan:
    """For podman, buildah and skopeo."""
    return Plan(
        (_storage(config, root), _publish(config, file)),
        ("systemctl restart cri-imaged", "podman images"),
        _store(config, root),
    )


def crio(config: Config, file: Path, root: Path) -> Plan:
    """For CRI-O, which takes image IDs without their algorithm."""
    pause = str(config.image.required_images.get("sandbox", ""))
    drop_in = root / "etc/crio/crio.conf.d/10-cri-imaged.conf"
    return Plan(
        (
            _storage(config, root),
            Edit(drop_in, lambda old: with_key(old, "crio.image", "pause_image", pause)),
            _publish(config, file),
            Edit(file, lambda old: with_key(old, "runtime", "image_id_format", "hex")),
        ),
        (
            "systemctl restart cri-imaged && systemctl restart crio",
            "set imageServiceEndpoint: unix://"
            f"{config.grpc.address} in the kubelet's configuration, and restart the kubelet",
        ),
        _store(config, root),
    )


def _import_ours(old: str) -> str:
    text = old or "version = 3\n"
    version = parsed(text).get("version", _OLDEST)
    if version not in range(_OLDEST, _NEWEST + 1):
        raise ConfigError(
            f"is of version {version}: bring it to version {_OLDEST} first, with "
            "`containerd config migrate`"
        )
    return with_key(text, "", "imports", [IMPORTS])


def _storage(config: Config, root: Path) -> Edit:
    options = _storage_options(config)

    def change(old: str) -> str:
        text = old or _fresh(options)
        driver = _storage_table(text).get("driver") or "overlay"
        if driver != "overlay":
            raise ConfigError(f'says driver = "{driver}": only overlay reads what is published')
        return with_key(text, "storage.options", "additionalimagestores", [str(options.path)])

    vendors = root / "usr/share/containers/storage.conf"
    return Edit(root / "etc/containers/storage.conf", change, vendors)


def _fresh(options: ContainersStorageOptions) -> str:
    """A whole `storage.conf`: one without the two roots is refused by its readers."""
    return f"""\
[storage]
driver = "overlay"
runroot = "{_RUN_ROOT}"
graphroot = "{options.graph_root}"
"""


def _storage_table(text: str) -> dict[str, Any]:
    found = parsed(text).get("storage")
    return found if isinstance(found, dict) else {}


def _publish(config: Config, file: Path) -> Edit:
    path = str(_storage_options(config).path)
    return Edit(file, lambda old: with_key(old, "runtime.containers_storage", "path", path))


def _store(config: Config, root: Path) -> Path:
    return root / _storage_options(config).path.relative_to("/")


def _storage_options(config: Config) -> ContainersStorageOptions:
    return config.runtime.containers_storage or ContainersStorageOptions()
