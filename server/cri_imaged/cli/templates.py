"""The few templates of Go's that people type after `--format`: fields in double braces (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cri_imaged.cli.failure import ExitCode, Failure

_ACTION = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_FIELD = re.compile(r"(json\s+)?\.([\w.]*)", re.ASCII)
_ESCAPES = {"\\t": "\t", "\\n": "\n"}


class Template:
    """`{{.Field}}`, `{{json .Field}}` and `{{json .}}` in a text, with `\\t` and `\\n` for tab and
    new line."""

    def __init__(self, text: str, known: Sequence[str]) -> None:
        """`known` are the names of the fields.

        Raises:
            Failure: it holds anything else.
        """
        for escape, character in _ESCAPES.items():
            text = text.replace(escape, character)
        if "{{" in _ACTION.sub("", text):
            raise Failure(ExitCode.USAGE, "the template has a {{ without its }}")
        self._text = text
        self.names = [self._checked(action, known)[1] for action in _ACTION.findall(text)]
        """Of the fields, in their order; empty for `{{json .}}`."""

    def render(self, fields: Mapping[str, Any]) -> str:
        """The text with these fields: strings as they are, None as nothing, all else as JSON. Part
        of all of them are those alone whose name leads into no other."""

        def value(action: re.Match[str]) -> str:
            as_json, name = self._checked(action[1], tuple(fields))
            if not name:
                found: Any = {key: each for key, each in fields.items() if "." not in key}
            else:
                found = "" if fields[name] is None and not as_json else fields[name]
            return found if isinstance(found, str) and not as_json else json.dumps(found)

        return _ACTION.sub(value, self._text)

    @staticmethod
    def _checked(action: str, known: Sequence[str]) -> tuple[bool, str]:
        found = _FIELD.fullmatch(action)
        if found and (found[2] in known or (found[1] and not found[2])):
            return bool(found[1]), found[2]
        raise Failure(
            ExitCode.USAGE,
            f"the template has {{{{{action}}}}}, which is none of its fields",
            f"fields are {', '.join(f'.{name}' for name in known)}; "
            "`{{json .}}` is all of them",
        )
