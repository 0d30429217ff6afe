"""`rewrite` in hosts.toml: what a mirror calls a repository (pure; k3s' extension).

A table from regular expressions to replacements, in which `$1` and `${name}` stand for groups, as
in k3s' `registries.yaml`. The first expression that changes the name counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_GROUP = re.compile(r"\$(?:\{(\w+)\}|(\w+)|(\$))")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One row."""

    pattern: re.Pattern[str]
    replacement: str

    @classmethod
    def of(cls, pattern: str, replacement: str) -> Rewrite:
        """Raises `re.error` where `pattern` is no regular expression."""
        return cls(re.compile(pattern), replacement)

    def apply(self, repository: str) -> str:
        """`repository` with each match replaced. As in Go, a match of nothing counts only where no
        other one ends: `(.*)` matches once."""
        parts: list[str] = []
        end = -1
        for found in self.pattern.finditer(repository):
            if found.span() != (end, end):
                parts += [repository[max(end, 0) : found.start()], self._expanded(found)]
                end = found.end()
        return "".join([*parts, repository[max(end, 0) :]])

    def _expanded(self, found: re.Match[str]) -> str:
        groups: Mapping[str, str | None] = {
            "0": found[0],
            **{str(number): text for number, text in enumerate(found.groups(), 1)},
            **found.groupdict(),
        }
        return _GROUP.sub(
            lambda sign: "$" if sign[3] else groups.get(sign[1] or sign[2]) or "", self.replacement
        )
