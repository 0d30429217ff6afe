"""For all tests: no secret leaks, and what `make coverage` and `make fuzz` change about a run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.support.leaks import pytest_runtest_makereport, pytest_sessionstart
from tests.support.worker_coverage import pytest_configure

__all__ = ["pytest_configure", "pytest_runtest_makereport", "pytest_sessionstart"]

# How long an example takes is the machine's business.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

FUZZ_FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each property test its own number of examples, times FUZZ_FACTOR."""
    attribute = "_hypothesis_internal_use_settings"
    tests = {getattr(item, "obj", None) for item in items} if FUZZ_FACTOR > 1 else set()
    for test in tests:
        if chosen := getattr(test, attribute, None):
            more = settings(chosen, max_examples=chosen.max_examples * FUZZ_FACTOR)
            setattr(test, attribute, more)
