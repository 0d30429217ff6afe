"""Programs that are asked something."""

from __future__ import annotations

import sys

from cri_imaged import children


async def test_of_what_a_program_writes_the_first_bytes_are_kept_and_the_rest_is_read_away() -> (
    None
):
    written = "import sys; sys.stdout.write('o' * 1_000_000); sys.stderr.write('e' * 1_000_000)"
    ran = await children.ask([sys.executable, "-c", written], b"", seconds=60, kept=100)
    assert (ran.status, ran.out, ran.err) == (0, b"o" * 100, b"e" * 100)
