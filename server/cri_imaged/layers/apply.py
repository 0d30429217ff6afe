"""The one pass over a decoded layer: hash it, read the archive, fill the sink."""

from __future__ import annotations

import _thread
import errno
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from cri_imaged.errors import CorruptContentError, LimitExceededError, NoSpaceError
from cri_imaged.full_disk import is_full
from cri_imaged.layers.sinks.sink import LayerSink, Sealable
from cri_imaged.layers.tar.entry import Entry, shown
from cri_imaged.layers.tar.reader import TarReader
from cri_imaged.layers.thread import Thread
from cri_imaged.limits import Limits


class Result(NamedTuple):
    """What one pass found."""

    diff_id: str
    size: int
    entries: int
    sealable: Sealable
    unended: bytes


class _Hash:
    """The digest of the chunks it is given; `aside`: taken in a thread of its own. Hashing needs no
    interpreter lock, so it costs no time then where a second core is free."""

    def __init__(self, algorithm: str, *, aside: bool) -> None:
        self._hasher = hashlib.new(algorithm)
        self._chunk = b""
        self._taken = _thread.allocate_lock()
        self._given = _thread.allocate_lock()
        self._thread = Thread(self._run) if aside else None

    def __enter__(self) -> _Hash:
        if self._thread:
            self._given.acquire()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._give(b"")
            self._thread.join()

    def update(self, chunk: bytes) -> None:
        """Feed a non-empty chunk."""
        if self._thread:
            self._give(chunk)
        else:
            self._hasher.update(chunk)

    def hexdigest(self) -> str:
        """Of all chunks, after the end of its `with`."""
        return self._hasher.hexdigest()

    def _give(self, chunk: bytes) -> None:
        self._taken.acquire()
        self._chunk = chunk
        self._given.release()

    def _run(self) -> None:
        while True:
            self._given.acquire()
            chunk = self._chunk
            self._taken.release()
            if not chunk:
                return
            self._hasher.update(chunk)


def apply_layer(
    stream: Iterable[bytes],
    algorithm: str,
    sink: LayerSink,
    limits: Limits,
    *,
    hash_aside: bool = True,
) -> Result:
    """Apply the layer whose uncompressed `stream` is given. `algorithm` is the diffID's;
    `hash_aside`: take that in a thread, which is not worth its start for a small layer.

    Raises:
        CorruptContentError, UnsupportedContentError, LimitExceededError, NoSpaceError
        OSError: anything else that the disk answers.
    """
    reader = TarReader(limits)
    hasher = _Hash(algorithm, aside=hash_aside)
    size = 0
    current: Entry | None = None
    try:
        with hasher:
            for chunk in stream:
                size += len(chunk)
                if size > limits.layer_bytes:
                    raise LimitExceededError(
                        f"layer is larger than {limits.layer_bytes} bytes uncompressed "
                        "(layer_bytes)"
                    )
                hasher.update(chunk)
                for entry, data in reader.feed(chunk):
                    if entry is not None:
                        current = entry
                        sink.add(entry, data)
                    else:
                        sink.write(data)
            current = None
            unended = reader.finish()
            sealable = sink.finish()
    except OSError as error:
        raise _explained(error, current) from error
    return Result(f"{algorithm}:{hasher.hexdigest()}", size, reader.entries, sealable, unended)


def _explained(error: OSError, entry: Entry | None) -> Exception:
    where = f"entry {shown(entry.name)} at offset {entry.offset}" if entry else "its end"
    what = f"layer: {where}: {error.strerror}"
    if is_full(error):
        return NoSpaceError(what)
    match error.errno:
        case errno.ENAMETOOLONG | errno.EMLINK | errno.EINVAL:
            return CorruptContentError(what)
        case errno.EFBIG:
            return LimitExceededError(what)
        case _:
            return OSError(error.errno, what)
