"""A worker's answer is a stranger's: it is a result, an error of the contract, or nothing."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.errors import CorruptContentError, LimitExceededError, NoSpaceError
from cri_imaged.layers import protocol
from cri_imaged.layers.ledger import Seal
from cri_imaged.ports import Applied, Skipped, Usage

DIGEST = "sha256:" + "a" * 64
SEAL = Seal((b"a/b",), (b"", b"c"), (b"d", b"d/e"), ((b"f", b"g/h"),))


def answer(diff_id: str = DIGEST, seal: Seal = SEAL, size: int = 1) -> bytes:
    made = protocol.success(diff_id, size, 2, Usage(3, 4), Skipped(5, 6, 7, 8), seal, b"last")
    return protocol.encode(made)


def test_success() -> None:
    assert protocol.read_answer(answer()) == Applied(
        diff_id=DIGEST,  # type: ignore[arg-type]
        size=1,
        entries=2,
        usage=Usage(3, 4),
        skipped=Skipped(5, 6, 7, 8),
        whiteouts=SEAL.whiteouts,
        opaques=SEAL.opaques,
        implicit=SEAL.implicit,
        links=SEAL.links,
        unended=b"last",
    )


@pytest.mark.parametrize("path", [b"/etc", b"a/../b", b"..", b"a//b", b"a/", b"./a", b"a\0b"])
def test_paths_that_are_not_canonical(path: bytes) -> None:
    for seal in (
        Seal(whiteouts=(path,)),
        Seal(opaques=(path,)),
        Seal(implicit=(path,)),
        Seal(links=((path, b"a"),)),
        Seal(links=((b"a", path),)),
    ):
        assert protocol.read_answer(answer(seal=seal)) is None


def test_what_is_no_answer() -> None:
    assert protocol.read_answer(b"") is None
    assert protocol.read_answer(answer()[:-1]) is None
    assert protocol.read_answer(answer(diff_id="sha256:../x")) is None
    assert protocol.read_answer(answer(size=-1)) is None
    assert protocol.read_answer(answer(seal=Seal(whiteouts=(b"",)))) is None


@pytest.mark.parametrize("kind", [CorruptContentError, LimitExceededError, NoSpaceError])
def test_errors_of_the_contract(kind: type[Exception]) -> None:
    found = protocol.read_answer(protocol.encode(protocol.failure(kind("why"))))
    assert type(found) is kind
    assert str(found) == "why"


def test_other_errors() -> None:
    disk = protocol.read_answer(protocol.encode(protocol.failure(OSError(errno.EIO, "disk"))))
    assert isinstance(disk, OSError)
    assert disk.errno == errno.EIO
    defect = protocol.read_answer(protocol.encode(protocol.failure(KeyError("x" * 10_000))))
    assert isinstance(defect, RuntimeError)
    assert len(str(defect)) < 5000
    made_up = protocol.encode(protocol.Failure("SystemExit", "why"))
    assert isinstance(protocol.read_answer(made_up), RuntimeError)


@given(st.binary(max_size=200))
def test_fuzz_answers(data: bytes) -> None:
    found = protocol.read_answer(data)
    assert found is None or isinstance(found, Applied | Exception)


@given(st.integers(0, (1 << 62) - 1), st.booleans())
def test_watermarks(size: int, complete: bool) -> None:
    message = protocol.watermark(size, complete=complete)
    assert protocol.parse_watermark(message) == (size, complete)
