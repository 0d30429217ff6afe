"""What containerd makes of its configuration, compared with what it has to be for us."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cri_imaged.cli.diagnosis import Finding
from cri_imaged.config import Config
from cri_imaged.config.options import ContainerdOptions
from cri_imaged.errors import ImagedError
from cri_imaged.oci.reference import Reference

CONFIG = Path("etc/containerd/config.toml")
_DUMP_SECONDS = 20.0
_SETUP = "cri-imaged setup containerd, then restart containerd"


def of_containerd(config: Config, root: Path) -> Iterator[Finding]:
    """What pods cannot start with. Only where containerd's program is in PATH, and its file in the
    usual place is the one of the containerd that we are configured for."""
    options = config.runtime.containerd
    program = shutil.which("containerd")
    if options is None or program is None or not os.path.isfile(root / CONFIG):
        return  # is_file() of a Path would raise where it may not look
    try:
        found = _effective(program, root / CONFIG)
    except ValueError as error:
        yield Finding(f"containerd does not take {root / CONFIG}: {error}", "mend that file")
        return
    if _address(found) == str(options.address):
        yield from _of_plugin(config, options, found)
        yield from _of_pause(config, found)


def _effective(program: str, file: Path) -> dict[str, Any]:
    """All that `file` and what it imports say, brought to containerd's newest version, with the
    default values. Raises `ValueError` where containerd cannot tell."""
    try:
        run = subprocess.run(
            [program, "--config", file, "config", "dump"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_DUMP_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(str(error)) from None
    if run.returncode:
        raise ValueError(run.stderr.strip().rpartition("\n")[2])
    return tomllib.loads(run.stdout)


def _of_plugin(
    config: Config, options: ContainerdOptions, found: dict[str, Any]
) -> Iterator[Finding]:
    plugin = _at(found, "proxy_plugins", options.snapshotter)
    address = str(config.runtime.snapshots_address)
    if not plugin:
        yield Finding(f"containerd has no proxy plugin {options.snapshotter!r}", _SETUP)
    elif plugin.get("address") != address:
        yield Finding(
            f"containerd's proxy plugin {options.snapshotter!r} is at {plugin.get('address')}, and "
            f"we serve at {address}",
            _SETUP,
        )
    used = _at(found, "plugins", "io.containerd.cri.v1.images").get("snapshotter")
    if used != options.snapshotter:
        yield Finding(
            f"containerd's pods are given snapshotter {used!r}, which has no layer of what is "
            f"pulled here, instead of {options.snapshotter!r}",
            _SETUP,
        )


def _of_pause(config: Config, found: dict[str, Any]) -> Iterator[Finding]:
    pinned = _at(found, "plugins", "io.containerd.cri.v1.images", "pinned_images")
    name = str(pinned.get("sandbox", ""))
    try:
        needed = Reference.parse(name)
    except ImagedError:
        return
    kept = list(config.image.required_images.values())
    if needed not in kept:
        shown = ", ".join(map(str, kept)) or "none"
        yield Finding(
            f"containerd's pods need the pause image {needed}, and kept here is {shown}",
            f'set sandbox = "{needed}" under [image.pinned_images] in our configuration and '
            f"restart cri-imaged, or: {_SETUP}",
        )


def _address(found: dict[str, Any]) -> object:
    """Where it serves: a plugin's key since 2.3."""
    server = _at(found, "plugins", "io.containerd.server.v1.grpc") or _at(found, "grpc")
    return server.get("address")


def _at(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        inner = document.get(key)
        document = inner if isinstance(inner, dict) else {}
    return document
