"""What can be wrong on a node: each finding with its remedy."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cri_imaged import __file__ as package
from cri_imaged.config import Config
from cri_imaged.config.options import ContainerdOptions
from cri_imaged.errors import ConfigError, ImagedError, RegistryError
from cri_imaged.full_disk import has_inodes
from cri_imaged.registry.auth.provider_config import files_of, read_providers
from cri_imaged.registry.hosts.directory import HostsDirectory
from cri_imaged.rpc.node.v1 import runtimes_pb2, upkeep_pb2

KUBELET_CONFIG = Path("var/lib/kubelet/config.yaml")
_SYSTEMD = Path("run/systemd/system")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and what to do."""

    what: str
    remedy: str


def of_runtimes(config: Config, runtimes: runtimes_pb2.ListRuntimesResponse) -> Iterator[Finding]:
    """What the daemon says of its runtimes."""
    if not runtimes.runtimes:
        yield Finding(
            "no runtime runs the images that are pulled here", "cri-imaged setup containerd"
        )
    for each in runtimes.runtimes:
        if not each.up:
            yield Finding(f"{each.name} is not reached: {each.problem}", f"is {each.name} running?")
        elif each.owed:
            yield Finding(
                f"{each.name} does not know {each.owed} images yet: {each.problem}",
                "is its snapshotter the proxy plugin of this daemon? see "
                "`cri-imaged setup containerd --dry-run`",
            )
        if each.foreign_images:
            yield Finding(
                f"{each.name} has images from elsewhere, which the kubelet's collector does not "
                f"see: {', '.join(each.foreign_images)}",
                _removal(config, each.foreign_images),
            )
    if config.runtime.containerd is not None:
        yield from _of_socket(config.runtime.snapshots_address)


def _removal(config: Config, names: Iterable[str]) -> str:
    containerd = config.runtime.containerd or ContainerdOptions()
    where = f"--address {containerd.address} --namespace {containerd.namespace}"
    return f"ctr {where} images remove {shlex.join(names)}"


def _of_socket(path: Path) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield Finding(f"{path}: {error.strerror}", "systemctl restart cri-imaged")
        return
    if stat.S_IMODE(mode) & 0o077:
        yield Finding(f"{path} may be used by others than root", f"chmod 600 {path}")


def of_images(config: Config, tags: set[str]) -> Iterator[Finding]:
    """Images that a node cannot do without."""
    for use, reference in config.image.required_images.items():
        if str(reference) not in tags:
            yield Finding(
                f"the {use} image {reference} is missing: no pod can start",
                f"cri-imaged pull {reference}",
            )


def of_preloads(found: upkeep_pb2.ListPreloadsResponse) -> Iterator[Finding]:
    """What was to be here before anybody asks for it, and is not."""
    if found.folder_problem:
        yield Finding(found.folder_problem, "mend the folder, or image.preload.directory")
    for each in found.preloads:
        if each.state == upkeep_pb2.PRELOAD_STATE_FAILED:
            yield Finding(
                f"{each.name} cannot be preloaded: {each.problem}",
                f"cri-imaged pull {shlex.quote(each.name)}"
                if each.kind == upkeep_pb2.PRELOAD_KIND_IMAGE
                else "put another archive in its place, or take it out of the folder",
            )


