"""The gRPC server on its Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cri_imaged.cri.image_service import ImageService
from cri_imaged.cri.interceptor import CallInterceptor
from cri_imaged.cri.node_service import NodeService
from cri_imaged.cri.runtime_service import RuntimeService, UnservedRuntime
from cri_imaged.errors import ConfigError
from cri_imaged.rpc.node.v1 import node_pb2, node_pb2_grpc
from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc

_SERVICES = (
    api_pb2.DESCRIPTOR.services_by_name["ImageService"].full_name,
    api_pb2.DESCRIPTOR.services_by_name["RuntimeService"].full_name,
    node_pb2.DESCRIPTOR.services_by_name["Node"].full_name,
)
_MODE = 0o660


class CriServer:
    """Serves the three services, health and reflection on one socket."""

    def __init__(
        self,
        address: Path,
        *,
        uid: int,
        gid: int,
        max_receive_bytes: int,
        max_send_bytes: int,
        interceptor: CallInterceptor,
        images: ImageService,
        runtime: RuntimeService,
        node: NodeService,
    ) -> None:
        self._address = address
        self._owner = (uid, gid)
        self._health = health.aio.HealthServicer()
        self._interceptor = interceptor
        self._server = grpc.aio.server(
            interceptors=[interceptor],
            options=[
                ("grpc.max_receive_message_length", max_receive_bytes),
                ("grpc.max_send_message_length", max_send_bytes),
                ("grpc.so_reuseport", 0),
            ],
        )
        api_pb2_grpc.add_ImageServiceServicer_to_server(images, self._server)
        api_pb2_grpc.add_RuntimeServiceServicer_to_server(runtime, self._server)
        node_pb2_grpc.add_NodeServicer_to_server(node, self._server)
        self._server.add_generic_rpc_handlers((UnservedRuntime(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            ConfigError: another daemon serves there, or the socket cannot be made; says which.
        """
        claim(self._address)
        # The mode must be right from the socket's first moment on.
        before = os.umask(0o777 & ~_MODE)
        try:
            self._server.add_insecure_port(f"unix:{self._address}")
        except RuntimeError as error:
            raise ConfigError(f"grpc.address: cannot listen on {self._address}: {error}") from None
        finally:
            os.umask(before)
        if self._owner != (os.geteuid(), os.getegid()):
            try:
                os.chown(self._address, *self._owner)
            except PermissionError:
                raise ConfigError(
                    f"grpc.uid, grpc.gid: may not give {self._address} to "
                    f"{self._owner[0]}:{self._owner[1]} without privileges"
                ) from None
        os.chmod(self._address, _MODE)
        await self._server.start()
        await self._announce(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Take no more calls; those running have `grace` seconds, then they are cancelled. None
        runs on after this."""
        await self._announce(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(grace)
        await self._interceptor.idle()
        self._address.unlink(missing_ok=True)

    async def _announce(self, status: int) -> None:
        for name in ("", *_SERVICES):
            await self._health.set(name, status)


def claim(address: Path) -> None:
    """Make way for our socket: a stale one is removed, a live one or another file is refused.

    Raises:
        ConfigError
    """
    try:
        _make_way(address)
    except OSError as error:
        raise ConfigError(f"grpc.address: cannot use {address}: {error.strerror}") from None


def _make_way(address: Path) -> None:
    address.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = address.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"grpc.address: {address} exists and is no socket; choose another")
    with socket.socket(socket.AF_UNIX) as probe:
        answer = probe.connect_ex(str(address))
    if answer == 0:
        raise ConfigError(
            f"grpc.address: another daemon serves on {address}; stop it or choose another"
        )
    if answer != errno.ECONNREFUSED:
        raise ConfigError(f"grpc.address: cannot use {address}: {os.strerror(answer)}")
    address.unlink()
