"""Text of strangers, made safe to show on a terminal."""

from __future__ import annotations


def escaped(text: str) -> str:
    """`text` on one line, with all that is not printable as escapes: what a registry or an image
    says must not command a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
