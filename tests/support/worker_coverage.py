"""Counts what layer workers run towards coverage, although they are chrooted and never exit.

The zygote is started with an empty environment, and a worker can neither open a file nor import a
module when it ends. So, while pytest measures coverage, a .pth file in the virtual environment has
`measure` called in every zygote: it opens a file for each worker before the fork, and the worker
writes its data there as it ends. The zygote makes data files of coverage of them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sysconfig
from pathlib import Path
from types import MethodType

import coverage
import pytest

CHECKOUT = Path(__file__).parents[2]
PTH = Path(sysconfig.get_path("purelib")) / "cri_imaged_worker_coverage.pth"
LINE = (
    "import sys; 'cri_imaged.layers.worker.zygote' in sys.orig_argv and "
    f"(sys.path.append({str(CHECKOUT)!r}), "
    "__import__('tests.support.worker_coverage').support.worker_coverage.measure())\n"
)


def pytest_configure(config: pytest.Config) -> None:
    """Arrange it where this is the process that measures coverage for all."""
    if config.pluginmanager.hasplugin("_cov") and not hasattr(config, "workerinput"):
        PTH.write_text(LINE)
        config.add_cleanup(lambda: PTH.unlink(missing_ok=True))


def measure() -> None:
    """Measure this zygote and its workers. Without permission to write here, do nothing."""
    if not os.access(CHECKOUT, os.W_OK) or isinstance(os.fork, MethodType):
        return  # not permitted, or done already: a .pth file may be read twice
    measured = coverage.Coverage(
        data_file=None,
        source=[str(CHECKOUT / "server")],
        omit=["*/cri_imaged/rpc/*"],
        config_file=False,
    )
    measured.set_option("run:disable_warnings", ["no-data-collected"])
    measured.start()
    measured.get_data().dumps()  # whatever is imported lazily is imported now
    workers = _Workers(measured)
    os.fork, os.closerange, os._exit = workers.fork, workers.closerange, workers.exit
    atexit.register(workers.save)


class _Workers:
    """Stands in for the functions by which workers begin, close their descriptors, and end."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured
        self._fork, self._closerange, self._exit = os.fork, os.closerange, os._exit
        self._prefix = CHECKOUT / f".coverage.zygote.{os.urandom(8).hex()}"
        self._reports: list[Path] = []
        self._fd = -1

    def fork(self) -> int:
        # Not a name that `coverage combine` takes for data: the worker may still write it.
        report = self._prefix.with_name(f".coverage-{self._prefix.suffix[1:]}.{len(self._reports)}")
        self._reports.append(report)
        self._fd = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if pid := self._fork():
            os.close(self._fd)
        return pid

    def closerange(self, low: int, high: int) -> None:
        self._closerange(low, min(high, self._fd))
        self._closerange(max(low, self._fd + 1), high)

    def exit(self, status: int) -> None:
        with contextlib.suppress(Exception):
            self._measured.stop()
            with open(self._fd, "wb") as report:
                report.write(self._measured.get_data().dumps())
        self._exit(status)

    def save(self) -> None:
        """Make data files that `coverage combine` finds, of this process and its workers."""
        self._measured.stop()
        dumps = [self._measured.get_data().dumps()]
        for report in self._reports:
            dumps.append(report.read_bytes())  # empty where the worker was killed
            report.unlink()
        for number, dump in enumerate(filter(None, dumps)):
            data = coverage.CoverageData(basename=f"{self._prefix}.{number}")
            data.loads(dump)
            data.write()
