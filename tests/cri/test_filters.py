"""containerd's filters, as its own snapshotters understand them."""

from __future__ import annotations

import pytest

from cri_imaged.cri.filters import matcher
from cri_imaged.errors import InvalidRequestError
from cri_imaged.ports import RuntimeSnapshot, SnapshotKind

REF = "containerd.io/snapshot.ref"


def snapshot(name: str, parent: str = "", **labels: str) -> RuntimeSnapshot:
    return RuntimeSnapshot(
        name,
        parent,
        SnapshotKind.ACTIVE,
        {REF if k == "ref" else k: v for k, v in labels.items()},
        0,
        0,
    )


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ([], True),
        (["name==a"], True),
        (["name==b"], False),
        (["name==b", "kind==active"], True),
        (["name==a,kind==view"], False),
        ([f'labels."{REF}"==sha256:12,parent==""'], True),
        ([f'labels."{REF}"=="sha256:12",parent=="p"'], False),
        ([f'labels."{REF}"'], True),
        (["labels.l"], False),
        (["labels.l!=2"], True),
        (['parent!=""'], False),
        (["name~=^[ab]$"], True),
        (["size==1"], False),
    ],
)
def test_a_filter_matches(filters: list[str], matches: bool) -> None:
    assert matcher(filters)(snapshot("a", ref="sha256:12")) is matches


@pytest.mark.parametrize("text", ["==x", "name=x", 'labels."l==x', "name~=(", "a b"])
def test_a_malformed_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="filter"):
        matcher([text])
