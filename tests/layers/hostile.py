"""Hostile archives, each with what must become of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from tests.support import tarballs as t
from tests.support.tarballs import archive, directory, file, hardlink, symlink

ACCEPTED = ""
CORRUPT = "CorruptContentError"
LIMIT = "LimitExceededError"
UNSUPPORTED = "UnsupportedContentError"
EITHER = "either"


@dataclass(frozen=True)
class Case:
    """`victim` is the absolute path of the victim's directory, beside the root."""

    build: Callable[[str], bytes]
    outcome: str = ACCEPTED


def _escapes() -> dict[str, Case]:
    """Every way to name the outside, with every type of entry, and writes through links to it."""
    cases: dict[str, Case] = {}
    outside = {
        "dotdot": lambda v: "../victim",
        "slash-dotdot": lambda v: "/../victim",
        "deep-dotdot": lambda v: "a/b/../../../victim",
        "many-dotdot": lambda v: "../" * 40 + v.lstrip("/"),
        "absolute": lambda v: v,
        "double-slash": lambda v: "//" + v,
        "dot-dotdot": lambda v: "./../victim",
    }
    entries: dict[str, Callable[[str], bytes]] = {
        "file": lambda p: file(p + "/hello", b"owned"),
        "new": lambda p: file(p + "/new", b"owned"),
        "directory": lambda p: directory(p, mode=0o777),
        "symlink": lambda p: symlink(p + "/hello", "owned"),
        "fifo": lambda p: t.fifo(p + "/hello"),
        "whiteout": lambda p: t.whiteout(p + "/hello"),
        "opaque": lambda p: t.opaque(p),
    }
    for (where, path), (what, make) in itertools.product(outside.items(), entries.items()):
        cases[f"{what} at {where}"] = Case(lambda v, p=path, m=make: archive(m(p(v))))
    for where, path in outside.items():
        cases[f"write through a symlink to {where}"] = Case(
            lambda v, p=path: archive(symlink("l", p(v)), file("l/hello", b"owned"))
        )
        cases[f"replace a symlink to a file at {where}"] = Case(
            lambda v, p=path: archive(symlink("l", p(v) + "/hello"), file("l", b"owned"))
        )
        cases[f"hardlink through a symlink to {where}"] = Case(
            lambda v, p=path: archive(symlink("l", p(v)), hardlink("h", "l/hello")),
        )
        cases[f"hardlink to {where}, then write"] = Case(
            lambda v, p=path: archive(hardlink("h", p(v) + "/hello"), file("h", b"owned")),
        )
        cases[f"hardlink to {where}"] = Case(
            lambda v, p=path: archive(hardlink("h", p(v) + "/hello"))
        )
        cases[f"chmod through a symlink to {where}"] = Case(
            lambda v, p=path: archive(
                symlink("l", p(v) + "/hello"), hardlink("h", "l"), file("h", b"", mode=0o777)
            )
        )
        cases[f"a directory takes a symlink to {where}'s place"] = Case(
            lambda v, p=path: archive(symlink("l", p(v)), directory("l"), file("l/hello", b"owned"))
        )
        cases[f"whiteout through a symlink to {where}"] = Case(
            lambda v, p=path: archive(symlink("l", p(v)), t.whiteout("l/hello"))
        )
        cases[f"opaque through a symlink to {where}"] = Case(
            lambda v, p=path: archive(symlink("l", p(v)), t.opaque("l"))
        )
        cases[f"two symlinks to {where}"] = Case(
            lambda v, p=path: archive(
                symlink("a", "b/c"), directory("b"), symlink("b/c", p(v)), file("a/hello", b"owned")
            )
        )
    return cases


def _chains() -> dict[str, Case]:
    def chain(length: int) -> bytes:
        links = [symlink(f"l{n}", f"l{n + 1}") for n in range(length)]
        return archive(*links, directory(f"l{length}"), file("l0/x", b"x"))

    return {
        "chain of 255 symlinks": Case(lambda v: chain(255)),
        "chain of 256 symlinks": Case(lambda v: chain(256), LIMIT),
        "symlink to itself": Case(lambda v: archive(symlink("l", "l"), file("l/x")), LIMIT),
        "loop of two": Case(
            lambda v: archive(symlink("a", "b"), symlink("b", "a"), file("a/x")), LIMIT
        ),
        "loop in a hardlink's target": Case(
            lambda v: archive(symlink("a", "b"), symlink("b", "a"), hardlink("h", "a/x")), LIMIT
        ),
        "symlinks that grow": Case(
            lambda v: archive(
                symlink("a", "b/" * 1000 + "x"),
                *(symlink("b", "./" * 2000 + "a") for _ in range(2)),
                file("a/x"),
            ),
            LIMIT,
        ),
        "symlink of many steps": Case(
            lambda v: archive(
                directory("d"),
                *(symlink(f"l{n}", "d/../" * 800 + f"l{n + 1}") for n in range(10)),
                file("l0/x"),
            ),
            LIMIT,
        ),
        "a path made longer than the limit by symlinks": Case(
            lambda v: archive(
                *(symlink("s/" * n + "s", "d/" * 999) for n in range(4)), file("s/s/s/x")
            ),
            LIMIT,
        ),
        "symlink to /": Case(lambda v: archive(symlink("l", "/"), file("l/x", b"in the root"))),
        "symlink to ..": Case(lambda v: archive(symlink("l", ".."), file("l/x", b"in the root"))),
        "symlink without a target": Case(lambda v: archive(symlink("l", "")), CORRUPT),
    }


