"""JSON is read as Go reads it: text that is none becomes U+FFFD, wherever it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_imaged.oci import lenient_json
from tests.support.work import steps_of

MIB = 1 << 20
PIECES = (
    *(rb"\\", rb"\n", rb"\ud83d", rb"\uDe00", rb"\uD800", rb"\uDFFF", rb"\u0041", rb"\u005c"),
    *("😀".encode(), "é".encode(), b"\xff", b"\xf0\x9f\x98", b"u", b"d83d", b"a"),
)
"""Of strings."""


def as_go(text: bytes) -> str:
    """What Go's encoding/json makes of a string."""
    told = json.loads(text.decode("utf-8", "replace"))
    assert isinstance(told, str)
    return re.sub("[\ud800-\udfff]", "\ufffd", told)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=24), st.integers(0, 40))
def test_text_that_is_none(pieces: list[bytes], before_the_end_of_a_piece: int) -> None:
    """Also where it stands across the pieces in which it is mended."""
    filling = b"x" * ((16 << 10) - before_the_end_of_a_piece)
    text = b'"' + filling + b"".join(pieces) + b'"'
    assert lenient_json.decode(text, str) == as_go(text)


@pytest.mark.parametrize("repeated", [rb"\n", rb"\\", rb"\ud800", rb"\ud83d\ude00", b"\xff"])
def test_others_are_not_kept_waiting(repeated: bytes) -> None:
    """No operation for each replacement: all of it runs with the interpreter's lock."""
    count = MIB // len(repeated)
    once, twice = (
        steps_of(lenient_json.decode, b'"' + rb"\ud800" + repeated * times * count + b'"', str)
        for times in (1, 2)
    )
    assert 50 * once < count
    assert twice <= 2.1 * once


_CROWD = """
import sys, threading
from cri_imaged.limits import Limits
from cri_imaged.oci.documents import parse_config

sys.setswitchinterval(1e-6)
threads = 12
config = b'{"architecture":"amd64","os":"linux","config":{"User":"x"},"rootfs":{"diff_ids":[]}}'
ready = threading.Barrier(threads)

def read():
    ready.wait()
    assert parse_config(config, Limits()).user == "x"

crowd = [threading.Thread(target=read) for _ in range(threads)]
for each in crowd:
    each.start()
for each in crowd:
    each.join()
"""


def test_documents_that_many_threads_read_first_crash_nothing() -> None:
    """What it is of is a race: one in eight of such processes ended by a signal before."""
    for _ in range(10):
        run = subprocess.run([sys.executable, "-c", _CROWD], check=False)
        assert run.returncode == 0


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"a": 1e999}', {"a": "1e999"}),
        ('{"a": [-1E+400, 1.5, 1e3]}', {"a": ["-1E+400", 1.5, 1e3]}),
        ('{"a": 1e308, "b": 1e309}', {"a": 1e308, "b": "1e309"}),
        ('{"a": 1e-999}', {"a": 0.0}),
        ('{"a": 0e999, "b": 1e000000001}', {"a": 0.0, "b": 10.0}),
        ('{"1e999": "\\"1e999\\\\", "b": 1e999}', {"1e999": '"1e999\\', "b": "1e999"}),
        ('{"a": ' + "9" * 309 + "}", {"a": "9" * 309}),
        ('{"a": ' + "9" * 308 + "}", {"a": int("9" * 308)}),
        ('"1e999"', "1e999"),
    ],
)
def test_numbers_beyond_floating_point_are_told_as_strings(text: str, read: object) -> None:
    assert json.loads(lenient_json.with_finite_numbers(text)) == read


@pytest.mark.parametrize("at", range(16_000, 16_700, 7))
def test_a_long_number_is_found_wherever_it_stands(at: int) -> None:
    text = "[" + " " * at + "9" * 310 + "]"
    assert json.loads(lenient_json.with_finite_numbers(text)) == ["9" * 310]
