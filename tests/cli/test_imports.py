"""What a client command imports: most of its time is that."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("work", "needless"),
    [
        ("main.app(['--help'], standalone_mode=False)", "grpc google.protobuf cri_imaged.config"),
        ("import cri_imaged.cli.commands.images", "msgspec cri_imaged.config cri_imaged.oci"),
        ("try: main.app(['images', '--address', '/none'])\nexcept main.Failure: pass", "pydantic"),
    ],
)
def test_what_a_command_does_not_need_is_not_imported(work: str, needless: str) -> None:
    program = f"""
import sys
from cri_imaged.cli import main
{work}
print(*sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    imported = set(run.stdout.splitlines()[-1].split())
    assert "cri_imaged.cli.main" in imported
    assert not imported.intersection(needless.split())
