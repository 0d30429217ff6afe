"""An encrypted layer's key is known to the process that decodes that layer, and to no other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path

import pytest

from cri_imaged.decryption.wrapping import secret_of
from cri_imaged.errors import CorruptContentError
from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import DirectoryTarget, LayerSecret
from tests.layers.sources import Growing, Whole, described
from tests.layers.test_pool import LAYER, check, descendants, into, parent_of, pool, until, workers
from tests.support import images
from tests.support import tarballs as t
from tests.support.encryption import encrypt
from tests.support.require import require_real

__all__ = ["into", "pool"]  # fixtures

MADE = encrypt(images.Layer(t.gz(LAYER), images.LAYER + "+gzip", ""))
LAYER_TYPE = described(MADE.media_type)
_WRITABLE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p")


@pytest.fixture
def secret() -> LayerSecret:
    digest = Digest.of(MADE.blob)
    layer = Descriptor(MADE.media_type, digest, len(MADE.blob), annotations=MADE.annotations)
    return secret_of(MADE.private, layer)


def holds(pid: int, secret: LayerSecret) -> bool:
    """Whether a process has a key anywhere in memory that it may have written."""
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for start, end in _WRITABLE.findall(Path(f"/proc/{pid}/maps").read_text()):
            memory.seek(int(start, 16))
            with contextlib.suppress(OSError):  # given back meanwhile
                if secret.key in memory.read(int(end, 16) - int(start, 16)):
                    return True
    return False


async def test_the_key_reaches_the_decoder_alone(
    pool: WorkerPool, into: DirectoryTarget, secret: LayerSecret, tmp_path: Path
) -> None:
    require_real(os.geteuid() == 0, "only root sees the memory of others")
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, LAYER_TYPE, into, secret=secret))
    await source.write(MADE.blob[:2000])
    await until(lambda: len(workers()) == 2)
    writer, decoder = sorted(workers())  # in the order of their forks
    await until(lambda: holds(decoder, secret))
    assert not holds(writer, secret)
    assert not holds(parent_of(writer), secret)
    await source.write(MADE.blob[2000:])
    await source.complete()
    check(await task, LAYER, into.directory)
    assert not [pid for pid in descendants() if holds(pid, secret)]


async def test_without_its_key_a_layer_is_refused(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(MADE.blob)
    with pytest.raises(CorruptContentError, match="layer is encrypted, and nobody gave its key"):
        await pool.apply(Whole(blob), LAYER_TYPE, into)


@pytest.mark.parametrize("at", [0, 500, -1])
async def test_any_byte_that_was_changed_is_found(
    pool: WorkerPool, into: DirectoryTarget, secret: LayerSecret, tmp_path: Path, at: int
) -> None:
    blob, changed = tmp_path / "blob", bytearray(MADE.blob)
    changed[at] ^= 1
    blob.write_bytes(changed)
    with pytest.raises(CorruptContentError, match="its HMAC differs"):
        await pool.apply(Whole(blob), LAYER_TYPE, into, secret=secret)


@pytest.mark.parametrize("clear", sorted(media_types.CLEAR_LAYERS))
async def test_each_type_of_layers_may_be_encrypted(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path, clear: str
) -> None:
    pack = t.zst if "zstd" in clear else t.gz if "gzip" in clear else bytes
    made = encrypt(images.Layer(pack(LAYER), clear, ""))
    digest = Digest.of(made.blob)
    layer = Descriptor(made.media_type, digest, len(made.blob), annotations=made.annotations)
    blob = tmp_path / "blob"
    blob.write_bytes(made.blob)
    secret = secret_of(made.private, layer)
    diff_id = Digest.of(LAYER)
    applied = await pool.apply(Whole(blob), layer, into, secret=secret, diff_id=diff_id, origin="a")
    check(applied, LAYER, into.directory)
    assert not workers()
