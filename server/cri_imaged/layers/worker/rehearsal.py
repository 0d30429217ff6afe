"""A rehearsal: the zygote applies a few tiny layers of its own before it forks.

What happens only when code is first run (it is fitted to the types it meets, attributes are looked
up, functions of libraries are bound) would happen anew in each worker, which copies pages for it.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

from cri_imaged import libc
from cri_imaged.errors import ImagedError
from cri_imaged.layers.apply import apply_layer
from cri_imaged.layers.decode.decoder import Encoded
from cri_imaged.layers.decode.table import decoder_of
from cri_imaged.layers.sinks.table import Rights, open_sink
from cri_imaged.layers.tar.reader import BLOCK
from cri_imaged.layers.worker import protocol, ring
from cri_imaged.layers.worker.arriving import arriving
from cri_imaged.layers.worker.headroom import paced
from cri_imaged.layers.worker.heart import STOPPED_SECONDS
from cri_imaged.layers.worker.ring import Flow, Ring
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.ports import DirectoryTarget

_TIMES = 12
"""CPython 3.11 fits a function to its use from its ninth call on."""
_FILES = 4
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _CREATE = 1, 6
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8


def rehearse(*, privileged: bool) -> bool:
    """Apply layers into memory that nobody else sees; starts no thread and leaves nothing open.
    False where the kernel gives none: then layers take some more time. `privileged`: see
    `confine`."""
    layer = _layer()
    try:
        directory = _directory_in_memory()
        try:
            for _ in range(_TIMES):
                _apply(layer, directory, privileged=privileged)
        finally:
            os.close(directory)
    except (OSError, ImagedError):
        return False
    return True


def _apply(layer: bytes, directory: int, *, privileged: bool) -> None:
    """As a decoder and a writer do, one after the other."""
    limits = Limits()
    encoded = Encoded(media_types.OCI_LAYER_GZIP, {}, len(layer))
    with contextlib.ExitStack() as stack:
        between = Ring.make()
        stack.callback(between.close)
        source = os.memfd_create("layer", os.MFD_CLOEXEC)
        stack.callback(os.close, source)
        os.write(source, layer)
        watermarks, told = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, watermarks)
        with open(told, "wb", buffering=0) as pipe:
            pipe.write(protocol.watermark(len(layer), complete=True))
        report = os.memfd_create("report", os.MFD_CLOEXEC)
        stack.callback(os.close, report)

        chunks = arriving(source, watermarks)
        ring.fill(between, decoder_of(encoded.media_type).decode(chunks, encoded, limits))
        stream = paced(ring.drain(between, STOPPED_SECONDS, Flow()), directory, 0)
        rights = Rights(privileged, clear=True)
        sink = open_sink(DirectoryTarget(Path("/")), directory, rights, limits)
        result = apply_layer(stream, "sha256", sink, limits, hash_aside=False)
        protocol.encode(protocol.success(result, sink.held(), sink.skipped(), report))


def _layer() -> bytes:
    """Directories, files and links, as gzip."""
    out = []
    for name in (b"usr/", b"usr/share/"):
        out.append(_header(name, b"5"))
        for number in range(_FILES):
            out.append(_header(b"%sfile%d" % (name, number), b"0", BLOCK))
            out.append(bytes(BLOCK))
        out.append(_header(name + b"link", b"2", link=b"file0"))
    return zlib.compress(b"".join(out) + bytes(2 * BLOCK), wbits=31)


def _header(name: bytes, flag: bytes, size: int = 0, link: bytes = b"") -> bytes:
    numbers = b"0000755\0" + 2 * b"0000000\0" + b"%011o\0%011o\0" % (size, 0)
    block = (name.ljust(100, b"\0") + numbers + 8 * b" " + flag + link).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _directory_in_memory() -> int:
    """An open, empty directory that is gone when it is closed. Raises `OSError`."""
    made = libc.syscall(_FSOPEN, b"tmpfs", _CLOEXEC)
    try:
        libc.syscall(_FSCONFIG, made, _CREATE, None, None, 0)
        mount = libc.syscall(_FSMOUNT, made, _CLOEXEC, _NOSUID | _NODEV | _NOEXEC)
    finally:
        os.close(made)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)