def of_kubelet(config: Config, root: Path) -> Iterator[Finding]:
    """What the kubelet's configuration says, where it has one in the usual place."""
    file = root / KUBELET_CONFIG
    try:
        text = file.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield Finding(f"{file}: cannot be read: {error.strerror}", "mend it, or run this as root")
        return
    found = re.search(r"^imageServiceEndpoint:\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
    wanted = f"unix://{config.grpc.address}"
    if found is None:
        yield Finding(
            f"{file} has no imageServiceEndpoint: the kubelet pulls with its runtime",
            f"set imageServiceEndpoint: {wanted}, and restart the kubelet",
        )
    elif found[1] != wanted:
        yield Finding(f"{file} says imageServiceEndpoint: {found[1]}", f"set it to {wanted}")


def of_units(root: Path) -> Iterator[Finding]:
    """The order in which systemd starts things."""
    if not (root / _SYSTEMD).is_dir():
        return
    command = ["systemctl", "show", "--property=Before", "cri-imaged.service"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return  # this is a container that sees the host's /run
    for unit in ("containerd.service", "kubelet.service"):
        if unit not in shown:
            yield Finding(
                f"cri-imaged is not started before {unit}",
                f"add Before={unit} to cri-imaged.service, then systemctl daemon-reload",
            )


def of_disk(config: Config) -> Iterator[Finding]:
    """Space for pulls."""
    if not os.path.isdir(config.root):  # the Path's own would raise where it may not look
        yield Finding(f"{config.root} is not there", "cri-imaged serve, as root")
        return
    space = os.statvfs(config.root)
    free = space.f_bavail * space.f_frsize
    if free <= config.image.disk_reserve:
        yield Finding(
            f"{config.root} has {free >> 20} MiB free: pulls are refused below "
            f"{config.image.disk_reserve >> 20} MiB (image.disk_reserve)",
            "remove images, or make the file system larger",
        )
    if not has_inodes(space):
        yield Finding(
            f"{config.root} has {space.f_favail} of {space.f_files} inodes free: pulls leave 5 % "
            "of them free",
            "remove images or files",
        )


def of_clock() -> Iterator[Finding]:
    """A clock that certificates and tokens would be refused by."""
    if time.time() < Path(package).stat().st_mtime - 86400:
        yield Finding("the clock is behind the installation of this program", "set the clock")


def of_names(config: Config) -> Iterator[Finding]:
    """Whether the registries' names can be resolved, but for one that has a mirror."""
    directory = HostsDirectory(config.image.registry.config_path, {})
    for registry in sorted({each.registry for each in config.image.required_images.values()}):
        try:
            *mirrors, last = directory.hosts(registry)
        except ImagedError:
            continue  # a file that is found elsewhere, or blocked on purpose
        if not mirrors:
            yield from _of_name(urlsplit(last.url("")).hostname or "", "the configuration")


def _of_name(host: str, source: str) -> Iterator[Finding]:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        yield Finding(
            f"the name {host}, which {source} has, cannot be resolved: {error.strerror}",
            "see /etc/resolv.conf, or name a mirror in hosts.toml",
        )


def of_hosts(config: Config) -> Iterator[Finding]:
    """Each hosts.toml: whether it can be read, and whether the hosts that it names are there."""
    for path in map(Path, filter(None, config.image.registry.config_path.split(":"))):
        directory = HostsDirectory(str(path), {})
        for registry in _registries(path):
            try:
                hosts = directory.hosts(registry)
            except ConfigError as error:
                yield Finding(f"{error}: pulls from {registry} fail", "mend that file")
                continue
            except RegistryError:
                continue  # blocked on purpose
            for host in hosts[:-1]:  # the last one is the registry itself
                yield from _of_name(urlsplit(host.url("")).hostname or "", f"{path}/{registry}")


def _registries(folder: Path) -> list[str]:
    """The registries that have a folder in `folder`, and what stands for all others; containerd
    writes a port as `_PORT_`."""
    try:
        names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    except OSError:
        return []
    return [re.sub(r"_(\d+)_$", r":\1", name) for name in names]


def of_credential_providers(config: Config) -> Iterator[Finding]:
    """The kubelet's configuration of them: whether it can be read, and whether they are there."""
    registry = config.image.registry
    if not registry.credential_provider_config:
        return
    path = Path(registry.credential_provider_config)
    try:
        providers = read_providers(files_of(path))
    except ConfigError as error:
        yield Finding(f"{error}: pulls that need a login fail", "mend that file")
        return
    except OSError as error:
        yield Finding(f"{path}: cannot be read: {error.strerror}", "name the kubelet's file")
        return
    for provider in providers:
        program = Path(registry.credential_provider_bin_dir, provider.name)
        if not os.access(program, os.X_OK):
            yield Finding(
                f"{program}, a credential provider of {path}, is no program",
                "install it, or set image.registry.credential_provider_bin_dir",
            )


def of_programs(config: Config) -> Iterator[Finding]:
    """What containerd needs beside itself."""
    if config.runtime.containerd is not None and shutil.which("runc") is None:
        yield Finding("runc is not in PATH", "install runc, or another OCI runtime")
