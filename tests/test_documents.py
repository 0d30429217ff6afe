"""The documents name what is there: files, links, functions, make targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SOURCE = CHECKOUT / "server" / "cri_imaged"
DOCUMENTS = [
    *CHECKOUT.glob("*.md"),
    *(CHECKOUT / "docs").glob("*.md"),
]


def named_files(text: str) -> set[str]:
    """Paths of Python files and of the project's folders in code quotes."""
    return {
        name
        for name in re.findall(r"`([a-z_][A-Za-z0-9_./*-]*)`", text)
        if name.endswith(".py") or (name.endswith("/") and "<" not in name)
    }


def exists(name: str) -> bool:
    """From the checkout, from the package, or from the room that a sentence speaks of."""
    path = name.rstrip("/")
    return any(CHECKOUT.glob(path)) or any(SOURCE.rglob(path))


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if path.name != "CHANGELOG.md"],
    ids=lambda path: path.name,
)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/compatibility.md"])
def test_named_files_are_there(name: str) -> None:
    on_disk = {"root/", "content/ingest/", "trash/"}  # of the store, not of the checkout
    text = (CHECKOUT / name).read_text()
    assert [file for file in named_files(text) - on_disk if not exists(file)] == []


def test_the_table_of_places_names_what_is_in_them() -> None:
    text = (CHECKOUT / "ARCHITECTURE.md").read_text()
    table = text[text.index("## Where is") : text.index("## Vocabulary")]
    pairs = re.findall(r"`([a-z_/]+\.py)` \(`([A-Za-z_.]+)`", table)
    pairs += [(file, name) for name, file in re.findall(r"`(_[A-Z]+)` in `([a-z_/]+\.py)`", table)]
    assert len(pairs) >= 6
    for file, name in pairs:
        source = (SOURCE / file).read_text()
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", source), f"{file} has no {name}"


def test_the_small_architecture_is_read_in_minutes() -> None:
    words = len((CHECKOUT / "ARCHITECTURE.md").read_text().split())
    assert words < 2_600, "put details into the packages' docstrings"


def test_named_make_targets_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for line in re.findall(r"`make ([a-z-]+)`|^\$ make ([a-z-]+)", document.read_text(), re.M):
            assert "".join(line) in targets, f"{document.name}: make {''.join(line)}"


def test_the_hooks_before_a_commit_run_what_lint_runs() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    lint = makefile[makefile.index("\nlint:") :].split("\n\n")[0]
    hooks = re.findall(
        r"entry: \.venv/bin/(.*)", (CHECKOUT / ".pre-commit-config.yaml").read_text()
    )
    assert hooks == re.findall(r"\$\(BIN\)/(.*)", lint)
