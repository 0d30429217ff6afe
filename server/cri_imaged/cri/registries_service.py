"""Our own Registries service: what registries tell people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cri_imaged.cri import convert
from cri_imaged.cri.names import ClientNames
from cri_imaged.errors import InvalidRequestError, QueueFullError
from cri_imaged.limits import REGISTRY_QUESTIONS
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Registries
from cri_imaged.rpc.node.v1 import registries_pb2 as api
from cri_imaged.rpc.node.v1 import registries_pb2_grpc


class RegistriesService(registries_pb2_grpc.RegistriesServicer):
    """See registries.proto."""

    def __init__(self, registries: Registries, names: ClientNames) -> None:
        self._registries = registries
        self._names = names
        self._asking = 0

    async def ListTags(  # noqa: N802
        self, request: api.ListTagsRequest, context: Any
    ) -> api.ListTagsResponse:
        """See registries.proto."""
        reference = Reference.parse(self._names.read(request.repository))
        if reference.tag is not None or reference.digest is not None:
            raise InvalidRequestError(f"{request.repository} is one image: give [HOST/]NAME alone")
        with self._asks():
            tags = await self._registries.tags(reference, convert.credentials_of(request.auth))
        return api.ListTagsResponse(repository=reference.name, tags=tags)

    async def CheckLogin(  # noqa: N802
        self, request: api.CheckLoginRequest, context: Any
    ) -> api.CheckLoginResponse:
        """See registries.proto."""
        credentials = convert.credentials_of(request.auth)
        if credentials is None:
            raise InvalidRequestError("a login needs a user and a password, or a token")
        repository = f"{request.registry}/a/a"  # of so many components no name is completed
        if Reference.parse(self._names.read(repository)).registry != request.registry:
            raise InvalidRequestError(f"{request.registry!r} is no registry: give HOST[:PORT]")
        with self._asks():
            asked = await self._registries.enter(request.registry, credentials)
        return api.CheckLoginResponse(asked=asked)

    async def GetLoginFile(  # noqa: N802
        self, request: api.GetLoginFileRequest, context: Any
    ) -> api.GetLoginFileResponse:
        """See registries.proto."""
        return api.GetLoginFileResponse(path=self._registries.login_file)

    @contextmanager
    def _asks(self) -> Iterator[None]:
        if self._asking >= REGISTRY_QUESTIONS:
            raise QueueFullError(f"{self._asking} clients ask registries already; try again later")
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
