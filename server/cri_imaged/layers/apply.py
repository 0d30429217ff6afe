"""The one pass over a layer: decompress, hash, read the archive, fill the directory."""

from __future__ import annotations

import errno
import hashlib
import queue
import threading
from collections.abc import Iterable
from typing import NamedTuple

from cri_imaged.errors import CorruptContentError, LimitExceededError, NoSpaceError
from cri_imaged.layers.decompress import decompress
from cri_imaged.layers.entry import Entry, shown
from cri_imaged.layers.ledger import Seal
from cri_imaged.layers.sink import DirectorySink
from cri_imaged.layers.tar import TarReader
from cri_imaged.limits import Limits

_CHUNKS_AHEAD = 4


class Result(NamedTuple):
    """What one pass found."""

    diff_id: str
    size: int
    entries: int
    seal: Seal
    unended: bytes


class _Hash:
    """The digest of the chunks it is given, taken in a thread of its own: hashing needs no
    interpreter lock, so it costs no time where a second core is free."""

    def __init__(self, algorithm: str) -> None:
        self._hasher = hashlib.new(algorithm)
        self._chunks: queue.Queue[bytes] = queue.Queue(_CHUNKS_AHEAD)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Hash:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.put(b"")
        self._thread.join()

    def update(self, chunk: bytes) -> None:
        """Feed a non-empty chunk."""
        self._chunks.put(chunk)

    def hexdigest(self) -> str:
        """Of all chunks, after the end of its `with`."""
        return self._hasher.hexdigest()

    def _run(self) -> None:
        while chunk := self._chunks.get():
            self._hasher.update(chunk)


def apply_layer(
    source: Iterable[bytes], media_type: str, algorithm: str, sink: DirectorySink, limits: Limits
) -> Result:
    """Apply the layer whose bytes `source` gives. `algorithm` is the diffID's.

    Raises:
        CorruptContentError, UnsupportedContentError, LimitExceededError, NoSpaceError
        OSError: anything else that the disk answers.
    """
    reader = TarReader(limits)
    hasher = _Hash(algorithm)
    size = 0
    current: Entry | None = None
    try:
        with hasher:
            for chunk in decompress(source, media_type, limits):
                size += len(chunk)
                hasher.update(chunk)
                for entry, data in reader.feed(chunk):
                    if entry is not None:
                        current = entry
                        sink.add(entry, data)
                    else:
                        sink.write(data)
            current = None
            unended = reader.finish()
            seal = sink.finish()
    except OSError as error:
        raise _explained(error, current) from error
    return Result(f"{algorithm}:{hasher.hexdigest()}", size, reader.entries, seal, unended)


def _explained(error: OSError, entry: Entry | None) -> Exception:
    where = f"entry {shown(entry.name)} at offset {entry.offset}" if entry else "its end"
    what = f"layer: {where}: {error.strerror}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpaceError(what)
        case errno.ENAMETOOLONG | errno.EMLINK | errno.EINVAL:
            return CorruptContentError(what)
        case errno.EFBIG:
            return LimitExceededError(what)
        case _:
            return OSError(error.errno, what)
