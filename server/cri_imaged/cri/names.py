"""Images' names as clients give them."""

from __future__ import annotations

from collections.abc import Mapping

from cri_imaged.errors import InvalidRequestError
from cri_imaged.limits import Limits
from cri_imaged.oci.aliases import expanded


class ClientNames:
    """Reads every name that a request has, so that an alias means the same in all of them: what is
    pulled as `fedora` is found as `fedora`."""

    def __init__(self, limits: Limits, aliases: Mapping[str, str]) -> None:
        self._limits = limits
        self.aliases = aliases
        """Short names and what they stand for."""

    def read(self, name: str) -> str:
        """The name that is meant: of an image, or (the beginning of) its ID.

        Raises:
            InvalidRequestError: it is too long.
        """
        size, limit = len(name.encode()), self._limits.reference_bytes
        if size > limit:
            raise InvalidRequestError(f"image reference of {size} bytes, limit {limit}")
        return expanded(name, self.aliases)
