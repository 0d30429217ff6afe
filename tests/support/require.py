"""Skips that fail where they must not happen."""

from __future__ import annotations

import os

import pytest


def require_real(condition: bool, reason: str) -> None:
    """Skip the running test with `reason` unless `condition`; fail where REQUIRE_REAL=1."""
    if condition:
        return
    if os.environ.get("REQUIRE_REAL") == "1":
        pytest.fail(f"REQUIRE_REAL=1, but {reason}")
    pytest.skip(reason)
