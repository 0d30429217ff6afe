"""Lists that registries give in pages (distribution spec 1.1; RFC 8288). Pure."""

from __future__ import annotations

import re

from yarl import URL

_NEXT = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?', re.ASCII)


def next_query(link: str) -> str:
    """The query of the URL that a `Link` header calls the next; none where there is none. Only the
    query counts: the page is asked of the same host."""
    found = _NEXT.search(link)
    if found is None:
        return ""
    try:
        return URL(found[1], encoded=True).raw_query_string
    except ValueError:
        return ""
