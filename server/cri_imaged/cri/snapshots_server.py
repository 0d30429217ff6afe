"""The second socket: what runtimes use, root's alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import grpc

from cri_imaged.cri.calls import Calls
from cri_imaged.cri.snapshots_service import SnapshotsService
from cri_imaged.ports import RuntimeSnapshots
from cri_imaged.rpc.containerd.snapshots import snapshots_pb2
from cri_imaged.unix_sockets import UnixSocket


class SnapshotsServer:
    """Serves containerd's snapshots API."""

    def __init__(
        self, address: Path, plugins: Mapping[str, RuntimeSnapshots], calls: Calls
    ) -> None:
        """`plugins`: see `SnapshotsService`."""
        # Who may ask for mounts may read every image.
        self._socket = UnixSocket(
            address, "runtime.snapshots_address", 0o600, os.geteuid(), os.getegid()
        )
        self._calls = calls
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        described = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]
        self._server.add_generic_rpc_handlers(
            (calls.handlers(described, SnapshotsService(plugins)),)
        )

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            ConfigError: another daemon serves there, or the socket cannot be made; says which.
        """
        address = f"unix:{self._socket.address}"
        self._socket.make(lambda: self._server.add_insecure_port(address))
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls; those running have `grace` seconds, then they are cancelled."""
        await self._server.stop(grace)
        await self._calls.idle()
        self._socket.address.unlink(missing_ok=True)
