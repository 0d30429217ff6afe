"""The dashboard that deploy/ ships, as Grafana reads it. What its queries find is in
`tests/real/test_prometheus.py`."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tests.support.deploy import DEPLOY

PANELS: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "cri-imaged.json").read_text())[
    "panels"
]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]


def test_no_two_panels_are_in_the_same_place() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert set(places.values()) == {1}
    assert max(x for x, _ in places) < 24


@pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: panel["title"])
def test_a_panel_shows_the_chosen_nodes_from_the_chosen_source(panel: dict[str, Any]) -> None:
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["description"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert 'instance=~"$instance"' in target["expr"]
        assert target["legendFormat"]
