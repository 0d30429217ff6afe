"""What a pull has to do, from values alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.errors import CorruptContentError, UnsupportedContentError
from cri_imaged.images.pull.plan import compressed_size, image_chain, make_plan
from cri_imaged.oci.chain import chain_ids
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest
from cri_imaged.oci.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from cri_imaged.oci.platform import Platform
from cri_imaged.ports import BlobInfo

State = Literal["present", "discarded", "lost"]


def layer(name: str, size: int = 10) -> Descriptor:
    return Descriptor(OCI_LAYER_GZIP, Digest.of(name.encode()), size)


def image(
    *layers: Descriptor, diff_ids: int | None = None, blobs: tuple[Descriptor, ...] = ()
) -> tuple[Manifest, Config]:
    count = len(layers) if diff_ids is None else diff_ids
    config = Descriptor(OCI_CONFIG, Digest.of(b"config"), 5)
    ids = tuple(Digest.of(b"diff %d" % number) for number in range(count))
    return Manifest(OCI_MANIFEST, config, layers, blobs), Config(Platform("", ""), ids, "")


def blobs(**states: State) -> Mapping[Digest, BlobInfo | None]:
    found = {}
    for name, state in states.items():
        digest = Digest.of(name.encode())
        found[digest] = BlobInfo(digest, 10, state)
    return found


A, B, C = layer("a"), layer("b"), layer("c")
CHAIN = chain_ids(Digest.of(b"diff %d" % number) for number in range(3))


def test_an_empty_store() -> None:
    plan = make_plan(*image(A, layer("b", 30), layer("c", 20)), set(), {})
    assert [each.size for each in plan.fetch] == [30, 20, 10], "largest first"
    assert [(step.parent, step.chain_id) for step in plan.steps] == [
        (None, CHAIN[0]),
        (CHAIN[0], CHAIN[1]),
        (CHAIN[1], CHAIN[2]),
    ]
    assert (plan.unneeded, plan.chain_id, plan.missing_bytes) == ((), CHAIN[2], 60)


@pytest.mark.parametrize(
    ("committed", "states", "fetch", "steps", "unneeded"),
    [
        # What is above the highest committed snapshot, whatever is below it.
        ([0], {}, [B, C], 2, [A]),
        ([1], {}, [C], 1, [A, B]),
        ([0, 2], {}, [], 0, [A, B, C]),
        # Blobs that are here need not be fetched.
        ([], {"a": "present", "c": "present"}, [B], 3, []),
        ([1], {"c": "present"}, [], 1, [A, B]),
        # Discarded ones stay away where their snapshot is there, and come where it is not.
        ([1], {"a": "discarded", "b": "discarded"}, [C], 1, []),
        ([], {"a": "discarded"}, [A, B, C], 3, []),
        # Lost ones come back, needed or not.
        ([2], {"a": "lost", "b": "present", "c": "discarded"}, [A], 0, []),
        ([2], {"a": "present", "b": "present", "c": "present"}, [], 0, []),
    ],
)
def test_what_is_here(
    committed: list[int],
    states: dict[str, State],
    fetch: list[Descriptor],
    steps: int,
    unneeded: list[Descriptor],
) -> None:
    plan = make_plan(*image(A, B, C), {CHAIN[n] for n in committed}, blobs(**states))
    assert list(plan.fetch) == fetch
    assert [step.chain_id for step in plan.steps] == CHAIN[3 - steps :]
    assert list(plan.unneeded) == unneeded


def test_one_layer_twice() -> None:
    plan = make_plan(*image(A, B, A), set(), {})
    assert sorted(each.digest for each in plan.fetch) == sorted([A.digest, B.digest])
    assert [step.layer for step in plan.steps] == [A, B, A]
    above = make_plan(*image(A, B, A), {CHAIN[1]}, {})
    assert (above.fetch, above.unneeded) == ((A,), (B,))


def test_no_layers() -> None:
    plan = make_plan(*image(), set(), {})
    assert (plan.fetch, plan.steps, plan.chain_id, plan.missing_bytes) == ((), (), None, 0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_layers_and_diff_ids_differ_in_number(count: int) -> None:
    with pytest.raises(CorruptContentError, match=f"2 layers, its config {count} diffIDs"):
        image_chain(*image(A, B, diff_ids=count))


def test_a_manifest_that_contradicts_a_blob() -> None:
    with pytest.raises(CorruptContentError, match=r"11 bytes of layer .*, which has 10"):
        make_plan(*image(layer("a", 11)), set(), blobs(a="present"))


def test_the_size_that_is_shown() -> None:
    """As containerd counts: a layer that is listed twice counts twice."""
    manifest, _ = image(A, B, A)
    described = Descriptor(OCI_MANIFEST, Digest.of(b"m"), 7)
    index = Descriptor("", Digest.of(b"i"), 100)
    assert compressed_size(described, described, manifest) == 7 + 5 + 30
    assert compressed_size(index, described, manifest) == 100 + 7 + 5 + 30


@given(
    st.lists(st.sampled_from("abcdef"), max_size=8),
    st.sets(st.integers(0, 7)),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["present", "discarded", "lost"])),
)
def test_the_plan_suffices(names: list[str], committed: set[int], states: dict[str, State]) -> None:
    manifest, config = image(*(layer(name) for name in names))
    chain = image_chain(manifest, config)
    there = {chain[number] for number in committed if number < len(chain)}
    known = blobs(**states)
    plan = make_plan(manifest, config, there, known)
    fetched = {each.digest for each in plan.fetch}
    assert len(fetched) == len(plan.fetch)
    here = fetched | {digest for digest, info in known.items() if info and info.state == "present"}
    built = set(there)
    for step in plan.steps:
        assert step.layer.digest in here
        assert step.parent is None or step.parent in built
        built.add(step.chain_id)
    assert plan.chain_id is None or plan.chain_id in built
    lost = {d for d, info in known.items() if info and info.state == "lost"}
    assert lost & {each.digest for each in manifest.layers} <= fetched
    assert not fetched & {d for d, info in known.items() if info and info.state == "present"}
    assert not fetched & {each.digest for each in plan.unneeded}


# --- blobs that are no layers ----------------------------------------------------------------

WASM = Descriptor("application/wasm", Digest.of(b"wasm"), 99)


def test_a_blob_that_is_no_layer_is_fetched_and_unpacked_nowhere() -> None:
    plan = make_plan(*image(A, B, blobs=(WASM,)), set(), {})
    assert plan.fetch == (WASM, A, B)
    assert [step.layer for step in plan.steps] == [A, B]
    assert plan.chain_id == CHAIN[1]


def test_it_is_needed_though_all_layers_are_unpacked() -> None:
    plan = make_plan(*image(A, B, blobs=(WASM,)), {CHAIN[1]}, {})
    assert (plan.fetch, plan.steps, plan.unneeded) == ((WASM,), (), (A, B))


def test_it_counts_in_the_size() -> None:
    manifest, _ = image(A, blobs=(WASM,))
    target = Descriptor(OCI_MANIFEST, Digest.of(b"target"), 7)
    assert compressed_size(target, target, manifest) == 7 + 5 + 10 + 99


def test_a_layer_of_an_unknown_type_is_named() -> None:
    """It has a diffID, so it is a layer, and not something beside them."""
    sealed = Descriptor(OCI_LAYER_GZIP + "+encrypted", Digest.of(b"sealed"), 99)
    with pytest.raises(UnsupportedContentError, match="encrypted"):
        image_chain(*image(A, blobs=(sealed,), diff_ids=2))
