"""Images as a table has them: a row for each tag, and which of them are wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.output import counted, short_id, size, split_tag
from cri_imaged.durations import parse_duration
from cri_imaged.rpc.node.v1 import catalog_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2

NONE = "<none>"
_UNITS = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("week", 7 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
)
_TWICE = 2
"""What is less than so many of a unit is told in the next smaller one."""


async def listed(daemon: Daemon, name: str = "") -> list[api_pb2.Image]:
    """The images of a name, tag, digest or ID; all where it is empty."""
    request = api_pb2.StreamImagesRequest()
    if name:
        request.filter.image.image = name
    batches = daemon.images.StreamImages(request, timeout=ANSWER_SECONDS)
    return [image async for batch in batches for image in batch.images]


Descriptions = Mapping[tuple[str, str], catalog_pb2.ImageDescription]


async def described(daemon: Daemon, *, sizes: bool = False) -> Descriptions:
    """What CRI leaves out of the images, by ID (without its algorithm) and handler."""
    request = catalog_pb2.DescribeImagesRequest(sizes=sizes)
    batches = daemon.catalog.DescribeImages(request, timeout=ANSWER_SECONDS)
    return {
        (each.image_id.rpartition(":")[2], each.runtime_handler): each
        async for batch in batches
        for each in batch.images
    }


def key_of(image: api_pb2.Image) -> tuple[str, str]:
    """The image's key in `Descriptions`."""
    return image.id.rpartition(":")[2], image.spec.runtime_handler


@dataclass(frozen=True, slots=True)
class Row:
    """One tag of an image, or an image without tags."""

    repository: str
    tag: str
    digest: str
    image: api_pb2.Image
    built: int
    """Unix nanoseconds; 0 where nobody says."""

    @property
    def dangling(self) -> bool:
        """Whether it has no tag."""
        return self.tag == NONE

    def is_of(self, repository: str) -> bool:
        """Whether it is a tag of a repository, which may lack the registry that is implied."""
        return bool(repository) and repository in (self.repository, *_short(self.repository))

    def fields(self, *, whole_ids: bool, now: float) -> dict[str, str]:
        """What templates call its fields, by Docker's names."""
        return {
            "Repository": self.repository,
            "Tag": self.tag,
            "Digest": self.digest,
            "ID": self.image.id if whole_ids else short_id(self.image.id),
            "CreatedSince": ago(now - self.built / 1e9) if self.built else "",
            "CreatedAt": stamp(self.built) if self.built else "",
            "Size": size(self.image.size),
            "Pinned": "yes" if self.image.pinned else "",
            "Handler": self.image.spec.runtime_handler,
        }


FIELDS = tuple(Row("", "", "", api_pb2.Image(), 0).fields(whole_ids=True, now=0))


def rows_of(image: api_pb2.Image, built: int) -> list[Row]:
    """A row for each tag; an image without tags is shown by its repository."""
    by_repository = dict(each.split("@", 1) for each in image.repo_digests if "@" in each)
    names = [split_tag(tag) for tag in image.repo_tags]
    if not names:
        names = [(next(iter(by_repository), NONE), NONE)]
    return [
        Row(repository, tag, by_repository.get(repository, NONE), image, built)
        for repository, tag in names
    ]


async def rows_named(daemon: Daemon, name: str, described: Descriptions) -> list[Row]:
    """A row for each tag of the images that a name, tag, digest or ID means, and of a repository
    each of its tags; of all images where it is empty."""

    def rows(images: Iterable[api_pb2.Image]) -> list[Row]:
        nothing = catalog_pb2.ImageDescription()
        known = ((image, described.get(key_of(image), nothing)) for image in images)
        return [row for image, told in known for row in rows_of(image, told.built_at)]

    meant = await listed(daemon, name)
    if not name or "@" in name or ":" in name.rpartition("/")[2]:
        return rows(meant)
    keys = {key_of(image) for image in meant}
    every = rows(await listed(daemon))
    return [row for row in every if key_of(row.image) in keys or row.is_of(name)]


def stamp(nanoseconds: int) -> str:
    """Unix nanoseconds as Docker shows them: `2026-01-31 12:00:00 +0000 UTC`."""
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S %z UTC")


def ago(seconds: float) -> str:
    """`3 weeks ago`; one unit is enough."""
    for unit, length in _UNITS:
        if seconds >= _TWICE * length:
            return f"{int(seconds // length)} {unit}s ago"
    return f"{counted(max(int(seconds), 0), 'second')} ago"


# --- filters --------------------------------------------------------------------------------------

Test = Callable[[Row], bool]


def filtered(rows: Sequence[Row], filters: Iterable[str]) -> list[Row]:
    """The rows that every one of `filters` (`KEY=VALUE`, as Docker's) wants.

    Raises:
        Failure: one is malformed, or names an image that is not there.
    """
    tests = [_test(each, rows) for each in filters]
    return [row for row in rows if all(test(row) for test in tests)]


def _test(text: str, rows: Sequence[Row]) -> Test:
    key, equals, value = text.partition("=")
    makers: dict[str, Callable[[], Test]] = {
        "dangling": lambda: _flag(text, value, lambda row: row.dangling),
        "pinned": lambda: _flag(text, value, lambda row: row.image.pinned),
        "reference": lambda: lambda row: _matches(row, value),
        "before": lambda: _before(_built(value, rows)),
        "since": lambda: _since(_built(value, rows)),
        "until": lambda: _before(int((time.time() - _seconds(text, value)) * 1e9)),
    }
    if not equals or key not in makers:
        raise Failure(
            ExitCode.USAGE,
            f"there is no filter {text!r}",
            f"filters are {', '.join(f'{known}=…' for known in makers)}",
        )
    return makers[key]()


def _flag(text: str, value: str, has: Test) -> Test:
    if value not in ("true", "false"):
        raise Failure(ExitCode.USAGE, f"filter {text!r}: want true or false")
    return lambda row: has(row) is (value == "true")


def _before(built: int) -> Test:
    return lambda row: 0 < row.built < built


def _since(built: int) -> Test:
    return lambda row: row.built > built


def _seconds(text: str, value: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise Failure(ExitCode.USAGE, f"filter {text!r}: {error}") from None


def _built(name: str, rows: Sequence[Row]) -> int:
    """When the image `name` was built."""
    for row in rows:
        if _matches(row, name) or row.image.id.rpartition(":")[2].startswith(name):
            return row.built
    raise Failure(ExitCode.NOT_FOUND, f"no image {name} is present")


def _matches(row: Row, pattern: str) -> bool:
    """Whether a pattern (`*`, `?`, `[…]`) is for a row's name: with or without its tag, and with or
    without the registry that is implied."""
    names = (row.repository, *_short(row.repository))
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(f"{name}:{row.tag}", pattern) for name in names
    )


def _short(repository: str) -> tuple[str, str]:
    """What people call it."""
    without = repository.removeprefix("docker.io/")
    return without, without.removeprefix("library/") if without != repository else without
