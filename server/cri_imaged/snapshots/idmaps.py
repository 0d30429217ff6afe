"""IDs of a user namespace, as containerd's labels give them for a snapshot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cri_imaged.errors import InvalidRequestError
from cri_imaged.ports.runtimes import GID_MAP_LABEL, UID_MAP_LABEL

_MAP = re.compile(r"(?a:\d{1,10}:\d{1,10}:\d{1,10}(?:,\d{1,10}:\d{1,10}:\d{1,10}){0,339})")
"""Lines of /proc/PID/uid_map (user_namespaces(7)), at most as many as the kernel takes."""

_NOBODY = 0xFFFFFFFF
"""The number that is no user's and no group's."""


@dataclass(frozen=True, slots=True)
class IdMaps:
    """Maps of user and group IDs, each `container:host:length` joined by commas."""

    uids: str
    gids: str

    @property
    def options(self) -> Sequence[str]:
        """Of a mount, for containerd, which maps the lower directories itself (core/mount)."""
        return (f"uidmap={self.uids}", f"gidmap={self.gids}")

    @property
    def root(self) -> tuple[int, int]:
        """User and group ID on this machine of the container's root.

        Raises:
            InvalidRequestError: the container has none.
        """
        return _host(self.uids), _host(self.gids)


def id_maps(labels: Mapping[str, str]) -> IdMaps | None:
    """The maps that `labels` ask for.

    Raises:
        InvalidRequestError: they are malformed, or one is missing.
    """
    maps = labels.get(UID_MAP_LABEL), labels.get(GID_MAP_LABEL)
    uids, gids = maps
    if uids is None and gids is None:
        return None
    if uids is None or gids is None or not all(_MAP.fullmatch(each or "") for each in maps):
        raise InvalidRequestError(
            f"labels {UID_MAP_LABEL}={uids!r} and {GID_MAP_LABEL}={gids!r} must both be ID maps, "
            "container:host:length joined by commas"
        )
    return IdMaps(uids, gids)


def _host(maps: str) -> int:
    for each in maps.split(","):
        inside, host, length = map(int, each.split(":"))
        if inside == 0 and length and host < _NOBODY:
            return host
    raise InvalidRequestError(f"ID map {maps!r} maps no root")
