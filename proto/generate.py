#!/usr/bin/env python3
"""Generate the gRPC stubs of `proto/` into `server/cri_imaged/rpc/`.

    python proto/generate.py [--out DIR]

Each `a/b.proto` becomes `b_pb2.py`, `b_pb2_grpc.py` and their `.pyi`, below the package that
`PACKAGES` names. The same tools (pinned in pyproject.toml) always give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
OUT = SOURCE.parent / "server" / "cri_imaged" / "rpc"

PACKAGES = {
    "runtime.v1": "cri_imaged.rpc.runtime.v1",
    "cri_imaged.node.v1": "cri_imaged.rpc.node.v1",
    "keyprovider": "cri_imaged.rpc.ocicrypt.keyprovider",
    "containerd.types": "cri_imaged.rpc.containerd.types",
    **{
        f"containerd.services.{service}.v1": f"cri_imaged.rpc.containerd.{service}"
        for service in ("content", "events", "images", "leases", "snapshots", "version")
    },
}
"""protobuf package (and folder under proto/) to Python package. protoc writes imports as if the
top of its output were on sys.path, where `runtime` would be anybody's name."""

SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def main() -> int:
    """Generate, and say what was written."""
    parser = argparse.ArgumentParser(description="Generate the gRPC stubs of proto/.")
    parser.add_argument("--out", type=Path, default=OUT, help=f"default: {OUT}")
    out: Path = parser.parse_args().out
    for path in generate(out):
        print(path)  # noqa: T201
    return 0


def generate(out: Path) -> list[Path]:
    """Write the stubs and the packages' `__init__.py` below `out`; return what was written."""
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(Path(scratch))
        return sorted(
            written
            for package, target in PACKAGES.items()
            for written in place(
                Path(scratch).joinpath(*package.split(".")),
                out.joinpath(*target.split(".")[2:]),
            )
        )


def run_protoc(scratch: Path) -> None:
    """Run protoc with the Python, gRPC and typing plugins on all of `proto/`."""
    import grpc_tools
    from grpc_tools import protoc

    # protoc finds the typing plugins on PATH; they are installed beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    sources = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={SOURCE}",
            f"--proto_path={Path(grpc_tools.__path__[0]) / '_proto'}",
            f"--python_out={scratch}",
            f"--grpc_python_out={scratch}",
            f"--mypy_out=quiet,readable_stubs:{scratch}",
            f"--mypy_grpc_out=quiet,readable_stubs,only_async,generate_concrete_servicer_stubs:{scratch}",
            *sources,
        ]
    )
    if status:
        raise SystemExit(status)


def place(generated: Path, target: Path) -> list[Path]:
    """Copy one package's stubs to `target`, with imports that work from there."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for folder in (target.parent, target):
        init = folder / "__init__.py"
        init.write_text(
            '"""Generated gRPC stubs; made by `python proto/generate.py`, never edited."""\n'
        )
        written.append(init)
    for path in sorted(generated.iterdir()):
        if path.name.endswith(SUFFIXES):
            (target / path.name).write_text(with_our_imports(path.read_text()))
            written.append(target / path.name)
    return written


def with_our_imports(text: str) -> str:
    """Replace protoc's absolute imports of the generated packages by ours."""
    for package, target in PACKAGES.items():
        text = text.replace(f"from {package} import", f"from {target} import")
    return text


if __name__ == "__main__":
    sys.exit(main())
