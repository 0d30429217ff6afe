"""What sealing an image takes."""

from __future__ import annotations

from pathlib import Path

from cri_imaged.limits import Limits
from cri_imaged.snapshots.image_seal import seal_image
from tests.layers.direct import apply_image
from tests.snapshots.workbench import applied
from tests.support import tarballs as t
from tests.support.work import steps_of


def sealing(folder: Path, depth: int) -> list[int]:
    """Steps for a file in so many directories that nobody lists, and for its whiteout over it."""
    folder.mkdir()
    steps: list[int] = []
    images: list[Path] = []
    for name in ("f", ".wh.f"):
        image = folder / str(len(images))
        result, _ = apply_image(image, [t.archive(t.file(depth * "d/" + name))])
        layer = applied(**result.sealable._asdict())
        steps.append(steps_of(seal_image, image, images[::-1], layer, lambda: None, Limits()))
        images.append(image)
    return steps


def test_it_takes_as_long_as_there_are_directories_however_deep_they_are(tmp_path: Path) -> None:
    few, many = (sealing(tmp_path / str(depth), depth) for depth in (50, 400))
    assert [more / less < 12 for less, more in zip(few, many, strict=True)] == [True, True]
