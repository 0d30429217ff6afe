"""What is asked of registries on behalf of people."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from cri_imaged.cri.names import ClientNames
from cri_imaged.cri.registries_service import RegistriesService
from cri_imaged.errors import InvalidRequestError
from cri_imaged.limits import Limits
from cri_imaged.ports import Registries
from cri_imaged.rpc.node.v1 import registries_pb2 as api
from cri_imaged.rpc.runtime.v1 import api_pb2


@pytest.mark.parametrize(
    "name", ["r.example/team", "fedora", "https://r.example", "", "r.example/"]
)
async def test_a_login_is_checked_at_a_registry_alone(name: str) -> None:
    registries = Mock(spec=Registries)
    service = RegistriesService(registries, ClientNames(Limits(), {}))
    request = api.CheckLoginRequest(
        registry=name, auth=api_pb2.AuthConfig(username="ann", password="x")
    )
    with pytest.raises(InvalidRequestError):
        await service.CheckLogin(request, None)
    assert not registries.method_calls, "nobody is shown it"
