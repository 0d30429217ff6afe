"""Whom an image's process runs as."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_imaged.cli.users import process_user
from cri_imaged.errors import InvalidRequestError
from cri_imaged.oci.runtime_spec import ProcessUser

LAST = 2**31 - 1
"""The highest ID that runc and crun take."""


def rootfs(path: Path, passwd: str = "", group: str = "") -> Path:
    (path / "etc").mkdir()
    (path / "etc/passwd").write_text(passwd)
    (path / "etc/group").write_text(group)
    return path


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", ProcessUser(0, 0)),
        (":77", ProcessUser(0, 77)),
        (":bakers", ProcessUser(0, 78)),
        ("5:", ProcessUser(5, 0)),
        (f"{LAST}:{LAST}", ProcessUser(LAST, LAST)),
        ("0" * 5000 + "7", ProcessUser(7, 0)),
    ],
)
def test_a_part_may_be_missing(tmp_path: Path, user: str, expected: ProcessUser) -> None:
    assert process_user(rootfs(tmp_path, group="bakers:x:78:\n"), user) == expected


@pytest.mark.parametrize("number", [str(LAST + 1), "9" * 20, "9" * 5000])
@pytest.mark.parametrize(
    ("user", "passwd", "group"),
    [
        ("{}", "", ""),
        ("0:{}", "", ""),
        ("alice", "alice:x:{}:1:::\n", ""),
        ("alice", "alice:x:1:{}:::\n", ""),
        ("alice:bakers", "alice:x:1:1:::\n", "bakers:x:{}:\n"),
        ("alice", "alice:x:1:1:::\n", "bakers:x:{}:alice\n"),
    ],
)
def test_a_number_that_no_runtime_takes_is_told_of(
    tmp_path: Path, number: str, user: str, passwd: str, group: str
) -> None:
    root = rootfs(tmp_path, passwd.format(number), group.format(number))
    with pytest.raises(InvalidRequestError, match=f"{number[:20]}.* the last is {LAST}"):
        process_user(root, user.format(number))
