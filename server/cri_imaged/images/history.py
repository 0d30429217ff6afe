"""How often images were pulled, when, and why it took as long as it did. It listens to events, and
writes in the background: a crash loses what happened within the last seconds."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import structlog

from cri_imaged.disk import on_disk
from cri_imaged.errors import ImagedError, InvalidRequestError
from cri_imaged.images.events import Event, PullEnded
from cri_imaged.images.reports import LayerReport, PullReport
from cri_imaged.images.store import ImageStore
from cri_imaged.limits import (
    ERROR_MESSAGE_BYTES,
    LISTED_REPORTS_BYTES,
    PULL_COUNTS,
    PULL_REPORTS,
    REPORT_BYTES,
    REPORTED_LAYERS,
)
from cri_imaged.metadata import history
from cri_imaged.metadata.database import Database
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import PullCount
from cri_imaged.shielding import to_the_end

log = structlog.get_logger()

_WRITE_SECONDS = 3.0
"""Between the end of a pull and what is written of it; some are written together."""
_encoder = msgspec.json.Encoder(enc_hook=str)


def _as(kind: type[Any], value: Any) -> Any:
    return kind(value)


_decoder = msgspec.json.Decoder(PullReport, dec_hook=_as)


class PullHistory:
    """The pulls of this node, over restarts."""

    def __init__(self, database: Database, store: ImageStore) -> None:
        self._database = database
        self._store = store
        self._unwritten: deque[PullReport] = deque(maxlen=PULL_REPORTS)
        self._heard = asyncio.Event()
        self._writing = asyncio.Lock()

    def hear(self, event: Event) -> None:
        """A `Listener`."""
        if isinstance(event, PullEnded):
            self._unwritten.append(event.report)
            self._heard.set()

    async def run(self) -> None:
        """The background task. What it has not written when it is cancelled, it writes then."""
        try:
            while True:
                await self._heard.wait()
                await asyncio.sleep(_WRITE_SECONDS)
                self._heard.clear()
                await self._try_to_write()
        finally:
            await self._try_to_write()

    async def counts(self, image: str) -> list[PullCount]:
        """How often an image was pulled, by any name of it; all where it is empty."""
        await self._try_to_write()
        name, image_id = self._meaning(image)
        return await self._database.read(lambda db: history.counts(db, name, image_id))

    async def reports(self, image: str, limit: int) -> list[PullReport]:
        """Reports on the last pulls of an image, by any name of it; of all where it is empty. Fewer
        than `limit` where these have more than `LISTED_REPORTS_BYTES`."""
        await self._try_to_write()
        name, image_id = self._meaning(image)
        found = await self._database.read(
            lambda db: history.reports(
                db, name, image_id, limit or PULL_REPORTS, LISTED_REPORTS_BYTES
            )
        )
        return await on_disk(lambda: [report for report in map(_read, found) if report is not None])

    def _meaning(self, image: str) -> tuple[str | None, str]:
        """The reference, and the image's ID, that a client's name means; it need not be here."""
        if not image:
            return None, ""
        here = self._store.get(image)
        try:
            name = str(Reference.parse(image).canonical())
        except InvalidRequestError:
            if here is None:
                return "", image if ":" in image else f"sha256:{image}"
            return "", here.id
        return name, here.id if here and name not in here.record.names else ""

    async def _try_to_write(self) -> None:
        """Write what was heard; on a full disk it waits for the next time. Whoever is cancelled
        waits for the end of it: what was written must not be written again."""
        await to_the_end(self._write_heard())

    async def _write_heard(self) -> None:
        async with self._writing:
            reports, self._unwritten = self._unwritten, deque(maxlen=PULL_REPORTS)
            if not reports:
                return
            try:
                await self._database.write(partial(_write, reports))
            except ImagedError as error:
                log.warning("the history of pulls could not be written", error=str(error))
                self._unwritten = deque((*reports, *self._unwritten), maxlen=PULL_REPORTS)
            except Exception:  # whatever it is, later pulls are written down nevertheless
                log.exception("the history of some pulls is lost")


def _read(kept: bytes) -> PullReport | None:
    """None where another version of the program kept it in a form that is not known here."""
    try:
        report: PullReport = _decoder.decode(kept)
    except msgspec.MsgspecError:
        return None
    return report


def _write(reports: Iterable[PullReport], db: sqlite3.Connection) -> None:
    for report in reports:
        well = report.outcome == "success"
        ended = report.began + report.seconds
        history.count(
            db,
            PullCount(
                name=report.reference,
                handler=report.handler,
                image_id=report.image_id if well else "",
                pulls=1,
                fetched=int(report.received > 0),
                bytes=report.received,
                first=ended,
                last=ended,
            ),
        )
        history.add_report(db, report.reference, report.image_id, _encoded(report))
    history.forget(db, counts=PULL_COUNTS, reports=PULL_REPORTS)


def _encoded(report: PullReport) -> bytes:
    """As it is kept: with as many of its layers as there is room for."""
    most = REPORTED_LAYERS
    while len(encoded := _encoder.encode(_cut(report, most))) > REPORT_BYTES and most:
        most //= 2
    return encoded


def _cut(report: PullReport, most: int) -> PullReport:
    """What is kept of a report: of more than `most` layers those that took longest, in their
    order."""
    longest = set(
        sorted(range(len(report.layers)), key=lambda n: -_seconds(report.layers[n]))[:most]
    )
    layers = tuple(layer for n, layer in enumerate(report.layers) if n in longest)
    return replace(
        report,
        error=report.error[:ERROR_MESSAGE_BYTES],
        layers=layers,
        layers_left_out=len(report.layers) - len(layers),
    )


def _seconds(layer: LayerReport) -> float:
    return sum(stage.seconds for stage in layer.stages)
