"""The simulation of many nodes, small: what must hold of any fleet holds of its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[1]
NODES, PULLS = 20, 5
MANIFEST_CONFIG_AND_LAYERS = 7


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    written = tmp_path_factory.mktemp("fleet") / "figures.json"
    command = [sys.executable, "benchmarks/fleet.py", "--json", written, "--hours", "1"]
    command += ["--nodes", str(NODES), "--pulls", str(PULLS)]
    subprocess.run(command, cwd=CHECKOUT, check=True, timeout=60, capture_output=True)
    return {each["scenario"]: each for each in json.loads(written.read_text())["results"]}


def test_who_is_over_the_limit_waits(results: dict[str, Any]) -> None:
    found = results["HEAD first, jitter"]
    assert found["nodes_ready"] == found["counted"] == PULLS
    assert found["all_seconds"] is None
    # Within an hour the kubelet asks some 15 times; half a minute between tries leaves 3 of 5.
    assert 15 <= found["refused"] / (NODES - PULLS) <= 3 * 15


def test_head_saves_the_pulls_of_what_is_here(results: dict[str, Any]) -> None:
    assert results["GET always, no jitter"]["pods_started"] == PULLS
    assert results["HEAD first, no jitter"]["pods_started"] == 3 * PULLS


def test_a_mirror_asks_once_and_is_bound_by_its_link(results: dict[str, Any]) -> None:
    found = results["pull-through mirror"]
    assert found["requests"] == MANIFEST_CONFIG_AND_LAYERS + 1  # the HEAD
    assert (found["counted"], found["refused"], found["nodes_ready"]) == (1, 0, NODES)
    # 0.5 GB to the mirror at 1 Gbit/s, and to all at 10.
    assert 12 <= found["all_seconds"] < 16


def test_nodes_that_begin_at_once_find_no_peer(results: dict[str, Any]) -> None:
    at_once, spread = results["peers"], results["… begun over 10 min, peers"]
    assert at_once["gigabytes"] == pytest.approx(0.5 * PULLS, rel=0.01)
    assert spread["gigabytes"] == pytest.approx(0.5, rel=0.01)


def test_a_seed_fetches_layers_once_and_saves_no_manifest(results: dict[str, Any]) -> None:
    assert results["seeded peers"]["gigabytes"] == pytest.approx(0.5, rel=0.01)
    assert results["seeded peers"]["counted"] == PULLS
    assert results["mirror, seeded peers"]["nodes_ready"] == NODES
