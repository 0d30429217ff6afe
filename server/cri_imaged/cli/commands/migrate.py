"""`cri-imaged config migrate`."""

from __future__ import annotations

import glob
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Format
from cri_imaged.cli.output import Output, counted, note, show, show_data
from cri_imaged.errors import ConfigError

if TYPE_CHECKING:
    from cri_imaged.config.migrate import Migration

CONFIG = "config.toml"
HOSTS = "certs.d"


def migrate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="containerd's config.toml, CRI-O's crio.conf, registries.conf, k3s' "
            "registries.yaml; -: standard input.",
        ),
    ],
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="DIR",
            help="Write config.toml and certs.d/HOST/hosts.toml to this folder.",
            show_default=False,
        ),
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Make a configuration from another program's.

    A later file goes over an earlier one, and what containerd's file imports over that. Without
    --into all is printed. What could not be carried
    over is listed on standard error, with the reason. A hosts.toml needs no migration: it is read
    as it is.

    \b
    Examples:
      containerd config dump | cri-imaged config migrate -
      cri-imaged config migrate --into /etc/cri-imaged /etc/containerd/config.toml
      cri-imaged config migrate /etc/crio/crio.conf /etc/containers/registries.conf
      cri-imaged config migrate /etc/rancher/k3s/registries.yaml
    """
    from cri_imaged.config.migrate import migrate as migrated  # for this command alone

    try:
        found = migrated({str(each): _text(each) for file in files for each in _imported(file)})
    except ConfigError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None
    documents = _documents(found, into or Path("/etc/cri-imaged"))
    if into:
        _write(into, documents)
    if output.structured:
        left = [{"file": each.file, "key": each.key, "why": each.why} for each in found.left]
        show_data({"files": documents, "left": left}, output)
    elif into:
        for name in documents:
            show(f"wrote {into / name}")
    else:
        for name, text in documents.items():
            sys.stdout.write(f"# {name}\n{text}\n")
    for each in found.left:
        note(f"not carried over: {each.file}: {each.key}: {each.why}")
    if found.left:
        note(f"{counted(len(found.left), 'key')} not carried over")


def _documents(found: Migration, folder: Path) -> dict[str, str]:
    """What is to be written, by path below `folder`."""
    import tomli_w

    if found.hosts:
        configured = found.settings.get("image", {}).get("registry", {}).get("config_path")
        paths = [str(folder.resolve() / HOSTS), *([configured] if configured else [])]
        found.set(("image", "registry", "config_path"), ":".join(paths))
    documents = {CONFIG: tomli_w.dumps(found.settings)}
    for name, hosts in sorted(found.hosts.items()):
        documents[f"{HOSTS}/{name}/hosts.toml"] = tomli_w.dumps(hosts.document())
    return documents


def _imported(file: Path) -> list[Path]:
    """A file, and those that it imports, as containerd's may; patterns are below its own folder."""
    try:
        imports = tomllib.loads(_text(file)).get("imports") if file.suffix == ".toml" else None
    except tomllib.TOMLDecodeError:
        return [file]  # which is told later
    listed = imports if isinstance(imports, list) else []
    patterns = [each for each in listed if isinstance(each, str)]
    found = (name for each in patterns for name in sorted(glob.glob(str(file.parent / each))))
    return [file, *(Path(name) for name in found if not Path(name).samefile(file))]


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as error:
        raise Failure(ExitCode.USAGE, f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Failure(ExitCode.USAGE, f"{file}: is not UTF-8") from None


def _write(folder: Path, documents: dict[str, str]) -> None:
    """Write what is not there yet. There may be passwords in it, so it is for this user alone."""
    for name in documents:
        if (folder / name).exists():
            raise Failure(
                ExitCode.FAILED,
                f"{folder / name} exists already",
                "name another folder with --into",
            )
    for name, text in documents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