def _roots() -> dict[str, Case]:
    return {
        f"root as a {what}, named {name!r}": Case(lambda v, m=make, n=name: archive(m(n)), CORRUPT)
        for name in (".", "/", "./", "", "a/..", "../..")
        for what, make in {
            "symlink": lambda n: symlink(n, "../victim"),
            "file": lambda n: file(n, b"x"),
            "fifo": t.fifo,
            "hardlink": lambda n: hardlink(n, "victim/hello"),
        }.items()
    }


def _malformed() -> dict[str, Case]:
    long = "n" * 300
    return {
        "a whiteout of nothing": Case(lambda v: archive(file("d/.wh.")), CORRUPT),
        "a whiteout of .": Case(lambda v: archive(file(".wh..")), CORRUPT),
        "a whiteout of ..": Case(lambda v: archive(file("d/.wh...")), CORRUPT),
        "an entry in a whiteout": Case(lambda v: archive(file(".wh.d/x")), CORRUPT),
        "an entry in a whiteout by a symlink": Case(
            lambda v: archive(symlink("l", ".wh.d"), file("l/x")), CORRUPT
        ),
        "a hardlink to the root": Case(lambda v: archive(hardlink("h", "/")), CORRUPT),
        "a hardlink to a directory": Case(
            lambda v: archive(directory("d"), hardlink("h", "d")), CORRUPT
        ),
        "a hardlink to itself": Case(lambda v: archive(file("h"), hardlink("h", "./h")), CORRUPT),
        "a hardlink that replaces its target's directory": Case(
            lambda v: archive(file("d/f", b"x"), hardlink("d", "d/f")), CORRUPT
        ),
        "a name longer than a file system takes": Case(lambda v: archive(file(long)), CORRUPT),
        "a directory's name too long": Case(lambda v: archive(file(long + "/x")), CORRUPT),
        "a path over the limit": Case(lambda v: archive(file("d/" * 2100 + "x")), LIMIT),
        "a target over the limit": Case(lambda v: archive(symlink("l", "d/" * 2100)), LIMIT),
        "a PAX path over the limit": Case(
            lambda v: archive(file("x", pax={"path": "d/" * 2100})), LIMIT
        ),
        "an unknown type": Case(lambda v: archive(t.entry("x", b"Z")), UNSUPPORTED),
        "an owner that means no change": Case(
            lambda v: archive(file("x", uid=0xFFFFFFFF)), ACCEPTED
        ),
        "a negative owner": Case(lambda v: archive(file("x", gid=-1)), ACCEPTED),
        "a negative size": Case(lambda v: archive(file("x", size=-512)), CORRUPT),
        "a size beyond the limit": Case(lambda v: archive(file("x", size=1 << 60)), LIMIT),
        "a device number out of range": Case(lambda v: archive(t.device("x", 1 << 13, 0)), CORRUPT),
        "NUL in a PAX path": Case(lambda v: archive(file("x", pax={"path": b"a\0b"})), CORRUPT),
        "NUL in a sparse file's name": Case(
            lambda v: archive(file("x", pax={"GNU.sparse.name": b"a\0b"})), CORRUPT
        ),
        "NUL in a PAX linkpath": Case(
            lambda v: archive(symlink("x", "y", pax={"linkpath": b"a\0b"})), CORRUPT
        ),
        "2000 directories deep": Case(lambda v: archive(file("d/" * 2000 + "x", b"deep"))),
        "a file as parent": Case(lambda v: archive(file("f", b"x"), file("f/g", b"y"))),
        "a fifo as parent": Case(lambda v: archive(t.fifo("f"), file("f/g", b"y"))),
        "a directory of mode 0000 is filled": Case(
            lambda v: archive(directory("d", mode=0), file("d/x", b"x"), directory("d/e", mode=0))
        ),
        "a tree replaced by a file": Case(
            lambda v: archive(
                directory("d", mode=0), directory("d/e", mode=0), file("d/e/x"), file("d", b"f")
            )
        ),
        "names that are not UTF-8": Case(
            lambda v: archive(file(b"\xff\xfe", b"x"), symlink(b"l\xff", b"\xfe"))
        ),
        "AUFS's own records": Case(
            lambda v: archive(
                directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"x"), file(".wh..wh.aufs")
            )
        ),
    }


CASES = {**_escapes(), **_chains(), **_roots(), **_malformed()}
