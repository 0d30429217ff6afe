"""How many pulls a registry leaves this node (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cri_imaged.ports import RateLimit

_COUNT = re.compile(r"\s*([0-9]{1,12})\s*(?:;.*)?", re.ASCII | re.DOTALL)


def rate_limit_of(headers: Mapping[str, str]) -> RateLimit | None:
    """What Docker Hub says in `RateLimit-Limit` and `RateLimit-Remaining`, as `100;w=21600`; None
    where an answer does not."""
    most, left = (
        _COUNT.fullmatch(headers.get(f"RateLimit-{name}", "")) for name in ("Limit", "Remaining")
    )
    return RateLimit(int(most[1]), int(left[1])) if most and left else None
