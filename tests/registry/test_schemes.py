"""A way to authenticate is an entry in a table: added from outside, it authorises each request."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from cri_imaged.errors import RegistryError
from cri_imaged.ports import Credentials
from cri_imaged.registry.auth.challenge import Challenge
from cri_imaged.registry.auth.schemes import Asked, Authorization
from cri_imaged.registry.http.request import Request
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve
from tests.support.leaks import MARK
from tests.support.registry import BLOB, BasicAuth, Fault, FaultRegistry, Seen, status

KEY = f"{MARK}-key"
ANN = Credentials(username="ann", password=KEY)


def signature(key: str, nonce: str, method: str, path: str) -> str:
    return hmac.new(key.encode(), f"{nonce} {method} {path}".encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Signing:
    """Signs method and path of each request with the password and the challenge's nonce."""

    key: str
    nonce: str
    expires: float

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.key,)

    def headers(self, request: Request) -> Mapping[str, str]:
        signed = signature(self.key, self.nonce, request.method, request.url.path)
        return {"Authorization": f"Toy {signed}", "X-Toy-Nonce": self.nonce}


class Toy:
    async def meet(self, challenge: Challenge, asked: Asked) -> Authorization | None:
        if not asked.login.username:
            return None
        return Signing(asked.login.password, challenge.parameters["nonce"], time.monotonic() + 60)


def toy_challenge(nonce: str, **rest: object) -> Fault:
    headers = {"WWW-Authenticate": f'Basic realm="x", Toy nonce="{nonce}"'}
    return status(401, headers=headers, **rest)


def signed(seen: Seen) -> bool:
    wanted = signature(KEY, seen.headers.get("x-toy-nonce", ""), seen.method, seen.path)
    return seen.headers.get("authorization") == f"Toy {wanted}"


async def test_a_scheme_that_signs_each_request_is_added_from_outside() -> None:
    async with FaultRegistry() as registry, client(schemes={"toy": Toy()}) as opened:
        data = noise(100)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        registry.faults.append(toy_challenge("one", stranger=True))
        found = await resolve(opened, registry, ANN)
        assert await read(found.fetcher, layer) == data
        first, *rest = registry.seen
        assert "authorization" not in first.headers
        assert len(rest) == 2
        assert all(signed(seen) for seen in rest)
        assert len({seen.headers["authorization"] for seen in rest}) == 2


async def test_a_new_challenge_is_met_anew() -> None:
    async with FaultRegistry() as registry, client(schemes={"toy": Toy()}) as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(10)]).layers[0]
        registry.faults.append(toy_challenge("one", stranger=True))
        found = await resolve(opened, registry, ANN)
        registry.faults.append(toy_challenge("two", where=BLOB, times=1))
        await read(found.fetcher, layer)
        assert registry.seen[-1].headers["x-toy-nonce"] == "two"
        assert signed(registry.seen[-1])


async def test_a_scheme_that_cannot_use_the_login_leaves_it_to_the_next() -> None:
    async with (
        FaultRegistry(auth=BasicAuth({})) as registry,
        client(schemes={"toy": Toy()}) as opened,
    ):
        registry.faults.append(toy_challenge("one"))
        with pytest.raises(RegistryError, match="asks for basic, toy authentication"):
            await resolve(opened, registry)
