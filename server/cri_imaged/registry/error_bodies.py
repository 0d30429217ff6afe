"""What a registry or token server says in the body of a refusal (pure).

The distribution specification has one form for it ("Error Codes"), OAuth2 another (RFC 6749, 5.2),
problem details a third (RFC 9457), and many proxies and registries have their own, down to plain
text. Whatever it is, a short text comes of it: it is often all that tells why.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cri_imaged.oci import lenient_json
from cri_imaged.registry.failures import printable
from cri_imaged.registry.redaction import redact

_SHOWN_ERRORS = 5
_SHOWN_TEXT = 200
_SHOWN_CODE = 80
_DEPTH = 6
# Names in lower case, and without what parts their words.
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
    "statustext",
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
    "status",
)
_PARTING = str.maketrans("", "", "_- ")
_CUT_JSON = re.compile(r"\s*[\[{]\s*[\"\[{]")
_XML = re.compile(r"<(?:\w+:)?(Code|Message)>(?:<!\[CDATA\[)?([^<\]]+)(?:\]\]>)?</", re.IGNORECASE)
"""As object stores answer."""
_TITLE = re.compile(r"<title\b[^<>]*>([^<]+)</title", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Said:
    code: str
    texts: tuple[str, ...]


def describe_body(body: bytes, secrets: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Error codes and a short text; empty where it says nothing. Of a page for browsers that is
    its title. `secrets` are left out: a host may echo them."""
    kept = tuple(secrets)
    said = list(islice(_errors(body), _SHOWN_ERRORS))
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
        value = lenient_json.decode(body.removeprefix(codecs.BOM_UTF8), object)
    except ValueError:
        yield from _in_text(body.decode(errors="replace").strip())
        return
    yield from _found(value, _DEPTH)


def _in_text(text: str) -> Iterator[_Said]:
    """The errors in what is no JSON as a whole."""
    if text.startswith("<"):
        said = {name.lower(): html.unescape(value) for name, value in _XML.findall(text)}
        title = _TITLE.search(text)
        if said:
            yield from _found(said, 1)
        elif title is not None and (shown := html.unescape(title[1]).strip()):
            yield _Said("", (shown,))
    elif _CUT_JSON.match(text):
        for line in text.splitlines():
            with suppress(ValueError):
                yield from _found(lenient_json.decode(line.encode(), dict[str, Any]), _DEPTH)
    elif text:
        yield _Said("", (text,))


def _found(value: Any, depth: int) -> Iterator[_Said]:
    """The errors in some JSON."""
    if isinstance(value, str) and value.strip():
        yield _Said("", (value,))
    elif isinstance(value, list) and depth:
        for one in value[:_SHOWN_ERRORS]:
            yield from _found(one, depth - 1)
    elif isinstance(value, dict) and depth:
        value = {name.lower().translate(_PARTING): each for name, each in value.items()}
        said = _said(value)
        if said.code or said.texts:
            yield said
        for name in _NESTED:
            yield from _nested(
                value.get(name), depth - 1, by_name=name == "errors" or not said.texts
            )


def _nested(value: Any, depth: int, *, by_name: bool) -> Iterator[_Said]:
    """The errors within one. `by_name`: whether a dictionary without any may be one of texts, by
    the names of what each is about."""
    if not isinstance(value, (dict, list)):
        return
    found = list(_found(value, depth))
    yield from found
    if found or not by_name or not isinstance(value, dict) or not depth:
        return
    for name, each in islice(value.items(), _SHOWN_ERRORS):
        for said in _found(each, depth - 1):
            yield _Said(said.code, (name, *said.texts))


def _said(value: dict[str, Any]) -> _Said:
    texts = _texts(value, _TEXTS) or _texts(value, ("status",))
    for name in _CODES:
        code = value.get(name)
        if isinstance(code, (str, int)) and not isinstance(code, bool) and code != "":
            return _Said(str(code), texts)
    return _Said("", texts)


def _texts(value: dict[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    found = (value.get(name) for name in names)
    return tuple(dict.fromkeys(text for text in found if isinstance(text, str) and text.strip()))
