"""What decrypts encrypted layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports.layers import LayerSecret

Secrets: TypeAlias = Mapping[Digest, LayerSecret]
"""Of encrypted layers, by the digests of their blobs."""


class Decrypter(Protocol):
    """Knows whether layers may be decrypted here, now, and by what."""

    async def unwrap(self, layers: Sequence[Descriptor]) -> Secrets:
        """The secret of each of `layers` that is encrypted. Whoever wrapped a key may have wrapped
        a wrong one: whether it is the layer's shows when that is decrypted.

        Raises:
            NotDecryptableError: nothing here decrypts one of them; names whom it is encrypted for.
            CorruptContentError, UnsupportedContentError: its annotations are malformed.
            ConfigError: what would decrypt it is configured wrongly.
        """
        ...
