"""Runtime handlers: for which platform, and into which snapshotter, images are pulled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from cri_imaged.errors import InvalidRequestError
from cri_imaged.oci.platform import Platform
from cri_imaged.ports import Snapshotter

log = structlog.get_logger()

SANDBOX_ANNOTATION = "io.containerd.cri.runtime-handler"
"""Of a pod's sandbox: its handler, where the client is too old for ImageSpec.runtime_handler."""


@dataclass(frozen=True, slots=True)
class Handler:
    """What images pulled for one runtime handler are for."""

    name: str
    """Empty for the default one."""
    platform: Platform
    snapshotter: Snapshotter


class Handlers:
    """The handlers that images are pulled for."""

    def __init__(self, default: Handler, others: Iterable[Handler]) -> None:
        self._default = default
        self._others = {handler.name: handler for handler in others}

    def of(self, name: str) -> Handler:
        """The handler that an image was pulled for; the default one where it is none of ours any
        more."""
        return self._others.get(name, self._default)

    def asked_for(self, name: str, annotation: str) -> Handler:
        """The handler of a request: `name` is its image's runtime_handler, which counts, and
        `annotation` its sandbox's `SANDBOX_ANNOTATION`. Without either, the default one. As CRI has
        it, an unknown name is refused; an unknown annotation means the default, as for containerd.

        Raises:
            InvalidRequestError: no handler is configured by this name.
        """
        if name and name not in self._others:
            known = ", ".join(sorted(self._others)) or "none"
            raise InvalidRequestError(
                f"runtime handler {name[:100]!r} is unknown, configured: {known}; it needs a table "
                "[image.runtime_platforms.NAME], which may be empty"
            )
        wanted = name or annotation
        if wanted and wanted not in self._others:
            log.warning(
                "the sandbox's runtime handler is unknown, the default one is taken",
                handler=wanted[:100],
                annotation=SANDBOX_ANNOTATION,
            )
        return self.of(wanted)
