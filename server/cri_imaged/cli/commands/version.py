"""`cri-imaged version`."""

from __future__ import annotations

from cri_imaged import __version__
from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.failure import Failure
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, note, show, show_data
from cri_imaged.rpc.runtime.v1 import api_pb2


def version(output: Format = Output.TEXT, address: Address = None) -> None:
    """Show the version of this program and of the daemon.

    They differ where the daemon was not restarted after an update.

    \b
    Examples:
      cri-imaged version
      cri-imaged version -o json | jq -r .daemon
    """
    daemon, missing = None, None
    try:
        daemon = call(address, _ask)
    except Failure as failure:
        missing = failure
    if output.structured:
        show_data({"client": __version__, "daemon": daemon}, output)
    else:
        show(f"client  {__version__}")
        if daemon:
            show(f"daemon  {daemon}")
    if missing:
        note(f"cri-imaged: {missing.message}")


async def _ask(daemon: Daemon) -> str:
    answer = await daemon.runtime.Version(api_pb2.VersionRequest(), timeout=ANSWER_SECONDS)
    return answer.runtime_version
