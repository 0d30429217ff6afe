"""A worker's answer is a stranger's: it is a result, an error of the contract, or nothing."""

from __future__ import annotations

import errno
import gc
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cri_imaged.errors import CorruptContentError, LimitExceededError, NoSpaceError
from cri_imaged.layers.apply import Result
from cri_imaged.layers.sinks.sink import Sealable
from cri_imaged.layers.worker import protocol
from cri_imaged.limits import Limits
from cri_imaged.ports import Applied, Attributes, Device, Late, Skipped, Usage

DIGEST = "sha256:" + "a" * 64
REPORT = os.memfd_create("report")
NULL = Device(0o20666, 1, 3, 0, 0, -1, (b"dev/null", b"null"))
LATE = Late(b"f", ((b"security.ima", b"x"),), Attributes(1, 2, 0o4755, -(1 << 40), 3))
SEAL = Sealable((b"a/b",), (b"", b"c"), (b"d", b"d/e"), ((b"f", b"g/h"),), (NULL,), (LATE,))


def answer(diff_id: str = DIGEST, seal: Sealable = SEAL, size: int = 1) -> bytes:
    result = Result(diff_id, size, 2, seal, b"last")
    os.ftruncate(REPORT, 0)
    os.lseek(REPORT, 0, os.SEEK_SET)
    made = protocol.success(result, Usage(3, 4), Skipped(5, 6, 7, 8), REPORT)
    return protocol.encode(made)


def read(data: bytes, limits: Limits | None = None) -> Applied | Exception | None:
    return protocol.read_answer(data, REPORT, limits or Limits())


def test_success() -> None:
    assert read(answer()) == Applied(
        diff_id=DIGEST,  # type: ignore[arg-type]
        size=1,
        entries=2,
        usage=Usage(3, 4),
        skipped=Skipped(5, 6, 7, 8),
        whiteouts=SEAL.whiteouts,
        opaques=SEAL.opaques,
        implicit=SEAL.implicit,
        links=SEAL.links,
        devices=SEAL.devices,
        late=SEAL.late,
        unended=b"last",
    )


@pytest.mark.parametrize("path", [b"/etc", b"a/../b", b"..", b"a//b", b"a/", b"./a", b"a\0b"])
def test_paths_that_are_not_canonical(path: bytes) -> None:
    for seal in (
        Sealable(whiteouts=(path,)),
        Sealable(opaques=(path,)),
        Sealable(implicit=(path,)),
        Sealable(links=((path, b"a"),)),
        Sealable(links=((b"a", path),)),
        Sealable(devices=(replace(NULL, names=(b"a", path)),)),
        Sealable(late=(replace(LATE, path=path),)),
    ):
        assert read(answer(seal=seal)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": 0o100644},
        {"mode": 0o40755},
        {"major": 0, "minor": 0},
        {"major": 1 << 12},
        {"minor": -1},
        {"uid": -1},
        {"gid": (1 << 32) - 1},
        {"mtime": 1 << 63},
        {"names": ()},
    ],
)
def test_what_is_no_device(wrong: dict[str, object]) -> None:
    assert read(answer(seal=Sealable(devices=(replace(NULL, **wrong),)))) is None


def test_what_is_no_answer() -> None:
    assert read(b"") is None
    assert read(answer()[:-1]) is None
    assert read(answer(diff_id="sha256:../x")) is None
    assert read(answer(size=-1)) is None
    assert read(answer(seal=Sealable(whiteouts=(b"",)))) is None


def test_large_reports_stay_in_their_file() -> None:
    paths = tuple(b"%d/%s" % (number, b"x" * 50) for number in range(1000))
    seal = SEAL._replace(whiteouts=paths, links=tuple(zip(paths, paths[::-1], strict=True)))
    before = set(os.listdir("/proc/self/fd"))
    applied = read(answer(seal=seal))
    assert isinstance(applied, Applied)
    assert not isinstance(applied.whiteouts, tuple)
    assert (len(applied.whiteouts), applied.whiteouts[-1]) == (1000, paths[-1])
    for field in ("whiteouts", "opaques", "implicit", "links", "devices"):
        assert tuple(getattr(applied, field)) == getattr(seal, field)
        assert tuple(getattr(applied, field)) == getattr(seal, field)
    del applied
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before  # threads of other tests may close some


def test_reports_that_are_cut_or_too_large() -> None:
    whole = answer(seal=SEAL._replace(whiteouts=(b"x" * 3000, b"y" * 3000)))
    assert isinstance(read(whole), Applied)
    assert read(whole, Limits(seal_bytes=5000)) is None
    os.ftruncate(REPORT, 5000)
    assert read(whole) is None


@pytest.mark.parametrize("kind", [CorruptContentError, LimitExceededError, NoSpaceError])
def test_errors_of_the_contract(kind: type[Exception]) -> None:
    found = read(protocol.encode(protocol.failure(kind("why"), Limits())))
    assert type(found) is kind
    assert str(found) == "why"


def test_other_errors() -> None:
    disk = read(protocol.encode(protocol.failure(OSError(errno.EIO, "disk"), Limits())))
    assert isinstance(disk, OSError)
    assert disk.errno == errno.EIO
    defect = read(protocol.encode(protocol.failure(KeyError("x" * 10_000), Limits())))
    assert isinstance(defect, RuntimeError)
    assert len(str(defect)) < 5000
    made_up = protocol.encode(protocol.Failure("SystemExit", "why"))
    assert isinstance(read(made_up), RuntimeError)


@given(st.binary(max_size=200))
def test_fuzz_answers(data: bytes) -> None:
    found = read(data)
    assert found is None or isinstance(found, Applied | Exception)


@given(st.integers(0, (1 << 62) - 1), st.booleans())
def test_watermarks(size: int, complete: bool) -> None:
    message = protocol.watermark(size, complete=complete)
    assert protocol.parse_watermark(message) == (size, complete)


@pytest.mark.parametrize(
    "wrong", [{"uid": -1}, {"uid": (1 << 32) - 1}, {"gid": -1}, {"mode": 0o10000}, {"mode": -1}]
)
def test_late_attributes_that_none_has(wrong: dict[str, int]) -> None:
    attributes = replace(LATE.attributes, **wrong)
    seal = Sealable(late=(replace(LATE, attributes=attributes),))
    assert read(answer(seal=seal)) is None
