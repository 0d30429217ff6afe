"""The neighbours' suite uses the real parts' scratch directories."""

from tests.real.conftest import scratch

__all__ = ["scratch"]
