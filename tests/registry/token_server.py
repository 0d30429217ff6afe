"""A token server whose tokens docker-registry believes, and a registry that wants them."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.docker_registry import DockerRegistry
from tests.support.leaks import MARK, planted

_SERVICE, _ISSUER = "registry.test", "issuer.test"


class TokenServer:
    """Gives JWTs, signed with a certificate in an `x5c` header, to the users it knows."""

    def __init__(self, users: Mapping[str, str], directory: Path) -> None:
        planted(users.values())
        self._users = users
        authority = trustme.CA()
        self._leaf = authority.issue_cert("tokens.test")
        self.bundle = directory / "tokens.pem"
        authority.cert_pem.write_to_path(str(self.bundle))
        application = web.Application()
        application.router.add_get("/token", self._token)
        self._server = TestServer(application, host="127.0.0.1")
        self.issued = 0

    async def __aenter__(self) -> TokenServer:
        await self._server.start_server()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("/token"))

    async def _token(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").removeprefix("Basic ")
        user, _, password = base64.b64decode(given).decode().partition(":")
        if self._users.get(user) != password:
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        access = []
        for scope in request.query.getall("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        self.issued += 1
        now = int(time.time())
        claims = {
            "iss": _ISSUER,
            "sub": user,
            "aud": request.query.get("service", ""),
            "exp": now + 300,
            "nbf": now - 60,
            "iat": now,
            "jti": f"{MARK}-{secrets.token_hex(8)}",
            "access": access,
        }
        return web.json_response({"token": self._sign(claims), "expires_in": 300})

    def _sign(self, claims: Mapping[str, object]) -> str:
        key = serialization.load_pem_private_key(self._leaf.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        certificate = x509.load_pem_x509_certificate(self._leaf.cert_chain_pems[0].bytes())
        encoded = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
        header = {"typ": "JWT", "alg": "ES256", "x5c": [encoded]}
        signed = ".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_url64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass
class TokenRegistry(DockerRegistry):
    """A docker-registry that wants the tokens of a token server."""

    tokens: TokenServer = field(kw_only=True)

    def _configuration(self) -> dict[str, object]:
        token = {
            "realm": self.tokens.url,
            "service": _SERVICE,
            "issuer": _ISSUER,
            "rootcertbundle": str(self.tokens.bundle),
        }
        configuration = super()._configuration()
        return {**configuration, "auth": {"token": token}}
