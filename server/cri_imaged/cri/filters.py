"""containerd's filters (pkg/filters): `kind==active,labels."a.b/c"==x`, for a List of snapshots."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cri_imaged.errors import InvalidRequestError
from cri_imaged.ports import RuntimeSnapshot

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_FIELD = rf"(?:[A-Za-z][A-Za-z0-9_]*)(?:\.(?:[A-Za-z0-9_]+|{_QUOTED}))*"
_SELECTOR = re.compile(
    rf"(?P<field>{_FIELD})(?:(?P<operator>==|!=|~=)(?P<value>{_QUOTED}|[^\s,\"]*))?(?:,|$)"
)
_PART = re.compile(rf"{_QUOTED}|[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class _Selector:
    path: tuple[str, ...]
    operator: str
    value: str

    def matches(self, snapshot: RuntimeSnapshot) -> bool:
        found = _value(snapshot, self.path)
        match self.operator:
            case "==":
                return found == self.value
            case "!=":
                return (found or "") != self.value
            case "~=":
                return found is not None and re.search(self.value, found) is not None
        return found is not None


def matcher(filters: Sequence[str]) -> Callable[[RuntimeSnapshot], bool]:
    """Whether a snapshot matches any of `filters`; every one does where there are none.

    Raises:
        InvalidRequestError: one of them is malformed.
    """
    wanted = [_parse(each) for each in filters if each]
    if not wanted:
        return lambda snapshot: True
    return lambda snapshot: any(
        all(selector.matches(snapshot) for selector in selectors) for selectors in wanted
    )


def _parse(text: str) -> list[_Selector]:
    selectors, end = [], 0
    while end < len(text):
        found = _SELECTOR.match(text, end)
        if found is None:
            raise InvalidRequestError(f"filter {text!r} is malformed at character {end + 1}")
        end = found.end()
        path = tuple(_bare(part) for part in _PART.findall(found["field"]))
        selector = _Selector(path, found["operator"] or "", _bare(found["value"] or ""))
        if selector.operator == "~=":
            _compile(selector.value)
        selectors.append(selector)
    return selectors


def _compile(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise InvalidRequestError(f"filter's pattern {pattern!r} is malformed: {error}") from None


def _bare(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        raise InvalidRequestError(f"filter's text {text} is malformed") from None


def _value(snapshot: RuntimeSnapshot, path: tuple[str, ...]) -> str | None:
    """What a snapshot has at `path`; None: it has no such thing."""
    match path:
        case ("name",):
            return snapshot.name
        case ("parent",):
            return snapshot.parent
        case ("kind",):
            return snapshot.kind.value
        case ("labels", *key) if key:
            return snapshot.labels.get(".".join(key))
    return None
