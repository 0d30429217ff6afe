"""What a remote snapshotter is told of a layer."""

from __future__ import annotations

from cri_imaged.images.pull.plan import Step
from cri_imaged.images.transfers.claims import image_labels, layer_labels
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest

CRI = "containerd.io/snapshot/cri."


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def step(number: int, **annotations: str) -> Step:
    layer = Descriptor("application/x", digest(number), 1, annotations=annotations)
    parent = digest(1000 + number - 1) if number else None
    return Step(layer, digest(2000 + number), parent, digest(1000 + number))


IMAGE = image_labels("host/name:tag", digest(7))


def test_it_is_told_image_layer_and_the_layers_above() -> None:
    steps = [step(number) for number in range(3)]
    assert layer_labels(IMAGE, steps, steps[1]) == {
        f"{CRI}image-ref": "host/name:tag",
        f"{CRI}manifest-digest": digest(7),
        f"{CRI}layer-digest": digest(1),
        f"{CRI}image-layers": f"{digest(1)},{digest(2)}",
        "containerd.io/snapshot/diff-id": digest(2001),
    }


def test_annotations_for_snapshotters_are_passed_and_say_nothing_else() -> None:
    toc = "containerd.io/snapshot/stargz/toc.digest"
    one = step(
        0,
        **{
            toc: "sha256:x",
            f"{CRI}layer-digest": "another",
            f"{CRI}made-up": "x",
            "containerd.io/snapshot.ref": "another",
            "containerd.io/snapshot/diff-id": "another",
            "containerd.io/gc.root": "x",
            "org.example": "x",
            "containerd.io/snapshot/long": "x" * 4096,
        },
    )
    labels = layer_labels(IMAGE, [one], one)
    assert labels.pop(toc) == "sha256:x"
    plain = step(0)
    assert labels == layer_labels(IMAGE, [plain], plain)


def test_a_label_is_no_longer_than_containerd_takes() -> None:
    steps = [step(number) for number in range(100)]
    listed = layer_labels(IMAGE, steps, steps[0])[f"{CRI}image-layers"]
    assert 4096 - 72 < len(listed) + len(f"{CRI}image-layers") <= 4096
    assert set(listed.split(",")) < {each.layer.digest for each in steps}
