"""No secret is ever emitted: what the tests make the product say is searched for those they plant.

Every secret that a test plants holds `MARK`. At the end of each phase of each test everything that
was emitted during it is searched: what was logged, at debug level and before it is censored; what
was printed; every error of ours; what was added to the logs of processes; and what is handed to
`emitted`: metrics, and the output of programs. Whoever plants a secret writes it with `MARK`, not
with its value: a traceback in a log shows lines of the tests.
"""

from __future__ import annotations

import base64
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import pytest
import structlog

from cri_imaged.errors import ImagedError

MARK = "s3cr3t"


def _forms() -> Iterator[str]:
    """`MARK`, and what base64 makes of it at each of the three places in a group where it can
    begin, without the characters that depend on what stands before and after it."""
    yield MARK
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + MARK.encode()).decode()
        yield encoded[-(-before * 8 // 6) : (before + len(MARK)) * 8 // 6]


_FORMS = tuple(_forms())
_logs: dict[Path, int] = {}
"""Where in each process's log the part begins that was not searched yet."""
_found: list[str] = []
"""Leaks that no test was told of yet."""


def leaks(text: str) -> list[str]:
    """The surroundings of secrets in `text`, one for each form."""
    places = (text.find(form) for form in _FORMS)
    return [text[max(0, place - 60) : place + 40] for place in places if place >= 0]


def planted(secrets: Iterable[str]) -> None:
    """Refuse secrets that would not be found."""
    for secret in secrets:
        assert leaks(secret), f"a secret without the mark would not be searched for: {secret}"


def emitted(where: str, text: str) -> None:
    """Search what the product has emitted; the test that runs now fails of leaks in it."""
    _found.extend(f"a secret in {where}: {leak!r}" for leak in leaks(text))


def watch(log: Path) -> None:
    """Search what was added to a process's log, now and from now on."""
    searched = _logs.setdefault(log, 0)
    try:
        with log.open("rb") as file:
            file.seek(searched)
            added = file.read()
    except FileNotFoundError:
        del _logs[log]
        return
    _logs[log] += added.rfind(b"\n") + 1  # the last line may not be whole yet
    emitted(str(log), added.decode(errors="replace"))


def _raised(self: ImagedError, *arguments: object) -> None:
    Exception.__init__(self, *arguments)
    emitted("an error", f"{self!r} {vars(self)}")


def pytest_sessionstart() -> None:
    """Have structlog's events go the way of `logging`'s, where pytest captures them, and have
    every error seen, whoever catches it."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    ImagedError.__init__ = _raised  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the phase of a test that has just ended fail where anything leaked in it."""
    report = yield
    for title, text in report.sections:
        if title.endswith(str(report.when)):  # earlier phases' are there too
            emitted(title.lower(), text)
    for log in list(_logs):
        watch(log)
    if _found:
        report.outcome = "failed"
        report.longrepr = "\n".join(filter(None, [report.longreprtext, *_found]))
        _found.clear()
    return report
