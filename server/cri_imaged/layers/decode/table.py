"""Which decoder reads layers of which media type. A new encoding is one file and its entry here."""

from __future__ import annotations

from collections.abc import Mapping

from cri_imaged.errors import UnsupportedContentError
from cri_imaged.layers.decode.decoder import Decoder, Encoded
from cri_imaged.layers.decode.encrypted import encrypted
from cri_imaged.layers.decode.file import FILE
from cri_imaged.layers.decode.plain import PLAIN
from cri_imaged.layers.decode.sniffed import SNIFFED
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor

_CLEAR: Mapping[str, Decoder] = {
    **dict.fromkeys(media_types.CLEAR_LAYERS, SNIFFED),
    media_types.OCI_LAYER: PLAIN,
    media_types.OCI_FOREIGN_LAYER: PLAIN,
}
DECODERS: Mapping[str, Decoder] = {
    **_CLEAR,
    **{clear + media_types.ENCRYPTED: encrypted(decoder) for clear, decoder in _CLEAR.items()},
    media_types.FILE_LAYER: FILE,
}
"""By media type. An OCI plain layer is taken as it is, whatever its bytes look like."""


def decoder_of(media_type: str, decoders: Mapping[str, Decoder] = DECODERS) -> Decoder:
    """The decoder for layers of this type.

    Raises:
        UnsupportedContentError: there is none.
    """
    found = decoders.get(media_type)
    if found is None:
        raise UnsupportedContentError(f"layer type {media_type[:200]!r} is not supported")
    return found


def encoded(descriptor: Descriptor, decoders: Mapping[str, Decoder] = DECODERS) -> Encoded:
    """What the decoder of a layer is told of its descriptor.

    Raises:
        UnsupportedContentError: no decoder reads it.
    """
    wanted = decoder_of(descriptor.media_type, decoders).annotations
    told = {key: text for key, text in descriptor.annotations.items() if key in wanted}
    return Encoded(descriptor.media_type, told, descriptor.size)
