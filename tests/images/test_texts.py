"""What pulls keep of their manifests has a bound, and nobody's keeps out others'."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from cri_imaged.errors import QueueFullError
from cri_imaged.images.pull.shares import Share
from cri_imaged.images.pull.texts import Texts
from cri_imaged.limits import KIB, MIB, Limits
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Manifest

CROWD, HONEST = Share("bad", "crowd"), Share("good", "library")


def manifest(size: int) -> Manifest:
    """With annotations of about so many bytes."""
    listed = Descriptor("application/x", Digest.of(b""), 0)
    noted = Descriptor("application/x", Digest.of(b"x"), 1, annotations={"a": "x" * size})
    return Manifest("application/x", listed, (noted,))


def test_large_texts_of_many_pulls_are_refused_and_given_back() -> None:
    texts = Texts(Limits(memory_bytes=16 * MIB))
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(texts.kept(CROWD, manifest(300 * KIB)))
        with pytest.raises(QueueFullError, match=r"bad/crowd keep \d+ bytes"):
            stack.enter_context(texts.kept(CROWD, manifest(300 * KIB)))
        stack.enter_context(texts.kept(CROWD, manifest(10 * KIB)))
        stack.enter_context(texts.kept(HONEST, manifest(300 * KIB)))
    with texts.kept(CROWD, manifest(300 * KIB)):
        pass
