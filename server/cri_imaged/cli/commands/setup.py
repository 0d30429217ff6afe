"""`cri-imaged setup`: the other side's configuration in one step."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from cri_imaged import mounting
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.output import show
from cri_imaged.cli.setup import plans
from cri_imaged.cli.setup.plans import Edit, Plan
from cri_imaged.config import Config, default_config_file, load_config
from cri_imaged.errors import ConfigError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

BACKUP = ".before-cri-imaged"

DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Only print what would be changed.")
]
ConfigFile: TypeAlias = Annotated[
    Path | None, typer.Option("--config", "-c", help="cri-imaged's own configuration file.")
]
Root: TypeAlias = Annotated[
    Path, typer.Option("--root", help="Where the other programs' file system begins.")
]


@app.callback()
def setup() -> None:
    """Have a runtime of this node run the images that are pulled here.

    \b
    Examples:
      cri-imaged setup containerd --dry-run
      cri-imaged setup podman
    """


@app.command()
def containerd(dry_run: DryRun = False, config: ConfigFile = None, root: Root = Path("/")) -> None:
    """Set up containerd 2, for Kubernetes.

    A file that is changed is kept beside it, with `.before-cri-imaged` at its end.

    \b
    Examples:
      cri-imaged setup containerd --dry-run
    """
    _check_containerd()
    _do(plans.containerd, config, root, dry_run, overlay=False)


@app.command()
def podman(dry_run: DryRun = False, config: ConfigFile = None, root: Root = Path("/")) -> None:
    """Set up podman, buildah and skopeo.

    They read images from an additional image store; what they pull themselves stays theirs.

    \b
    Examples:
      cri-imaged setup podman --dry-run
    """
    _do(plans.podman, config, root, dry_run, overlay=True)


@app.command()
def crio(dry_run: DryRun = False, config: ConfigFile = None, root: Root = Path("/")) -> None:
    """Set up CRI-O, for Kubernetes.

    Image IDs are shown without their algorithm then, which containerd's users do not expect: one
    runtime for a node.

    \b
    Examples:
      cri-imaged setup crio --dry-run
    """
    _do(plans.crio, config, root, dry_run, overlay=True)


def _do(
    plan: Callable[[Config, Path, Path], Plan],
    config: Path | None,
    root: Path,
    dry_run: bool,
    *,
    overlay: bool,
) -> None:
    privileged = os.geteuid() == 0
    file = config or default_config_file(privileged)
    loaded = load_config(file if file.exists() else None, privileged=privileged)
    if overlay and os.path.isdir(loaded.root) and (why := mounting.overlay_obstacle(loaded.root)):
        raise Failure(ExitCode.FAILED, f"overlay does not work in {loaded.root}: {why}")
    made = plan(loaded, file, root)
    texts: dict[Path, str] = {}
    for edit in made.edits:
        old = texts.get(edit.path) or _read(edit.path)
        if not old and edit.until_then is not None:
            old = _read(edit.until_then)
        texts[edit.path] = _changed(edit, old)
    if made.directory is not None and not dry_run:
        _make(made.directory)
    changes = {path: text for path, text in texts.items() if text != _read(path)}
    for path, text in changes.items():
        if dry_run:
            _show_difference(path, text)
        else:
            try:
                _write(path, text)
            except OSError as error:
                raise _unusable(path, error) from None
            show(f"wrote {path}")
    if not changes:
        show("everything is set up already")
    for step in made.then:
        show(f"then: {step}")


def _changed(edit: Edit, old: str) -> str:
    try:
        return edit.change(old)
    except ConfigError as error:
        raise Failure(ExitCode.USAGE, f"{edit.path}: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError | UnicodeDecodeError) -> Failure:
    why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
    denied = isinstance(error, PermissionError)
    return Failure(
        ExitCode.DENIED if denied else ExitCode.FAILED,
        f"{path}: {why}",
        "it takes root" if denied else "mend that file first, or move it away",
    )


def _show_difference(path: Path, text: str) -> None:
    lines = difflib.unified_diff(
        _read(path).splitlines(), text.splitlines(), str(path), str(path), lineterm=""
    )
    for line in lines:
        show(line)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    backup = path.with_name(path.name + BACKUP)
    if path.exists() and not backup.exists():
        shutil.copy2(path, backup)
    target = path.resolve()  # a link stays one
    new = target.with_name(f".{target.name}.new")
    new.write_text(text)
    if target.exists():
        shutil.copymode(target, new)
    new.rename(target)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from None


def _check_containerd() -> None:
    found = shutil.which("containerd")
    if found is None:
        return
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r" v?(\d+)\.(\d+)\.", said)
    if version and int(version[1]) < 2:
        raise Failure(
            ExitCode.FAILED,
            f"containerd is {said.strip()}: its version must be 2.0 or newer",
            "update containerd first",
        )
