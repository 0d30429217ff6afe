"""The files of `config.d` lie above the configuration beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_imaged.config.load import files, load_config
from cri_imaged.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "config.d").mkdir()
    file = tmp_path / "config.toml"
    file.write_text('[debug]\nlevel = "warn"\n[image]\nmax_concurrent_downloads = 7\n')
    return file


def test_drop_ins_lie_above_one_another_by_name(file: Path) -> None:
    (file.parent / "config.d" / "20-b.toml").write_text('[debug]\nlevel = "error"\n')
    (file.parent / "config.d" / "10-a.toml").write_text('[debug]\nlevel = "debug"\n')
    (file.parent / "config.d" / "30-c.toml.bak").write_text("[debug]\nlevel = 'info'\n")
    config = load_config(file, privileged=True)
    assert config.debug.level == "error"
    assert config.image.max_concurrent_downloads == 7
    assert [path.name for path in files(file)] == ["config.toml", "10-a.toml", "20-b.toml"]


def test_options_of_the_command_line_lie_above_all(file: Path) -> None:
    (file.parent / "config.d" / "a.toml").write_text('root = "/a"\n')
    config = load_config(file, privileged=True, overrides={"root": "/b"})
    assert str(config.root) == "/b"


def test_a_wrong_drop_in_is_named(file: Path) -> None:
    wrong = file.parent / "config.d" / "a.toml"
    wrong.write_text('[debug]\nlevel = "loud"\n')
    with pytest.raises(ConfigError, match=rf"^{wrong}: debug\.level"):
        load_config(file, privileged=True)
