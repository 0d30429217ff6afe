"""The node at a glance, for people who watch it in a browser: what runs, what was, what is here."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from cri_imaged import __version__
from cri_imaged.images.events import Event, Events, PullEnded, StoreChecked
from cri_imaged.images.history import PullHistory
from cri_imaged.images.pull.progress import PullProgress, RunningPulls
from cri_imaged.images.reports import PullReport
from cri_imaged.images.timeline import Stage
from cri_imaged.obs.store_metrics import StoreFigures

SECONDS = 1.0
"""Between two looks at what runs."""
PULLS = 50
"""Running ones, and ended ones, that are shown."""
LAYERS = 50
"""Of one pull that are shown."""
Document = dict[str, Any]


class Overview:
    """What can be shown; documents of JSON's types."""

    def __init__(
        self,
        running: RunningPulls,
        history: PullHistory,
        events: Events,
        figures: Callable[[], StoreFigures | None],
    ) -> None:
        """`figures` are those of the last measurement."""
        self._running = running
        self._history = history
        self._figures = figures
        self._ended = 0
        self._checked: Document | None = None
        events.attach(self._hear)

    def _hear(self, event: Event) -> None:
        if isinstance(event, PullEnded):
            self._ended += 1
        if isinstance(event, StoreChecked) and event.whole:
            self._checked = {
                "time": time.time(),
                "problems": event.problems,
                "repaired": event.repaired,
            }

    async def watch(self) -> AsyncIterator[tuple[str, Document]]:
        """What is new, until the daemon stops: `past`, first of all and whenever pulls have ended,
        and `now`, each second."""
        told = -1
        while not self._running.stopping:
            if told != self._ended:
                told = self._ended
                yield "past", past(await self._history.reports("", PULLS))
            yield "now", self._now()
            await asyncio.sleep(SECONDS)

    def _now(self) -> Document:
        figures = self._figures()
        store = None
        if figures is not None:
            store = {
                "objects": dict(figures.objects),
                "bytes": dict(figures.bytes),
                "free": figures.free,
                "reserve": figures.reserve,
            }
        running = self._running.list()
        return {
            "time": time.time(),
            "node": platform.node(),
            "version": __version__,
            "running": [_running(pull) for pull in running[:PULLS]],
            "left_out": max(len(running) - PULLS, 0),
            "store": store,
            "checked": self._checked,
        }


def past(reports: Sequence[PullReport]) -> Document:
    """Pulls that are over, the newest first, and how hosts did in them (pure)."""
    return {"pulls": [_report(each) for each in reports], "hosts": hosts(reports)}


def hosts(reports: Iterable[PullReport]) -> list[Document]:
    """What each registry's host sent in these pulls, and how it failed last (pure)."""
    found: dict[str, Document] = {}
    for report in reports:
        for account in (report.account, *(layer.account for layer in report.layers)):
            for host, size in account.hosts.items():
                _host(found, host)["bytes"] += size
            for failure in account.failures:
                entry = _host(found, failure.host)
                entry["failed"] += 1
                entry["outcome"] = entry["outcome"] or failure.outcome
    return sorted(found.values(), key=lambda each: (-each["failed"], each["host"]))


def _host(found: dict[str, Document], host: str) -> Document:
    return found.setdefault(host, {"host": host, "bytes": 0, "failed": 0, "outcome": ""})


def _running(pull: PullProgress) -> Document:
    return {
        "reference": pull.reference,
        "phase": pull.stage.value,
        "pod": pull.cause.pod,
        "started": pull.started,
        "fetched": pull.fetched,
        "total": pull.total,
        "layers": [
            {
                "digest": layer.layer.digest,
                "size": layer.layer.size,
                "fetched": layer.fetched,
                "phase": layer.phase.value,
            }
            for layer in pull.layers[:LAYERS]
        ],
    }


def _report(report: PullReport) -> Document:
    return {
        "reference": report.reference,
        "pod": report.pod,
        "began": report.began,
        "seconds": report.seconds,
        "outcome": report.outcome,
        "reason": report.reason,
        "error": report.error,
        "fetched": report.received,
        "reused": report.reused,
        "stages": _stages(report.stages),
        "layers": [
            {"digest": layer.digest, "size": layer.size, "stages": _stages(layer.stages)}
            for layer in report.layers[:LAYERS]
        ],
    }


def _stages(stages: Iterable[Stage]) -> list[Document]:
    return [{"name": each.name, "began": each.began, "seconds": each.seconds} for each in stages]
