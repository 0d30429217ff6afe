"""What bears our label in a proxy and has no row here: of a crash, or of when it was down."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import structlog

from cri_imaged.errors import ImagedError
from cri_imaged.metadata import snapshots, views
from cri_imaged.metadata.database import Database
from cri_imaged.snapshots.proxies.client import ProxyClient, ProxySnapshot
from cri_imaged.snapshots.tasks import Locks

log = structlog.get_logger(__name__)


def view_name(key: str) -> str:
    """What a view is called in a proxy."""
    return f"view-{key}"


class Leftovers:
    """Removes them. Whoever makes or names something in the proxy holds its name's lock."""

    def __init__(self, name: str, client: ProxyClient, database: Database, locks: Locks) -> None:
        self._name = name
        self._client = client
        self._database = database
        self._locks = locks

    async def remove_all(self) -> None:
        """What stands on others goes first. What cannot go now is tried again the next time.

        Raises:
            ImagedError: the proxy does not tell what it has.
        """
        found = {each.name: each for each in await self._client.list() if each.ours}
        for name in children_first(found):
            async with self._locks.hold(name):
                if not await self._is_known(name):
                    await self.forget(name)
        await self._client.clean_up()

    async def remove(self, name: str) -> None:
        """Remove one; the caller knows that it has no row. Raises `ImagedError`."""
        found = await self._client.stat(name)
        if found is not None and found.ours:
            await self._client.remove(name)

    async def forget(self, name: str) -> None:
        """Remove what no row stands for any more; later, where that fails now."""
        try:
            await self._client.remove(name)
        except ImagedError as error:
            log.warning("proxy snapshotter keeps what is not needed", name=name, error=str(error))

    async def _is_known(self, name: str) -> bool:
        def find(db: sqlite3.Connection) -> bool:
            return (
                snapshots.committed(db, self._name, name) is not None
                or snapshots.active(db, self._name, name) is not None
                or any(name == view_name(view.key) for view in views.every(db, self._name))
            )

        return await self._database.read(find)


def children_first(found: Mapping[str, ProxySnapshot]) -> list[str]:
    """Names in an order in which none is removed before what stands on it."""
    ordered: dict[str, None] = {}
    for name in found:
        line: dict[str, None] = {}
        while name in found and name not in ordered and name not in line:
            line[name] = None
            name = found[name].parent
        ordered.update(dict.fromkeys(reversed(line)))
    return list(reversed(ordered))
