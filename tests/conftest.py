"""For all tests: layer workers count towards coverage where it is measured."""

from tests.support.worker_coverage import pytest_configure, pytest_unconfigure

__all__ = ["pytest_configure", "pytest_unconfigure"]
