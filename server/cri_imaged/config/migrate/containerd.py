"""containerd's `config.toml`, versions 2 to 4: what its image service reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cri_imaged.config.migrate.hosts import tls_fields
from cri_imaged.config.migrate.migration import STANDARD_INPUT, Source
from cri_imaged.config.migrate.mirrors import Mirrors
from cri_imaged.errors import ConfigError

KEYS = frozenset({"version", "plugins", "imports", "disabled_plugins", "required_plugins"})
"""A file that has one of them at the top is containerd's."""
_IMAGES = {
    2: "io.containerd.grpc.v1.cri",
    3: "io.containerd.cri.v1.images",
    4: "io.containerd.cri.v1.images",
}
_RUNTIMES = "io.containerd.cri.v1.runtime"
_VERIFIER = "io.containerd.image-verifier.v1.bindir"
_SNAPSHOTTERS = {"overlayfs": "overlay", "native": "native", "erofs": "erofs"}
_LOGIN = ("username", "password", "auth", "identitytoken")
_TLS = ("ca_file", "cert_file", "key_file", "insecure_skip_verify")
_OF_IMAGES_V2 = (
    *("max_concurrent_downloads", "image_pull_progress_timeout", "image_pull_with_sync_fs"),
    "stats_collect_period",
)
_ELSEWHERE = (
    *("registry", "snapshotter", "pinned_images", "runtime_platforms", "image_decryption"),
    "disable_snapshot_annotations",  # only proxies are given any, and they always are
)


def read(source: Source) -> None:
    """Read it all. What concerns containers, and containerd's own folders and sockets, stays with
    containerd and is not listed.

    Raises:
        ConfigError: another version.
    """
    version = source.table.get("version")
    if version not in _IMAGES:
        newer = "`containerd config migrate` makes a newer one of it"
        raise ConfigError(f"{source.file}: version {version or 1}: {newer}")
    if source.file == STANDARD_INPUT:
        source.leave(
            "imports", "name those files too, but for what `containerd config dump` prints"
        )
    source.inner("debug").carry("level", "debug", "level")
    plugins = source.inner("plugins")
    images = plugins.inner(_IMAGES[version])
    if version == 2:
        _version_2(images)
    else:
        _handlers(plugins.inner(_RUNTIMES, "containerd"))
        _version_3(images)
    images.inner("image_decryption").carry_known("image.image_decryption")
    _registry(images.inner("registry"))
    plugins.inner(_VERIFIER).carry_known("image.verification")
    for name, _ in source.inner("proxy_plugins").tables():
        source.inner("proxy_plugins").leave(name, "see proxy snapshotters in docs/configuration.md")


def _version_2(cri: Source) -> None:
    cri.carry("sandbox_image", "image", "pinned_images", "sandbox")
    _only(cri, _OF_IMAGES_V2).carry_known("image")
    runtimes = cri.inner("containerd")
    runtimes.carry("discard_unpacked_layers", "image", "discard_unpacked_layers")
    _snapshotter(runtimes, ("image", "snapshotter"))
    _handlers(runtimes)


def _version_3(images: Source) -> None:
    plain = tuple(key for key in images.table if key not in _ELSEWHERE)
    _only(images, plain).carry_known("image")
    images.carry("pinned_images", "image", "pinned_images")
    _snapshotter(images, ("image", "snapshotter"))
    for name, platform in images.inner("runtime_platforms").tables():
        platform.carry("platform", "image", "runtime_platforms", name, "platform")
        _snapshotter(platform, ("image", "runtime_platforms", name, "snapshotter"))


def _handlers(containerd: Source) -> None:
    """Each of its runtimes is a handler that images are pulled for: others are refused."""
    for name, runtime in containerd.inner("runtimes").tables():
        path = ("image", "runtime_platforms", name, "snapshotter")
        runtime.migration.set(path, "")
        if runtime.table.get("snapshotter"):
            _snapshotter(runtime, path)


def _snapshotter(source: Source, path: tuple[str, ...]) -> None:
    name = source.table.get("snapshotter")
    if name in _SNAPSHOTTERS:
        source.migration.set(path, _SNAPSHOTTERS[name])
    else:
        source.leave("snapshotter", "is no snapshotter of ours")


def _registry(registry: Source) -> None:
    registry.carry("config_path", "image", "registry", "config_path")
    registry.carry("headers", "image", "registry", "headers")
    registry.leave("auths", "give these logins by host, under configs")
    configs = registry.inner("configs")
    tls: dict[str, Mapping[str, Any]] = {}
    for host, config in configs.tables():
        for key in _LOGIN:
            config.inner("auth").carry(key, "image", "registry", "configs", host, "auth", key)
        tls[host] = tls_fields(config.inner("tls").table, _TLS)
    if registry.table.get("config_path"):
        registry.leave("mirrors", "containerd reads none where config_path is set")
        for _, config in configs.tables():
            config.leave("tls", "containerd reads none where config_path is set")
        return
    mirrors = Mirrors(registry.migration, tls)
    for name, mirror in registry.inner("mirrors").tables():
        mirrors.add(mirror, "endpoint", name)
    mirrors.add_servers()


def _only(source: Source, keys: tuple[str, ...]) -> Source:
    table = {key: value for key, value in source.table.items() if key in keys}
    return Source(source.file, source.path, table, source.migration)
