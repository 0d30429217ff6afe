"""Short names that stand for whole ones, as in containers' `registries.conf` (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from cri_imaged.errors import ImagedError
from cri_imaged.oci.reference import DOCKER_HUB, Reference, split_tag


def expanded(name: str, aliases: Mapping[str, str]) -> str:
    """`name` as a client gives it, with the alias that it begins with replaced; tag and digest
    stay."""
    short, _tag = split_tag(name.partition("@")[0])
    return aliases[short] + name[len(short) :] if short in aliases else name


def check_aliases(aliases: Mapping[str, str]) -> None:
    """Raises `ValueError` where an alias could be anything but a short name, or its meaning
    anything but a repository with its registry."""
    for short, name in aliases.items():
        if not _is_short(short):
            raise ValueError(f'aliases."{short}" is no short name, want for example "fedora"')
        found = _repository(name)
        if found is None or found.name != name:
            raise ValueError(
                f'aliases."{short}": {name!r} is no repository with its registry, want for example '
                '"registry.fedoraproject.org/fedora"'
            )


def _is_short(name: str) -> bool:
    """Whether `name` is one of Docker Hub's that does not say so."""
    found = _repository(name)
    if found is None or found.registry != DOCKER_HUB:
        return False
    return name in (found.repository, found.repository.removeprefix("library/"))


def _repository(name: str) -> Reference | None:
    """What `name` stands for; None where that is no repository."""
    try:
        found = Reference.parse(name)
    except ImagedError:
        return None
    return found if found.tag is None and found.digest is None else None
