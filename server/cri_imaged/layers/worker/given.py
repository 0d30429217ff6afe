"""What the daemon opens for a worker."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from typing import NamedTuple

from cri_imaged.layers.sinks.table import enter
from cri_imaged.layers.worker import protocol
from cri_imaged.layers.worker.namespaces import without_devices
from cri_imaged.ports import LayerSecret, Target


class Given(NamedTuple):
    """Descriptors that the daemon opens for one worker."""

    source: int
    target: int
    report: int
    secret: int

    def close(self) -> None:
        """Close all of them."""
        for fd in self:
            os.close(fd)


def open_for(layer: int, into: Target, secret: LayerSecret | None) -> Given:
    """What a worker is given, `layer` among it: that is closed where the rest cannot be had.
    Touches the disk."""
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, layer)
        directory = enter(into)
        try:
            target = without_devices(directory)
            undo.callback(os.close, target)
            report = _unnamed_file(directory)
            undo.callback(os.close, report)
            given = Given(layer, target, report, protocol.secret_pipe(secret))
        finally:
            os.close(directory)
        undo.pop_all()
    return given


def _unnamed_file(directory: int) -> int:
    """An open file without a name, on the file system of an open directory where that can be."""
    try:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        return os.open(".", flags, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        with tempfile.TemporaryFile(buffering=0) as file:
            return os.dup(file.fileno())
