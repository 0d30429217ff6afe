"""What comes of a migration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cri_imaged.config.load import known_keys
from cri_imaged.config.migrate.hosts import RegistryHosts
from cri_imaged.config.options import Config
from cri_imaged.errors import ConfigError

STANDARD_INPUT = "-"
"""Name of the file that nobody knows the imports of; those of others are given with it."""
_T = TypeVar("_T")
_KNOWN = frozenset(known_keys(Config))


@dataclass(frozen=True, slots=True)
class Left:
    """A setting that could not be carried over."""

    file: str
    key: str
    """With its whole path in that file. Never a value: it may be a password."""
    why: str


@dataclass(slots=True)
class Migration:
    """Our configuration as far as it is known; files add to it one after the other."""

    settings: dict[str, Any] = field(default_factory=dict)
    """A document for config.toml."""
    hosts: dict[str, RegistryHosts] = field(default_factory=dict)
    """By the name of the folder that the registry's hosts.toml goes to."""
    left: list[Left] = field(default_factory=list)

    def set(self, path: tuple[str, ...], value: Any) -> None:
        """Set the key at `path`, over what an earlier file said."""
        table = self.settings
        for name in path[:-1]:
            table = table.setdefault(name, {})
        table[path[-1]] = value

    def registry(self, name: str) -> RegistryHosts:
        """The hosts of registry `name`, as `docker.io`; of every other one: `*`."""
        folder = "_default" if name == "*" else name
        return self.hosts.setdefault(folder, RegistryHosts(folder))


@dataclass(frozen=True, slots=True)
class Source:
    """A table of the file that is read, and where it stands."""

    file: str
    path: str
    table: Mapping[str, Any]
    migration: Migration

    def inner(self, *names: str) -> Source:
        """The table at these names below this one; empty where there is none."""
        found: Any = self.table
        for name in names:
            found = found.get(name, {}) if isinstance(found, Mapping) else {}
        path = ".".join([*filter(None, [self.path]), *map(_shown, names)])
        return Source(self.file, path, found if isinstance(found, Mapping) else {}, self.migration)

    def tables(self) -> list[tuple[str, Source]]:
        """The tables in this one, by name."""
        return [
            (name, self.inner(name))
            for name, value in self.table.items()
            if isinstance(value, Mapping)
        ]

    def strings(self, key: str) -> list[str]:
        """The strings listed under `key`. Raises `ConfigError` where it is another thing."""
        return self._listed(key, str)

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The tables listed under `key`. Raises `ConfigError` where it is another thing."""
        return self._listed(key, dict)

    def _listed(self, key: str, kind: type[_T]) -> list[_T]:
        found = self.table.get(key) or []
        if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
            wanted = "strings" if kind is str else "tables"
            raise ConfigError(f"{self.file}: {self._named(key)} is no list of {wanted}")
        return found

    def carry(self, key: str, *path: str) -> None:
        """Set our key at `path` to this table's `key`, where it says something."""
        if key in self.table and self.table[key] not in ("", [], {}):
            self.migration.set(path, self.table[key])

    def carry_known(self, table: str) -> None:
        """Carry every key over that our `table` has by the same name, and list the others."""
        for key in self.table:
            if f"{table}.{key}" in _KNOWN:
                self.carry(key, *table.split("."), key)
            else:
                self.leave(key, "has no counterpart here")

    def leave(self, key: str, why: str) -> None:
        """List this table's `key`, where it says something."""
        if self.table.get(key) not in (None, "", [], {}, False):
            self.migration.left.append(Left(self.file, self._named(key), why))

    def _named(self, key: str) -> str:
        return f"{self.path}.{_shown(key)}" if self.path else _shown(key)


def _shown(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else f'"{key}"'
