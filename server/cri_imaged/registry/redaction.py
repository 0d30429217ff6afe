"""Keeps secrets out of texts that strangers wrote (pure)."""

from __future__ import annotations

from collections.abc import Iterable

_MARK = "[secret]"


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with each secret replaced, longest first: a registry may echo what it was sent."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, _MARK)
    return text
