"""The gRPC server on its Unix socket."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cri_imaged.cri.archives_service import ArchivesService
from cri_imaged.cri.calls import Calls
from cri_imaged.cri.catalog_service import CatalogService
from cri_imaged.cri.history_service import HistoryService
from cri_imaged.cri.image_service import ImageService
from cri_imaged.cri.node_service import NodeService
from cri_imaged.cri.registries_service import RegistriesService
from cri_imaged.cri.runtime_service import RuntimeService, UnservedRuntime
from cri_imaged.cri.runtimes_service import RuntimesService
from cri_imaged.cri.upkeep_service import UpkeepService
from cri_imaged.rpc.node.v1 import (
    archives_pb2,
    catalog_pb2,
    history_pb2,
    node_pb2,
    registries_pb2,
    runtimes_pb2,
    upkeep_pb2,
)
from cri_imaged.rpc.runtime.v1 import api_pb2
from cri_imaged.unix_sockets import UnixSocket


@dataclass(frozen=True, slots=True)
class Services:
    """What is served."""

    images: ImageService
    runtime: RuntimeService
    node: NodeService
    runtimes: RuntimesService
    archives: ArchivesService
    history: HistoryService
    upkeep: UpkeepService
    catalog: CatalogService
    registries: RegistriesService

    def described(self) -> list[tuple[ServiceDescriptor, object]]:
        """Each service, and what its .proto says of it."""
        cri = api_pb2.DESCRIPTOR.services_by_name
        return [
            (cri["ImageService"], self.images),
            (cri["RuntimeService"], self.runtime),
            (node_pb2.DESCRIPTOR.services_by_name["Node"], self.node),
            (runtimes_pb2.DESCRIPTOR.services_by_name["Runtimes"], self.runtimes),
            (archives_pb2.DESCRIPTOR.services_by_name["Archives"], self.archives),
            (history_pb2.DESCRIPTOR.services_by_name["History"], self.history),
            (upkeep_pb2.DESCRIPTOR.services_by_name["Upkeep"], self.upkeep),
            (catalog_pb2.DESCRIPTOR.services_by_name["Catalog"], self.catalog),
            (registries_pb2.DESCRIPTOR.services_by_name["Registries"], self.registries),
        ]


class CriServer:
    """Serves our services, health and reflection on one socket."""

    def __init__(
        self,
        socket: UnixSocket,
        *,
        max_receive_bytes: int,
        max_send_bytes: int,
        calls: Calls,
        services: Services,
    ) -> None:
        self._socket = socket
        self._health = health.aio.HealthServicer()
        self._calls = calls
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_receive_bytes),
                ("grpc.max_send_message_length", max_send_bytes),
                ("grpc.so_reuseport", 0),
            ],
        )
        served = services.described()
        handlers = [calls.handlers(described, service) for described, service in served]
        self._server.add_generic_rpc_handlers((*handlers, UnservedRuntime()))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [described.full_name for described, _ in served]
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            ConfigError: another daemon serves there, or the socket cannot be made; says which.
        """
        address = f"unix:{self._socket.address}"
        self._socket.make(lambda: self._server.add_insecure_port(address))
        await self._server.start()
        await self._announce(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Take no more calls; those running have `grace` seconds, then they are cancelled. None
        runs on after this."""
        await self._announce(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(grace)
        await self._calls.idle()
        self._socket.address.unlink(missing_ok=True)

    async def _announce(self, status: int) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)
