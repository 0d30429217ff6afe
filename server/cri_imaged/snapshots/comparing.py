"""Whether a snapshot is what it should be: by what was written down of it, or by a second one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cri_imaged.ports import Verdict
from cri_imaged.snapshots.backend import Backend
from cri_imaged.snapshots.listing import ListedEntry, first_difference, read_listing, write_listing
from cri_imaged.snapshots.tasks import Check


def write_down(backend: Backend, place: Path, check: Check) -> None:
    """Write the listing of the snapshot in `place`, where it has none. Raises `OSError`."""
    if not _listing(place).exists():
        write_listing(_watched(backend.entries(place), check), _listing(place))


def compare_with_listing(backend: Backend, place: Path, check: Check) -> Verdict:
    """Compare the snapshot in `place` with its listing."""
    if not backend.layer(place).exists():
        return MISSING
    if not _listing(place).exists():
        return Verdict("unknown")
    return _compare(read_listing(_listing(place)), backend.entries(place), check)


def compare(backend: Backend, place: Path, other: Path, check: Check) -> Verdict:
    """Compare the snapshot in `place` with the sound one in `other`."""
    if not backend.layer(place).exists():
        return MISSING
    return _compare(backend.entries(other), backend.entries(place), check)


MISSING = Verdict("missing", "its files are gone")


def _compare(wanted: Iterable[ListedEntry], found: Iterable[ListedEntry], check: Check) -> Verdict:
    try:
        difference = first_difference(wanted, _watched(found, check))
    except OSError as error:
        difference = f"it cannot be read: {error}"
    return Verdict("sound") if difference is None else Verdict("damaged", difference)


def _watched(entries: Iterable[ListedEntry], check: Check) -> Iterator[ListedEntry]:
    for entry in entries:
        check()
        yield entry


def _listing(place: Path) -> Path:
    return place / "listing"
