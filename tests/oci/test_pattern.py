"""Patterns of image names."""

from __future__ import annotations

import pytest

from cri_imaged.errors import InvalidRequestError
from cri_imaged.oci.pattern import NamePattern, is_pattern

BUSYBOX = "docker.io/library/busybox:1.35"
IPV6 = "[::1]:5000/team/app:1"
DIGESTED = "r.example:5000/team/app@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("docker.io/library/busybox:*", {BUSYBOX}),
        ("docker.io/*", {BUSYBOX}),
        ("*", {BUSYBOX, DIGESTED, IPV6}),
        ("*/busybox:1.3[0-9]", {BUSYBOX}),
        ("*/busybox:1.3[!5]", set()),
        ("*busybox", set()),
        ("r.example:5000/team/*", {DIGESTED}),
        ("r.example:5000/team/ap?@sha256:*", {DIGESTED}),
        ("r.example:5000/TEAM/*", set()),
        ("localhost/*", set()),
        ("[::1]:5000/team/*", {IPV6}),
        ("[::1]:5000/team/ap[a-p]:1", {IPV6}),
        ("[::2]:5000/*", set()),
    ],
)
def test_whole_canonical_names_are_matched(pattern: str, matching: set[str]) -> None:
    assert is_pattern(pattern)
    parsed = NamePattern.parse(pattern)
    assert {name for name in (BUSYBOX, DIGESTED, IPV6) if parsed.matches(name)} == matching
    assert str(parsed) == pattern


@pytest.mark.parametrize("pattern", ["busybox*", "library/*", "busy?ox:1", "qu[a]y"])
def test_what_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequestError, match="whole"):
        NamePattern.parse(pattern)


def test_references_are_no_patterns() -> None:
    assert not any(is_pattern(name) for name in (BUSYBOX, DIGESTED, IPV6, "[::1]/app"))
