"""`WWW-Authenticate` challenges (RFC 9110, 11.6.1), read leniently from untrusted headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_UNQUOTED = re.compile(r'[^\s,"]*')
_SPACE = re.compile(r"[ \t]*")
_SEPARATORS = re.compile(r"[ \t,]*")
_MOST = 16 << 10
"""Characters that are looked at, of all headers together: to parse takes microseconds for each."""
_MOST_CHALLENGES = 50
"""Of one header."""
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge. Scheme and parameter names are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of a response's `WWW-Authenticate` headers, in order.

    A header may hold several. Where a header stops making sense, the rest of it is ignored; so is
    what goes on for too long.
    """
    found: list[Challenge] = []
    left = _MOST
    for header in headers:
        found += _parse(header[:left])
        left -= len(header[:left])
    return tuple(found)


def reason_of(challenges: Iterable[Challenge]) -> str:
    """What the first of them that says it gives as the reason of a refusal (RFC 6750, 3), or ""."""
    for challenge in challenges:
        for name in ("error_description", "error"):
            if said := challenge.parameters.get(name):
                return said
    return ""


def _parse(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = _skip(_SEPARATORS, text, 0)
    while len(found) < _MOST_CHALLENGES and (scheme := _TOKEN.match(text, at)):
        parameters, at = _parameters(text, _skip(_SPACE, text, scheme.end()))
        found.append(Challenge(scheme.group().lower(), parameters))
        at = _skip(_SEPARATORS, text, at)
    return found


def _parameters(text: str, at: int) -> tuple[dict[str, str], int]:
    """The parameters that begin at `at`, and where the next challenge may begin."""
    parameters: dict[str, str] = {}
    while name := _TOKEN.match(text, at):
        equals = _skip(_SPACE, text, name.end())
        if text[equals : equals + 1] != "=":
            break
        start = _skip(_SPACE, text, equals + 1)
        quoted = _QUOTED.match(text, start)
        if quoted is not None:
            value, at = _ESCAPE.sub(r"\1", quoted.group(1)), quoted.end()
        else:
            end = _skip(_UNQUOTED, text, start)
            value, at = text[start:end], end
        parameters.setdefault(name.group().lower(), value)
        after = _skip(_SPACE, text, at)
        if text[after : after + 1] != ",":
            break
        at = _skip(_SEPARATORS, text, after)
    return parameters, at


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
