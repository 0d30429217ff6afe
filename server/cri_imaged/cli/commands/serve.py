"""`cri-imaged serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.config import Config, default_config_file, load_config
from cri_imaged.errors import ConfigError, ImagedError


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
        typer.Option(metavar="NAME", help="overlay or native.", show_default=False),
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
    settings = read_settings(
        config,
        {
            "root": root,
            "grpc.address": address,
            "metrics.address": metrics_address,
            "image.snapshotter": snapshotter,
        },
    )
    # The daemon's imports are heavy; the client commands do without them.
    import structlog
    import uvloop

    from cri_imaged.daemon import serve as run
    from cri_imaged.obs.log import configure

    configure(settings.debug.level, settings.debug.format)
    try:
        uvloop.run(run(settings))
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
        Failure: it cannot be used.
    """
    privileged = os.geteuid() == 0
    overrides: dict[str, Any] = {}
    for key, value in options.items():
        if value is not None:
            table, _, name = key.rpartition(".")
            (overrides.setdefault(table, {}) if table else overrides)[name] = value
    try:
        if file is None and os.path.exists(default := default_config_file(privileged)):
            file = default
        return load_config(file, privileged=privileged, overrides=overrides)
    except ConfigError as error:
        raise Failure(
            ExitCode.USAGE, str(error), "`cri-imaged config default` shows every key"
        ) from None
