"""Reading WWW-Authenticate."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.limits import KIB
from cri_imaged.registry.auth.challenge import Challenge, parse_challenges
from tests.support.work import steps_of

TOKEN_CHARS = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
TOKENS = st.text(TOKEN_CHARS, min_size=1, max_size=20)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"\\'), max_size=40
)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="r"'], [Challenge("basic", {"realm": "r"})]),
        (["basic"], [Challenge("basic", {})]),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:x:pull,push a:b:c"'],
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://a/t",
                        "service": "s",
                        "scope": "repository:x:pull,push a:b:c",
                    },
                )
            ],
        ),
        (
            ['Basic realm="a", Bearer realm="b", error="invalid_token"'],
            [
                Challenge("basic", {"realm": "a"}),
                Challenge("bearer", {"realm": "b", "error": "invalid_token"}),
            ],
        ),
        (
            ['Basic realm="a"', "Negotiate"],
            [Challenge("basic", {"realm": "a"}), Challenge("negotiate")],
        ),
        ([r'Bearer realm="say \"hi\""'], [Challenge("bearer", {"realm": 'say "hi"'})]),
        (
            ["Bearer realm = https://a/t , service=s"],
            [Challenge("bearer", {"realm": "https://a/t", "service": "s"})],
        ),
        (['Bearer realm="first",realm="second"'], [Challenge("bearer", {"realm": "first"})]),
        (['Bearer realm="never closed'], None),
        ([""], []),
        ([",,,"], []),
        (['="x"'], []),
    ],
)
def test_headers(headers: list[str], expected: list[Challenge] | None) -> None:
    found = parse_challenges(headers)
    if expected is not None:
        assert list(found) == expected
    else:
        assert [challenge.scheme for challenge in found][:1] == ["bearer"]


@given(st.lists(st.text(max_size=300), max_size=4))
def test_anything_is_survived(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()


@given(
    st.lists(
        st.tuples(TOKENS, st.dictionaries(TOKENS.map(str.lower), VALUES, min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read(challenges: list[tuple[str, dict[str, str]]]) -> None:
    header = ", ".join(
        f"{scheme} " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert list(parse_challenges([header])) == [
        Challenge(scheme.lower(), parameters) for scheme, parameters in challenges
    ]


@pytest.mark.parametrize(
    "header",
    [
        "Bearer " + 'a="b",' * 40_000,
        "a " * 120_000,
        " " * 250_000,
        'Bearer a="' + "\\" * 250_000,
        ("Bearer " + 'a="b",' * 10) * 4_000,
    ],
)
def test_of_challenges_without_end_no_more_is_looked_at_than_of_long_ones(header: str) -> None:
    late = "Basic realm=x"
    half, long, endless = (
        steps_of(parse_challenges, [header[:size], late])
        for size in (8 * KIB, 16 * KIB, len(header))
    )
    assert long <= 2.1 * half
    assert endless <= 1.1 * long
    found = parse_challenges([header, late])
    assert Challenge("basic", {"realm": "x"}) not in found
    assert len(found) <= 50
