"""What templates call the parts of an image, by Docker's names (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cri_imaged.rpc.runtime.v1 import api_pb2

_OF_CONFIG = (
    "User",
    "Env",
    "Entrypoint",
    "Cmd",
    "WorkingDir",
    "Labels",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
)
FIELDS = (
    "Id",
    "RepoTags",
    "RepoDigests",
    "Created",
    "Os",
    "Architecture",
    "Variant",
    "Size",
    "Pinned",
    "RootFS.Layers",
    "Config",
    *(f"Config.{name}" for name in _OF_CONFIG),
)
"""A dot leads into a part."""


def fields_of(image: api_pb2.Image, spec: Mapping[str, Any]) -> dict[str, Any]:
    """All of `FIELDS`, None for what nobody says. `spec` is the image's config, which nobody has
    checked."""
    config, layers = _table(spec.get("config")), _table(spec.get("rootfs"))
    found = {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Created": spec.get("created"),
        "Os": spec.get("os"),
        "Architecture": spec.get("architecture"),
        "Variant": spec.get("variant"),
        "Size": image.size,
        "Pinned": image.pinned,
        "RootFS.Layers": layers.get("diff_ids"),
        "Config": config,
    }
    return found | {f"Config.{name}": config.get(name) for name in _OF_CONFIG}


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
