"""`cri-imaged serve`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.config import Config, default_config_file, load_config
from cri_imaged.errors import ConfigError, ImagedError

_SWITCH_SECONDS = 0.001
"""In which a thread that reads a stranger's document gives way to the event loop."""


def serve(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Configuration. Default: /etc/cri-imaged/config.toml where it exists; not as "
            "root: ~/.config/cri-imaged/config.toml.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Directory of all persistent data.", show_default=False),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="SOCKET", help="Unix socket to serve on.", show_default=False),
    ] = None,
    metrics_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve metrics over HTTP.", show_default=False),
    ] = None,
    snapshotter: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="overlay, native, erofs or another's, by name.", show_default=False
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warn or error.", show_default=False),
    ] = None,
) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    Options go above the configuration file, and the file above the defaults. The log goes to
    standard error.

    \b
    Examples:
      cri-imaged serve
      cri-imaged serve --config /etc/cri-imaged/config.toml
      cri-imaged serve --root /tmp/images --address /tmp/cri.sock --snapshotter native
      cri-imaged serve --metrics-address 127.0.0.1:9091
    """
    given = {
        "root": root,
        "grpc.address": address,
        "metrics.address": metrics_address,
        "image.snapshotter": snapshotter,
        "debug.level": log_level,
    }
    _run(lambda: read_settings(config, given))


def _run(read: Callable[[], Config]) -> None:
    settings = read()
    # Read when gRPC is imported. Children only begin other programs, and need none of it.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # The daemon's imports are heavy; the client commands do without them.
    import structlog
    import uvloop

    from cri_imaged import libc
    from cri_imaged.daemon import serve as run
    from cri_imaged.obs.log import configure
    from cri_imaged.obs.log_writer import LogWriter

    libc.keep_heaps_small()
    sys.setswitchinterval(_SWITCH_SECONDS)
    os.umask(0o077)
    with LogWriter(sys.stderr.fileno()) as writer:
        configure(settings.debug.level, settings.debug.format, writer)
        try:
            uvloop.run(run(settings, writer, read))
        except ConfigError as error:
            raise Failure(ExitCode.USAGE, str(error)) from None
        except ImagedError as error:
            raise Failure(ExitCode.FAILED, str(error)) from None
        except KeyboardInterrupt:
            raise Failure(ExitCode.INTERRUPTED, "interrupted") from None
        except Exception as error:
            structlog.get_logger().exception("daemon failed")
            raise Failure(
                ExitCode.FAILED, f"the daemon failed: {error!r}", "see the log above"
            ) from None


def read_settings(file: Path | None, options: dict[str, str | None]) -> Config:
    """The configuration: `options` (by key) above `file`, or the default file, above the defaults.

    Raises:
        ConfigError: it cannot be used.
    """
    privileged = os.geteuid() == 0
    overrides: dict[str, Any] = {}
    for key, value in options.items():
        if value is not None:
            table, _, name = key.rpartition(".")
            (overrides.setdefault(table, {}) if table else overrides)[name] = value
    if file is None and os.path.exists(default := default_config_file(privileged)):
        file = default
    return load_config(file, privileged=privileged, overrides=overrides)
