"""Which sink fills which kind of target. A new kind is one file and its entry here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cri_imaged.layers.sinks.directory import DirectorySink
from cri_imaged.layers.sinks.image import ImageSink
from cri_imaged.layers.sinks.sink import LayerSink
from cri_imaged.limits import Limits
from cri_imaged.ports import IMAGE, DirectoryTarget, ImageTarget, Target


class Rights(NamedTuple):
    """What a sink may do and has to do."""

    privileged: bool
    """Whether it may set owners."""
    clear: bool
    """Whether to empty the target first: an attempt before this one was in it."""


class SinkKind(NamedTuple):
    """How targets of one kind are filled."""

    enter: Callable[[Any], int]
    """In the daemon: a descriptor of the directory that a worker is locked into. The caller closes
    it."""
    open: Callable[[Any, int, Rights, Limits], LayerSink]
    """In the worker: a sink that fills the target through that descriptor."""


def _enter_directory(target: Target) -> int:
    return os.open(target.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _open_directory(
    target: DirectoryTarget, descriptor: int, rights: Rights, limits: Limits
) -> LayerSink:
    sink = DirectorySink(descriptor, limits, privileged=rights.privileged)
    if rights.clear:
        sink.clear()
    return sink


def _open_image(target: ImageTarget, descriptor: int, rights: Rights, limits: Limits) -> LayerSink:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return ImageSink(os.open(IMAGE, flags, 0o600, dir_fd=descriptor), limits)


SINKS: Mapping[type, SinkKind] = {
    DirectoryTarget: SinkKind(_enter_directory, _open_directory),
    ImageTarget: SinkKind(_enter_directory, _open_image),
}


def enter(target: Target, sinks: Mapping[type, SinkKind] = SINKS) -> int:
    """A descriptor of the directory that the worker over `target` is locked into."""
    return sinks[type(target)].enter(target)


def open_sink(
    target: Target,
    descriptor: int,
    rights: Rights,
    limits: Limits,
    sinks: Mapping[type, SinkKind] = SINKS,
) -> LayerSink:
    """The sink that fills `target`."""
    return sinks[type(target)].open(target, descriptor, rights, limits)
