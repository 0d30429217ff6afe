"""A page for people who watch the node: one HTML file, and a stream of what is new.

It shows names of images and pods, so it is for this machine alone: the address is a loopback one,
and a request has to name such a one too. Else a site that has its name point here would read it
through a browser of somebody's (DNS rebinding).
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

from cri_imaged.limits import PAGE_WATCHERS

_FILE = Path(__file__).with_name("page.html")
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
Watch: TypeAlias = Callable[[], AsyncIterator[tuple[str, dict[str, Any]]]]


class Page:
    """The page, and who watches it."""

    def __init__(self, watch: Watch) -> None:
        """`watch` gives what is new, as names and documents. Reads a file."""
        self.html = _FILE.read_bytes()
        self.headers = (
            ("Content-Security-Policy", policy(self.html.decode())),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        )
        self._watch = watch
        self._watchers = 0

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events (HTML standard, 9.2). Who is one too many is told so, and no more."""
        if self._watchers >= PAGE_WATCHERS:
            yield _event("busy", {"watchers": self._watchers})
            return
        self._watchers += 1
        try:
            async for name, document in self._watch():
                yield _event(name, document)
        finally:
            self._watchers -= 1


def _event(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()


def policy(html: str) -> str:
    """The Content-Security-Policy (CSP 3) of a page that has its scripts and styles in it: those
    run, and nothing else; nothing comes from elsewhere, and nobody frames it."""
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(allowed['script'])}",
            f"style-src {' '.join(allowed['style'])}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def is_local(host: str) -> bool:
    """Whether a request's `Host` names this machine: `localhost` or a loopback address, with any
    port, as what forwards one keeps its own."""
    name = re.sub(r":\d*$", "", host.strip().lower())
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
