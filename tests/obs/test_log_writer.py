"""The log waits for no reader."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry

from cri_imaged.limits import LOG_HELD_BYTES, MIB
from cri_imaged.obs.log_writer import LogWriter


class Pipe(NamedTuple):
    """Its two ends."""

    read: int
    write: int


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = Pipe(*os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def test_lines_arrive_whole_and_in_order(pipe: Pipe) -> None:
    with LogWriter(pipe.write) as writer:
        for number in range(100):
            writer.write(f"line {number} \ud800\n")
    lines = os.read(pipe.read, MIB).splitlines()
    assert lines == [b"line %d \\ud800" % number for number in range(100)]


def test_what_nobody_reads_is_dropped_counted_and_told(pipe: Pipe) -> None:
    line = "x" * 1023 + "\n"
    sent = LOG_HELD_BYTES // len(line) + 500
    registry = CollectorRegistry()
    began = time.monotonic()
    with LogWriter(pipe.write) as writer:
        writer.register(registry)
        for _ in range(sent):
            writer.write(line)
        dropped = writer.dropped
        assert 300 < dropped <= 500  # a pipe takes 64 KiB
        assert registry.get_sample_value("cri_imaged_log_lines_dropped_total") == dropped
        got = b""
        while got.count(b"\n") < sent - dropped + 1:
            got += os.read(pipe.read, MIB)
    (told,) = [json.loads(each) for each in got.splitlines() if each.startswith(b"{")]
    assert (told["lines"], told["level"]) == (dropped, "warning")
    assert time.monotonic() - began < 30


def test_the_end_does_not_wait_for_a_reader_for_ever(pipe: Pipe) -> None:
    began = time.monotonic()
    with LogWriter(pipe.write) as writer:
        for _ in range(200):
            writer.write("y" * 1023 + "\n")
    assert time.monotonic() - began < 10


def test_a_reader_that_is_gone_ends_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    with LogWriter(write) as writer:
        writer.write("a\n")
        writer.write("b\n")
    os.close(write)
    assert writer.dropped == 0
