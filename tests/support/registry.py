"""A registry on loopback that serves images from memory and fails as it is told.

It speaks the pulling half of the distribution spec, over http or TLS, with Basic or token
authentication, records every request, and applies scripted faults:

    async with FaultRegistry() as registry:
        image = registry.add_image("library/demo", "latest", layers=[gzipped_tar])
        registry.faults.append(cut(after=1000, where=BLOB, times=1))
        ... pull f"{registry.authority}/library/demo:latest" ...
        assert len(registry.gets(BLOB)) == 3
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import socket
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import parse_qs

from aiohttp import web

from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from tests.support.leaks import MARK, planted

MANIFEST, BLOB, TOKEN, REFERRERS, TAGS = "manifest", "blob", "token", "referrers", "tags"
_PIECE = 64 << 10
_PATH = re.compile(
    r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|referrers|tags)/(?P<reference>[^/]+)"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived."""

    kind: str
    """MANIFEST, BLOB, TOKEN, REFERRERS, TAGS, or "" for anything else."""
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Names in lower case."""
    status: int
    form: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    """The client's: another one for each connection."""
    certified: bool = False
    """Whether the client showed a certificate."""

    @property
    def offset(self) -> int:
        """Where its range begins."""
        found = re.match(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


@dataclass(slots=True)
class Fault:
    """Goes wrong for the requests that it matches. `None` and `False` leave things as they are."""

    where: str | None = None
    """MANIFEST, BLOB or TOKEN; None: all."""
    times: int | None = None
    """How many requests it hits; None: all."""
    skip: int = 0
    """How many matching requests pass first."""
    reference: str | None = None
    """Only this tag or digest."""
    method: str | None = None
    """Only GET or HEAD."""
    ranged: bool = False
    """Only requests for a range."""
    stranger: bool = False
    """Only requests without `Authorization`."""
    token: str | None = None
    """Only requests that show this token."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """With `status`, or for a TOKEN."""
    cut_after: int | None = None
    """The connection ends in order after so many bytes of the body."""
    reset_after: int | None = None
    """The connection is reset after so many bytes of the body (-1: before the headers)."""
    stall_after: int | None = None
    """Nothing more comes after so many bytes of the body (-1: not even headers)."""
    trickle: float | None = None
    """Seconds between single bytes."""
    pace: float | None = None
    """Seconds between pieces of `piece` bytes."""
    piece: int = _PIECE
    transform: Callable[[bytes], bytes] | None = None
    """Replaces the content (its length with it)."""
    ignore_range: bool = False
    content_range: str | None = None
    """A `Content-Range` other than the right one."""
    no_length: bool = False
    """Chunked, without `Content-Length`."""
    drop_headers: Sequence[str] = ()


def status(code: int, *, headers: Mapping[str, str] | None = None, **rest: object) -> Fault:
    """Answers with `code` and an error body of the distribution spec."""
    body = json.dumps({"errors": [{"code": "SCRIPTED", "message": f"scripted {code}"}]}).encode()
    fault = Fault(status=code, headers=headers or {}, **rest)  # type: ignore[arg-type]
    fault.body = fault.body if fault.body is not None else body
    return fault


def redirect(location: str, *, code: int = 307, **rest: object) -> Fault:
    """Sends the client elsewhere."""
    return status(code, headers={"Location": location}, **rest)


def cut(after: int, **rest: object) -> Fault:
    """Ends the connection in mid-body."""
    return Fault(cut_after=after, **rest)  # type: ignore[arg-type]


def reset(after: int, **rest: object) -> Fault:
    """Resets the connection in mid-body; -1: before the headers."""
    return Fault(reset_after=after, **rest)  # type: ignore[arg-type]


def stall(after: int, **rest: object) -> Fault:
    """Falls silent in mid-body; -1: before the headers."""
    return Fault(stall_after=after, **rest)  # type: ignore[arg-type]


def corrupt(**rest: object) -> Fault:
    """Flips a bit in the middle."""

    def flip(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    return Fault(transform=flip, **rest)  # type: ignore[arg-type]


@dataclass(slots=True)
class BasicAuth:
    """Wants user and password with every request."""

    users: Mapping[str, str]

    def __post_init__(self) -> None:
        planted(self.users.values())


@dataclass(slots=True)
class BearerAuth:
    """Wants tokens of its own token server, at `/token` unless `realm` says otherwise."""

    users: Mapping[str, str] = field(default_factory=dict)
    identity_tokens: Sequence[str] = ()
    anonymous: bool = True
    """Whether those without credentials get a token."""
    realm: str | None = None
    service: str = "registry.test"
    scopes: Sequence[str] = ()
    """Asked for in the challenge instead of the repository's own."""
    answer_field: str = "token"
    expires_in: int | None = 300
    get: bool = True
    """False: the token server answers GET with 405."""
    issued: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
    """Token → (user, scopes)."""

    def __post_init__(self) -> None:
        planted([*self.users.values(), *self.identity_tokens])


@dataclass(frozen=True, slots=True)
class Image:
    """What `add_image` put there."""

    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    document: bytes


class FaultRegistry:
    """See the module. An async context manager; content may be added at any time."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        auth: BasicAuth | BearerAuth | None = None,
        address: str = "127.0.0.1",
        also: Sequence[str] = (),
        prefix: str = "",
    ) -> None:
        """`also`: more addresses that it listens at. `prefix` is a path that the whole API lies
        under."""
        self.auth = auth
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.referrers: dict[tuple[str, str], list[dict[str, object]]] | None = None
        """By repository and digest; None: it has no such endpoint."""
        self.tags_a_page = 1000
        self.referrers_a_page = 1000
        self.port = 0
        self.active = 0
        """Requests being answered now."""
        self.most_active = 0
        self._tls = tls
        self._address = address
        self._also = also
        self._prefix = prefix
        self._stalled = asyncio.Event()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> FaultRegistry:
        application = web.Application(client_max_size=1 << 20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        for address in (self._address, *self._also):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.bind((address, self.port))
            self.port = listener.getsockname()[1]
            await web.SockSite(self._runner, listener, ssl_context=self._tls).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stalled.set()
        await self._runner.cleanup()

    @property
    def authority(self) -> str:
        """Host and port."""
        name = f"[{self._address}]" if ":" in self._address else self._address
        return f"{name}:{self.port}"

    @property
    def url(self) -> str:
        """Scheme, host, port and prefix."""
        return f"{'https' if self._tls else 'http'}://{self.authority}{self._prefix}"

    def gets(self, kind: str | None = None) -> list[Seen]:
        """The GET requests (for one kind of thing), in order."""
        return [seen for seen in self.seen if seen.method == "GET" and kind in (None, seen.kind)]

    def heads(self) -> list[Seen]:
        """The HEAD requests, in order."""
        return [seen for seen in self.seen if seen.method == "HEAD"]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` (on `active`, `seen`, …) holds."""
        while not condition():
            await self._changed.wait()

    def notify(self) -> None:
        """Wake those who wait in `until`."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _count(self, change: int) -> None:
        self.active += change
        self.most_active = max(self.most_active, self.active)
        self.notify()

    # --- content ----------------------------------------------------------------------------

    def add_blob(self, data: bytes, media_type: str = media_types.OCI_LAYER_GZIP) -> Descriptor:
        """Serve `data` in every repository."""
        digest = Digest.of(data)
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data))

    def add_manifest(
        self, repository: str, tag: str | None, media_type: str, document: bytes
    ) -> Descriptor:
        """Serve a manifest or index under its digest, and under a tag."""
        digest = Digest.of(document)
        for reference in (digest, tag):
            if reference is not None:
                self.manifests[repository, reference] = media_type, document
        return Descriptor(media_type, digest, len(document))

    def add_image(
        self,
        repository: str,
        tag: str | None,
        layers: Sequence[bytes] = (),
        *,
        config: Mapping[str, object] | None = None,
        layer_type: str = media_types.OCI_LAYER_GZIP,
    ) -> Image:
        """Serve an image of these (compressed) layers. Give `config` (architecture, os, rootfs)
        where it matters."""
        blobs = tuple(self.add_blob(layer, layer_type) for layer in layers)
        described = config or {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
        }
        config_blob = self.add_blob(json.dumps(described).encode(), media_types.OCI_CONFIG)
        document = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": as_json(config_blob),
                "layers": [as_json(blob) for blob in blobs],
            }
        ).encode()
        manifest = self.add_manifest(repository, tag, media_types.OCI_MANIFEST, document)
        return Image(manifest, config_blob, blobs, document)

    def add_index(
        self, repository: str, tag: str | None, entries: Sequence[tuple[Descriptor, str]]
    ) -> Descriptor:
        """Serve an index of (manifest, "os/architecture[/variant]")."""
        manifests = []
        for descriptor, platform in entries:
            names = ("os", "architecture", "variant")
            manifests.append(
                {
                    **as_json(descriptor),
                    "platform": dict(zip(names, platform.split("/"), strict=False)),
                }
            )
        document = json.dumps(
            {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": manifests}
        ).encode()
        return self.add_manifest(repository, tag, media_types.OCI_INDEX, document)

    def share(self, other: FaultRegistry) -> None:
        """Serve the same content as `other`, now and later (a mirror)."""
        self.blobs = other.blobs
        self.manifests = other.manifests

    # --- answering --------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._count(1)
        try:
            kind, name, reference = self._classify(request)
            form = {name: values[0] for name, values in parse_qs(await request.text()).items()}
            fault = self._fault(kind, reference, request)
            record = _Recorder(self, request, kind, form)
            if fault is not None and -1 in (fault.reset_after, fault.stall_after):
                record(0)
                return await self._silent(request, fault)
            if fault is not None and fault.status is not None:
                record(fault.status)
                return web.Response(
                    status=fault.status, headers=fault.headers, body=fault.body or b""
                )
            if kind == TOKEN:
                answer = self._token(request, form)
                if fault is None or answer.status != 200 or request.method == "HEAD":
                    return record.response(answer)
                body = fault.body if fault.body is not None else answer.body
                assert isinstance(body, bytes)
                return await self._serve(request, ("application/json", body), fault, record)
            if isinstance(self.auth, (BasicAuth, BearerAuth)):
                denied = self._authenticate(request, name)
                if denied is not None:
                    return record.response(denied)
            if kind == TAGS:
                return record.response(self._tags(request, name))
            if not kind and request.path == f"{self._prefix}/v2/":
                return record.response(web.json_response({}))
            if kind == REFERRERS and self.referrers is not None:
                return record.response(self._referrers(request, name, reference))
            content = self._content(kind, name, reference)
            if content is None:
                return record.response(
                    _error(404, "MANIFEST_UNKNOWN" if kind == MANIFEST else "BLOB_UNKNOWN")
                )
            return await self._serve(request, content, fault or Fault(), record)
        finally:
            self._count(-1)

    def _classify(self, request: web.Request) -> tuple[str, str, str]:
        path = request.path.removeprefix(self._prefix)
        if path == "/token":
            return TOKEN, "", ""
        found = _PATH.fullmatch(path)
        if found is None:
            return "", "", ""
        kinds = {"manifests": MANIFEST, "blobs": BLOB, "referrers": REFERRERS, "tags": TAGS}
        return kinds[found["kind"]], found["name"], found["reference"]

    def _fault(self, kind: str, reference: str, request: web.Request) -> Fault | None:
        for fault in self.faults:
            if fault.where not in (None, kind) or fault.reference not in (None, reference):
                continue
            if fault.method not in (None, request.method):
                continue
            if fault.ranged and "Range" not in request.headers:
                continue
            shown = request.headers.get("Authorization")
            if (fault.stranger and shown is not None) or (
                fault.token is not None and shown != f"Bearer {fault.token}"
            ):
                continue
            if fault.skip > 0:
                fault.skip -= 1
            elif fault.times is None:
                return fault
            elif fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _content(self, kind: str, name: str, reference: str) -> tuple[str, bytes] | None:
        if kind == MANIFEST:
            return self.manifests.get((name, reference))
        if kind == BLOB and reference in self.blobs:
            return "application/octet-stream", self.blobs[reference]
        return None

    def _referrers(self, request: web.Request, name: str, subject: str) -> web.Response:
        """A page of what refers to a manifest, with a link to the next."""
        assert self.referrers is not None
        entries = self.referrers.get((name, subject), [])
        begin = int(request.query.get("from", 0))
        end = begin + self.referrers_a_page
        index = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": entries[begin:end],
        }
        headers = {"Content-Type": media_types.OCI_INDEX}
        if end < len(entries):
            headers["Link"] = f'<{request.path}?from={end}>; rel="next"'
        return web.Response(body=json.dumps(index).encode(), headers=headers)

    def _tags(self, request: web.Request, name: str) -> web.Response:
        """A page of the tags, in the order of their letters, with a link to the next."""
        tags = sorted(ref for found, ref in self.manifests if found == name and ":" not in ref)
        after = request.query.get("last", "")
        left = [tag for tag in tags if tag > after]
        size = min(int(request.query.get("n", 100)), self.tags_a_page)
        page, headers = left[:size], {}
        if len(left) > size:
            headers["Link"] = f'</v2/{name}/tags/list?n={size}&last={page[-1]}>; rel="next"'
        return web.json_response({"name": name, "tags": page}, headers=headers)

    async def _silent(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.stall_after is not None:
            await self._stalled.wait()
        _reset(request)
        return web.Response(status=500)

    async def _serve(
        self,
        request: web.Request,
        content: tuple[str, bytes],
        fault: Fault,
        record: Callable[[int], None],
    ) -> web.StreamResponse:
        media_type, data = content
        if fault.transform is not None:
            data = fault.transform(data)
        headers = {
            "Content-Type": media_type,
            "Docker-Content-Digest": Digest.of(data),
            **fault.headers,
        }
        start, end, code = 0, len(data), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted is not None and not fault.ignore_range:
            start, code = int(wanted[1]), 206
            end = min(int(wanted[2]) + 1, len(data)) if wanted[2] else len(data)
            if start >= len(data):
                record(416)
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = fault.content_range or f"bytes {start}-{end - 1}/{len(data)}"
        for name in fault.drop_headers:
            headers.pop(name, None)
        record(code)
        response = web.StreamResponse(status=code, headers=headers)
        if fault.no_length:
            response.enable_chunked_encoding()
        else:
            response.content_length = end - start
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        await self._send(request, response, data[start:end], fault)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, data: bytes, fault: Fault
    ) -> None:
        stops = (fault.cut_after, fault.reset_after, fault.stall_after)
        stop = min((after for after in stops if after is not None), default=None)
        sent = data if stop is None else data[:stop]
        piece = 1 if fault.trickle is not None else fault.piece
        for at in range(0, len(sent), piece):
            await response.write(sent[at : at + piece])
            if fault.trickle is not None or fault.pace is not None:
                await asyncio.sleep(fault.trickle or fault.pace or 0)
        if stop is None:
            await response.write_eof()
        elif fault.stall_after is not None:
            await self._stalled.wait()
        elif fault.reset_after is not None:
            _reset(request)
        elif request.transport is not None:
            request.transport.close()

    # --- authentication ---------------------------------------------------------------------

    def _authenticate(self, request: web.Request, name: str) -> web.Response | None:
        """The refusal, or None."""
        given = request.headers.get("Authorization", "")
        if isinstance(self.auth, BasicAuth):
            if _basic_user(given, self.auth.users):
                return None
            return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": 'Basic realm="registry"'})
        assert isinstance(self.auth, BearerAuth)
        scopes = tuple(self.auth.scopes) or ((f"repository:{name}:pull",) if name else ())
        known = self.auth.issued.get(given.removeprefix("Bearer "))
        if known is not None and known[1].issuperset(scopes):
            return None
        challenge = (
            f'Bearer realm="{self.auth.realm or self.url + "/token"}",service="{self.auth.service}"'
        )
        if scopes:
            challenge += f',scope="{" ".join(scopes)}"'
        if given:
            challenge += ',error="invalid_token"'
        return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})

    def _token(self, request: web.Request, form: Mapping[str, str]) -> web.Response:
        auth = self.auth
        if not isinstance(auth, BearerAuth):
            return _error(404, "UNSUPPORTED")
        if request.method == "GET" and not auth.get:
            return _error(405, "UNSUPPORTED")
        user: str | None = None
        if request.method == "POST":
            scopes = form.get("scope", "").split()
            if form.get("grant_type") == "refresh_token":
                user = "identity" if form.get("refresh_token") in auth.identity_tokens else None
            elif auth.users.get(form.get("username", "")) == form.get("password"):
                user = form.get("username")
        else:
            scopes = request.query.getall("scope", [])
            given = request.headers.get("Authorization", "")
            user = _basic_user(given, auth.users)
            if not given and auth.anonymous:
                user = "anonymous"
        if user is None:
            return _error(401, "UNAUTHORIZED")
        token = f"{MARK}-{secrets.token_urlsafe(24)}"
        auth.issued[token] = user, frozenset(scopes)
        answer: dict[str, object] = {auth.answer_field: token}
        if auth.expires_in is not None:
            answer["expires_in"] = auth.expires_in
        return web.json_response(answer)


class _Recorder:
    """Writes down a request once its status is known."""

    def __init__(
        self, registry: FaultRegistry, request: web.Request, kind: str, form: Mapping[str, str]
    ) -> None:
        self._registry = registry
        self._request = request
        self._kind = kind
        self._form = form

    def __call__(self, code: int) -> None:
        request = self._request
        self._registry.seen.append(
            Seen(
                kind=self._kind,
                method=request.method,
                path=request.path,
                query=parse_qs(request.query_string, keep_blank_values=True),
                headers={name.lower(): value for name, value in request.headers.items()},
                status=code,
                form=self._form,
                port=request.transport.get_extra_info("peername")[1] if request.transport else 0,
                certified=bool(request.get_extra_info("peercert")),
            )
        )
        self._registry.notify()

    def response(self, response: web.Response) -> web.Response:
        self(response.status)
        return response


def as_json(descriptor: Descriptor) -> dict[str, object]:
    """A descriptor as manifests hold it."""
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


def _error(code: int, name: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(
        {"errors": [{"code": name, "message": name.lower().replace("_", " ")}]},
        status=code,
        headers=headers,
    )


def encoded(login: str) -> str:
    """`user:password` as Basic authentication and an AuthConfig's `auth` have it."""
    return base64.b64encode(login.encode()).decode()


def _basic_user(given: str, users: Mapping[str, str]) -> str | None:
    if not given.startswith("Basic "):
        return None
    user, _, password = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")
    return user if user in users and users[user] == password else None


def _reset(request: web.Request) -> None:
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
