"""Short names of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.config import load_config
from cri_imaged.errors import ConfigError
from cri_imaged.oci.aliases import expanded

ALIASES = {"app": "registry.example:5000/team/app", "team/other": "quay.example/other"}
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("app", "registry.example:5000/team/app"),
        ("app:1", "registry.example:5000/team/app:1"),
        (f"app@{DIGEST}", f"registry.example:5000/team/app@{DIGEST}"),
        (f"app:1@{DIGEST}", f"registry.example:5000/team/app:1@{DIGEST}"),
        ("team/other:2", "quay.example/other:2"),
        ("apps", "apps"),
        ("other/app", "other/app"),
        ("docker.io/library/app", "docker.io/library/app"),
        ("localhost:5000/app", "localhost:5000/app"),
        ("", ""),
    ],
)
def test_what_a_name_means(name: str, meant: str) -> None:
    assert expanded(name, ALIASES) == meant


@given(st.text(max_size=30))
def test_only_the_alias_itself_changes(name: str) -> None:
    found = expanded(name, ALIASES)
    assert found == name or any(name.startswith(short) for short in ALIASES)
    assert expanded(found, ALIASES) == found


@pytest.mark.parametrize(
    ("short", "name", "problem"),
    [
        ("app", "app", "no repository with its registry"),
        ("app", "registry.example/app:1", "no repository with its registry"),
        ("app", f"registry.example/app@{DIGEST}", "no repository with its registry"),
        ("app", "registry.example/App", "no repository with its registry"),
        ("app:1", "registry.example/app", "no short name"),
        ("other.example/app", "registry.example/app", "no short name"),
        ("docker.io/app", "registry.example/app", "no short name"),
        ("", "registry.example/app", "no short name"),
    ],
)
def test_aliases_that_are_none(tmp_path: Path, short: str, name: str, problem: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[image.registry.aliases]\n"{short}" = "{name}"\n')
    with pytest.raises(ConfigError, match=rf'config\.toml: .*aliases\."{short}".* {problem}'):
        load_config(file, privileged=True)
