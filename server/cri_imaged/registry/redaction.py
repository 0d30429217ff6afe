"""Keeps secrets out of texts that strangers wrote (pure)."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

_MARK = "[secret]"
_SHORT = 6
"""A text shorter than this is not searched for inside words: it would be found anywhere."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with each secret replaced, longest first: a registry may echo what it was sent, as it
    was or escaped for URLs, JSON or HTML."""
    forms = {form for secret in secrets if secret for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= _SHORT:
            text = text.replace(form, _MARK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", _MARK, text)
    return text


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="", errors="surrogateescape")
    yield quote_plus(secret, errors="surrogateescape")
    yield json.dumps(secret)[1:-1]
    yield html.escape(secret)
