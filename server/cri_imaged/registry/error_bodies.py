"""What a registry or token server says in the body of a refusal (pure).

The distribution specification has one form for it ("Error Codes"), OAuth2 another (RFC 6749, 5.2),
problem details a third (RFC 9457), and many proxies and registries have their own, down to plain
text. Whatever it is, a short text comes of it: it is often all that tells why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cri_imaged.oci import lenient_json
from cri_imaged.registry.failures import printable
from cri_imaged.registry.redaction import redact

_SHOWN_ERRORS = 5
_SHOWN_TEXT = 200
_SHOWN_CODE = 80
_DEPTH = 4
# Names in lower case and without underscores.
_CODES = ("code", "error", "errorcode")
_TEXTS = (
    "message",
    "msg",
    "errormessage",
    "errordescription",
    "description",
    "detail",
    "details",
    "title",
    "reason",
    "errors",
    "err",
    "errortext",
    "exception",
    "usermessage",
    "text",
    "info",
    "summary",
    "cause",
    "hint",
    "help",
)
_NESTED = (
    "errors",
    "error",
    "err",
    "detail",
    "details",
    "fault",
    "message",
    "messages",
    "data",
    "response",
    "result",
    "cause",
)
_CUT_JSON = re.compile(r"\s*[\[{]\s*[\"\[{]")
_XML = re.compile(r"<(Code|Message)>([^<]+)</", re.IGNORECASE)
"""As object stores answer."""


@dataclass(frozen=True, slots=True)
class _Said:
    code: str
    texts: tuple[str, ...]


def describe_body(body: bytes, secrets: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Error codes and a short text; empty where it says nothing, or is a page for browsers.
    `secrets` are left out: a host may echo them."""
    kept = tuple(secrets)
    said = list(_errors(body))[:_SHOWN_ERRORS]
    codes = tuple(_shown(one.code, kept, _SHOWN_CODE) for one in said if one.code)
    text = "; ".join(
        ": ".join(_shown(part, kept, _SHOWN_TEXT) for part in (one.code, *one.texts) if part)
        for one in said
    )
    return codes, text


def describe_text(text: str, secrets: Iterable[str]) -> str:
    """A short text of what a host said elsewhere than in a body."""
    return _shown(text, secrets, _SHOWN_TEXT)


def _shown(text: str, secrets: Iterable[str], limit: int) -> str:
    return printable(" ".join(redact(text, secrets).split()), limit)


def _errors(body: bytes) -> Iterator[_Said]:
    try:
        value = lenient_json.decode(body, object)
    except ValueError:
        text = body.decode(errors="replace").strip()
        if text.startswith(("<?xml", "<Error")):
            said = {name.lower(): value for name, value in _XML.findall(text)}
            yield from _found(said, 1)
        elif text and not text.startswith("<") and not _CUT_JSON.match(text):
            yield _Said("", (text,))
        return
    yield from _found(value, _DEPTH)


def _found(value: Any, depth: int) -> Iterator[_Said]:
    """The errors in some JSON."""
    if isinstance(value, str) and value.strip():
        yield _Said("", (value,))
    elif isinstance(value, list) and depth:
        for one in value[:_SHOWN_ERRORS]:
            yield from _found(one, depth - 1)
    elif isinstance(value, dict) and depth:
        value = {name.lower().replace("_", ""): each for name, each in value.items()}
        said = _said(value)
        if said.code or said.texts:
            yield said
        for name in _NESTED:
            if isinstance(value.get(name), (dict, list)):
                yield from _found(value[name], depth - 1)


def _said(value: dict[str, Any]) -> _Said:
    texts = dict.fromkeys(
        text
        for text in (value.get(name) for name in _TEXTS)
        if isinstance(text, str) and text.strip()
    )
    for name in _CODES:
        code = value.get(name)
        if isinstance(code, (str, int)) and not isinstance(code, bool) and code != "":
            return _Said(str(code), tuple(texts))
    return _Said("", tuple(texts))
