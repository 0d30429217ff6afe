"""Which program a file is of."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from cri_imaged.config.load import load_config
from cri_imaged.config.migrate import containerd, crio, k3s, registries_conf
from cri_imaged.config.migrate.migration import Migration, Source
from cri_imaged.errors import ConfigError


def migrate(files: Mapping[str, str]) -> Migration:
    """What the files' texts, by their names, mean for us; a later one goes over an earlier one.

    Raises:
        ConfigError: a file is malformed, of no kind that is known, or has a value that we refuse.
    """
    migration = Migration()
    for name, text in files.items():
        document = _parsed(name, text)
        _reader(name, document)(Source(name, "", document, migration))
    load_config(None, privileged=True, overrides=migration.settings)
    return migration


def _parsed(name: str, text: str) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(text) if name.endswith((".yaml", ".yml")) else tomllib.loads(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{name}: cannot be read: {error}") from None
    if not isinstance(document, Mapping):
        raise ConfigError(f"{name}: holds no table")
    return document


def _reader(name: str, document: Mapping[str, Any]) -> Callable[[Source], None]:
    if name.endswith((".yaml", ".yml")):
        return k3s.read
    if "crio" in document:
        return crio.read
    if not containerd.KEYS.isdisjoint(document):
        return containerd.read
    if "host" in document or "server" in document:
        raise ConfigError(
            f"{name}: a hosts.toml is read as it is: name the folder that has its registry's "
            "folder in image.registry.config_path"
        )
    if "registry" in document or "unqualified-search-registries" in document:
        return registries_conf.read
    if "registries" in document:
        return registries_conf.read_version_1
    raise ConfigError(
        f"{name}: neither containerd's, CRI-O's nor k3s' configuration, nor registries.conf"
    )
