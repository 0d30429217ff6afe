"""What the images of a registry or repository need to be pulled (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cri_imaged.oci.authority import canonical_authority
from cri_imaged.oci.reference import Reference

EVERY = "*"
"""The prefix of all repositories."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What all below one prefix needs."""

    match: str
    """`registry`, `registry/path` or `EVERY`."""
    require: Literal["accept", "reject", "signed"]
    keys: tuple[Path, ...] = ()
    """Files of public keys, one of which has to have signed."""

    def __str__(self) -> str:
        return f'the policy for "{self.match}"'


class Policy:
    """Rules, of which the one with the longest prefix counts."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = {rule.match: rule for rule in rules}

    def rule(self, reference: Reference) -> Rule | None:
        """The rule for a repository, None where there is none. Prefixes are of whole components:
        `registry/team` says nothing of `registry/teammate`. A registry is one and the same however
        it is spelt."""
        parts = (canonical_authority(reference.registry), *reference.repository.split("/"))
        prefixes = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
        found = (self.rules.get(prefix) for prefix in (*prefixes, EVERY))
        return next(filter(None, found), None)
