"""The alerts that deploy/ ships, by promtool: their syntax, when they fire, and whether what they
ask for is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from cri_imaged.obs.metrics import Metrics
from cri_imaged.obs.runtime_metrics import RuntimesMetrics
from cri_imaged.obs.worker_metrics import WorkerMetrics
from tests.support.deploy import DEPLOY
from tests.support.require import require_real

ALERTS = DEPLOY / "alerts.yml"


def promtool(*arguments: str) -> str:
    require_real(shutil.which("promtool") is not None, "promtool is not installed")
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_promtool_accepts_the_rules() -> None:
    assert "12 rules found" in promtool("check", "rules", str(ALERTS))


def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    tests = Path(__file__).with_name("alerts.test.yml")
    for file in (ALERTS, tests):
        shutil.copy(file, tmp_path)
    promtool("test", "rules", str(tmp_path / tests.name))
    named = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert set(named) == set(re.findall(r"alertname: (\w+)", tests.read_text()))


def test_every_metric_that_an_alert_asks_for_exists() -> None:
    metrics = Metrics("1")
    RuntimesMetrics(metrics.registry)
    WorkerMetrics(metrics.registry, lambda: None)
    known = {"cri_imaged_event_loop_stalled_seconds_total"}  # StallWatch's, which needs a loop
    for family in metrics.registry.collect():
        known |= {family.name, f"{family.name}_total"}
    asked = set(re.findall(r"\bcri_imaged_\w+", ALERTS.read_text()))
    assert asked
    assert asked <= known
