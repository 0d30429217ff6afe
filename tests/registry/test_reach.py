"""Where registries may lead us: tried in a network that has public addresses too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.support.require import require_real

PUBLIC, PRIVATE, LINK, LOOPBACK = "93.184.216.34", "10.1.2.3", "169.254.169.254", "127.0.0.1"
OTHER_PUBLIC = "93.184.216.35"


ALLOWED = [
    (PUBLIC, OTHER_PUBLIC, "redirect"),
    (PUBLIC, PRIVATE, "redirect"),
    (PUBLIC, OTHER_PUBLIC, "realm"),
    (PUBLIC, OTHER_PUBLIC, "foreign"),
    (PRIVATE, LOOPBACK, "redirect"),
    (PRIVATE, LOOPBACK, "realm"),
    (LOOPBACK, PRIVATE, "realm"),
    (LOOPBACK, PRIVATE, "foreign"),
]
REFUSED = [
    (PUBLIC, LOOPBACK, "redirect", "loopback or link-local"),
    (PUBLIC, "0x7f.1", "redirect", "loopback or link-local"),
    (PUBLIC, "0", "redirect", "loopback or link-local"),
    (PUBLIC, "localhost", "redirect", "loopback or link-local"),
    (PUBLIC, "[::ffff:127.0.0.1]", "redirect", "loopback or link-local"),
    (PUBLIC, LINK, "redirect", "loopback or link-local"),
    (PUBLIC, PRIVATE, "realm", "private"),
    (PUBLIC, "167838211", "realm", "private"),
    (PUBLIC, LINK, "realm", "private"),
    (PUBLIC, PRIVATE, "foreign", "private"),
    (PUBLIC, "127.1", "foreign", "private"),
]


@pytest.fixture(scope="module")
def led() -> dict[tuple[str, ...], tuple[bool, str]]:
    """Each case: whether the target was asked, and what was said."""
    require_real(bool(shutil.which("unshare") and shutil.which("ip")), "needs unshare and ip")
    cases = [*ALLOWED, *(case[:3] for case in REFUSED)]
    program = ["unshare", "--net", "--map-root-user", sys.executable, "-m"]
    run = subprocess.run(
        [*program, "tests.registry.reaching", json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
    )
    require_real("unshare failed" not in run.stderr, "may make no network namespace")
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout.splitlines()[-1])
    return dict(zip(cases, map(tuple, results), strict=True))


@pytest.mark.parametrize("case", ALLOWED)
def test_where_a_registry_may_lead(
    case: tuple[str, str, str], led: dict[tuple[str, ...], tuple[bool, str]]
) -> None:
    assert led[case] == (True, "fetched")


@pytest.mark.parametrize("case", REFUSED)
def test_where_a_public_registry_must_not_lead(
    case: tuple[str, str, str, str], led: dict[tuple[str, ...], tuple[bool, str]]
) -> None:
    reached, said = led[case[:3]]
    assert not reached
    assert f"leads to a {case[3]} address" in said
