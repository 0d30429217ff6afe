"""What deploy/ says, for tests that hold it to it."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy"
UNIT = DEPLOY / "systemd" / "cri-imaged.service"


def unit_capabilities() -> set[str]:
    """The capabilities that the systemd unit leaves to the daemon: CAP_SYS_ADMIN and so on."""
    lines = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    return {name for line in lines for name in line.split()}
