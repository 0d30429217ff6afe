"""The program of one layer worker: confined, it applies one layer, answers, and ends."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from cri_imaged.errors import LimitExceededError
from cri_imaged.layers import confine, protocol
from cri_imaged.layers.apply import apply_layer
from cri_imaged.layers.sink import DirectorySink
from cri_imaged.ports import Skipped, Usage

_READ = 256 << 10


class _Abandoned(Exception):  # noqa: N818  # no error: nobody waits for an answer any more
    """The daemon closed the pipe of watermarks."""


def run(start: protocol.Start, descriptors: Sequence[int], zygote: int) -> None:
    """Apply the layer that `start` tells of, and leave the answer in the result pipe.

    `descriptors`: source, watermarks, root, result. `zygote` is the parent's process ID.
    """
    source, watermarks, root, result = descriptors
    confine.die_with_parent(zygote)
    confine.keep_descriptors(descriptors)
    try:
        chroot = confine.privileged()
        confine.confine(root, start.limits, chroot=chroot)
        answer = protocol.encode(_apply(start, source, watermarks, root, privileged=chroot))
    except _Abandoned:
        return
    except MemoryError:
        limit = start.limits.worker_memory_bytes
        answer = protocol.encode(
            protocol.failure(
                LimitExceededError(
                    f"layer needs more than {limit} bytes of memory (worker_memory_bytes)"
                )
            )
        )
    except Exception as error:  # whatever it is, the daemon must hear of it
        answer = protocol.encode(protocol.failure(error))
    _write(result, answer)


def _apply(
    start: protocol.Start, source: int, watermarks: int, root: int, *, privileged: bool
) -> protocol.Success:
    sink = DirectorySink(root, start.limits, privileged=privileged)
    if start.clear:
        sink.tree.clear()
    chunks = _chunks(source, watermarks)
    done = apply_layer(chunks, start.media_type, start.algorithm, sink, start.limits)
    return protocol.success(
        done.diff_id,
        done.size,
        done.entries,
        Usage(sink.tree.bytes, sink.tree.inodes),
        Skipped(sink.skipped.owners, sink.skipped.devices, sink.skipped.xattrs, sink.skipped.times),
        done.seal,
        done.unended,
    )


def _chunks(source: int, watermarks: int) -> Iterator[bytes]:
    """The layer's bytes, as far as the watermarks say that they are there."""
    at = available = 0
    complete = False
    while True:
        if at < available:
            chunk = os.pread(source, min(_READ, available - at), at)
            if not chunk:
                raise OSError(0, f"layer source ends at {at} of {available} bytes")
            at += len(chunk)
            yield chunk
        elif complete:
            return
        else:
            available, complete = protocol.parse_watermark(_read(watermarks))


def _read(watermarks: int) -> bytes:
    message = b""
    while len(message) < protocol.WATERMARK_BYTES:
        part = os.read(watermarks, protocol.WATERMARK_BYTES - len(message))
        if not part:
            raise _Abandoned
        message += part
    return message


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
