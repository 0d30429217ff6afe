"""The small part of CRI's RuntimeService that clients ask of an image endpoint."""

from __future__ import annotations

import json
from typing import Any

import grpc

from cri_imaged.rpc.runtime.v1 import api_pb2 as cri
from cri_imaged.rpc.runtime.v1 import api_pb2_grpc

NAME = "cri-imaged"


class RuntimeService(api_pb2_grpc.RuntimeServiceServicer):
    """Answers Version, Status and ListContainers."""

    def __init__(self, version: str, info: dict[str, str]) -> None:
        """`info` is shown to those who ask for a verbose status."""
        self._version = version
        self._info = info

    async def Version(self, request: cri.VersionRequest, context: Any) -> cri.VersionResponse:  # noqa: N802
        """Who serves here."""
        return cri.VersionResponse(
            version="0.1.0",
            runtime_name=NAME,
            runtime_version=self._version,
            runtime_api_version="v1",
        )

    async def Status(self, request: cri.StatusRequest, context: Any) -> cri.StatusResponse:  # noqa: N802
        """Ready: whoever can ask is answered."""
        conditions = [
            cri.RuntimeCondition(type="RuntimeReady", status=True),
            cri.RuntimeCondition(type="NetworkReady", status=True),
        ]
        info = {"config": json.dumps(self._info)} if request.verbose else {}
        return cri.StatusResponse(status=cri.RuntimeStatus(conditions=conditions), info=info)

    async def ListContainers(  # noqa: N802
        self, request: cri.ListContainersRequest, context: Any
    ) -> cri.ListContainersResponse:
        """None: containers run elsewhere."""
        return cri.ListContainersResponse()


class UnservedRuntime(grpc.GenericRpcHandler):
    """Says of every other RuntimeService method why it is not here."""

    def service(self, handler_call_details: Any) -> Any:
        """See `grpc.GenericRpcHandler`."""
        method = handler_call_details.method
        if not method.startswith("/runtime.v1.RuntimeService/"):
            return None

        async def refuse(request: bytes, context: Any) -> None:
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                f"{method.rpartition('/')[2]}: this endpoint is cri-imaged, which serves images; "
                "point the runtime endpoint at the container runtime",
            )

        return grpc.unary_unary_rpc_method_handler(refuse)
