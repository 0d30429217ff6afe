"""The services on their socket, in this process, asked by a real client."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client import generate_latest

from cri_imaged.config.options import Config, GrpcOptions, ImageOptions
from cri_imaged.config.values import ByteSize, Directory, SocketPath
from cri_imaged.cri.server import CriServer
from cri_imaged.daemon import _applier, use_cases
from cri_imaged.errors import ConfigError
from cri_imaged.registry.options import RegistryOptions
from cri_imaged.reloading import Reloader
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri
from cri_imaged.rpc.runtime.v1 import api_pb2_grpc
from cri_imaged.serving import UseCases, server_of
from cri_imaged.unix_sockets import claim
from cri_imaged.upkeep import Upkeep
from tests.images.gated import GatedRegistry
from tests.images.workbench import image_of, layer, serve
from tests.support.leaks import MARK, emitted
from tests.support.registry import BLOB, BasicAuth, encoded

Code = grpc.StatusCode


class Client:
    """One connection to a running server."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        address: Path,
        registry: GatedRegistry,
        server: CriServer,
        parts: UseCases,
    ) -> None:
        self.channel, self.address, self.registry = channel, address, registry
        self.server, self.parts = server, parts
        self.images = api_pb2_grpc.ImageServiceStub(channel)
        self.runtime = api_pb2_grpc.RuntimeServiceStub(channel)

    def spec(self, tag: str = "latest") -> cri.ImageSpec:
        return cri.ImageSpec(image=f"{self.registry.authority}/library/demo:{tag}")

    async def pull(self, tag: str = "latest", **auth: str) -> str:
        answer = await self.images.PullImage(
            cri.PullImageRequest(image=self.spec(tag), auth=cri.AuthConfig(**auth))
        )
        return str(answer.image_ref)


@asynccontextmanager
async def serving(
    root: Path, registry: GatedRegistry, **grpc_options: Any
) -> AsyncIterator[Client]:
    address = root / "s.sock"
    config = Config(
        root=Directory(root / "root"),
        grpc=GrpcOptions(
            address=SocketPath(address), uid=os.geteuid(), gid=os.getegid(), **grpc_options
        ),
        image=ImageOptions(
            snapshotter="native",
            disk_reserve=ByteSize(0),
            registry=RegistryOptions(config_path=""),
        ),
    )
    async with use_cases(config) as parts:
        upkeep = Upkeep(config.image, parts.base, parts.puller, parts.importer, parts.remover, {})
        reloader = Reloader(config, lambda: config, _applier(config.image.limits, parts, upkeep))
        server = server_of(config, parts, {}, upkeep, reloader.reload)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
                yield Client(channel, address, registry, server, parts)
        finally:
            await server.stop(1)
        emitted("metrics", generate_latest(parts.metrics.registry).decode())
    assert not address.exists()


@pytest.fixture
async def registry() -> AsyncIterator[GatedRegistry]:
    async with GatedRegistry() as opened:
        yield opened


@pytest.fixture
async def client(tmp_path: Path, registry: GatedRegistry) -> AsyncIterator[Client]:
    async with serving(tmp_path, registry) as opened:
        yield opened


async def test_what_clients_ask(client: Client, registry: GatedRegistry) -> None:
    image = image_of(layer(0), User="app:staff")
    serve(registry, image)
    fs = (await client.images.ImageFsInfo(cri.ImageFsInfoRequest())).image_filesystems
    assert (len(fs), fs[0].used_bytes.value) == (1, 0)
    assert await client.pull() == image.id
    for name in (client.spec().image, image.id, image.id[7:20]):
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=name), verbose=True)
        answer = await client.images.ImageStatus(request)
        assert (answer.image.id, answer.image.size) == (image.id, image.size)
        assert (answer.image.username, answer.image.HasField("uid")) == ("app", False)
        info = json.loads(answer.info["info"])
        assert info["chainID"] == image.chain_id
        assert info["imageSpec"] == json.loads(image.config)
        assert info["labels"] == {"io.cri-containerd.image": "managed"}
    for wanted, found in (("", 1), (client.spec().image, 1), (image.id[7:20], 1), ("other", 0)):
        filtered = cri.ImageFilter(image=cri.ImageSpec(image=wanted))
        listed = await client.images.ListImages(cri.ListImagesRequest(filter=filtered))
        assert len(listed.images) == found, wanted
    fs = (await client.images.ImageFsInfo(cri.ImageFsInfoRequest())).image_filesystems
    assert fs[0].used_bytes.value > image.size
    assert stat.S_ISDIR(os.stat(fs[0].fs_id.mountpoint).st_mode)
    for _ in range(2):
        await client.images.RemoveImage(cri.RemoveImageRequest(image=client.spec()))
        answer = await client.images.ImageStatus(cri.ImageStatusRequest(image=client.spec()))
        assert not answer.HasField("image")


@pytest.mark.parametrize(
    "auth",
    [
        {"username": "ann", "password": f"{MARK}:a"},
        {"auth": encoded(f"ann:{MARK}:a")},
        {"auth": encoded(f"ann:{MARK}:a\0\0")},
    ],
)
async def test_forms_of_credentials(
    client: Client, registry: GatedRegistry, auth: dict[str, str]
) -> None:
    image = image_of(layer(0))
    serve(registry, image)
    registry.auth = BasicAuth({"ann": f"{MARK}:a"})
    assert await client.pull(**auth) == image.id


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({}, Code.UNAUTHENTICATED),
        ({"username": "ann", "password": f"{MARK}-wrong"}, Code.UNAUTHENTICATED),
        ({"username": "ann", "password": MARK, "server_address": "other.example"},
         Code.UNAUTHENTICATED),
        ({"auth": f"%{MARK}%"}, Code.INVALID_ARGUMENT),
        ({"auth": encoded(f"{MARK} without a colon")}, Code.INVALID_ARGUMENT),
    ],
)  # fmt: skip
async def test_credentials_that_do_not_do(
    client: Client, registry: GatedRegistry, auth: dict[str, str], code: Code
) -> None:
    serve(registry, image_of(layer(0)))
    registry.auth = BasicAuth({"ann": MARK})
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.pull(**auth)
    assert error.value.code() is code


async def test_codes_of_failed_pulls(client: Client, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0)))
    gate = registry.hold(put.layers[0].digest, 10)
    for spec, code in (
        (cri.ImageSpec(image="UPPER"), Code.INVALID_ARGUMENT),
        (cri.ImageSpec(image="a" * 5000), Code.INVALID_ARGUMENT),
        (client.spec("unknown"), Code.NOT_FOUND),
        (cri.ImageSpec(image="127.0.0.1:1/a"), Code.UNKNOWN),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.images.PullImage(cri.PullImageRequest(image=spec))
        assert error.value.code() is code
        if code is Code.UNKNOWN:
            assert (error.value.details() or "").startswith("RegistryUnavailable: ")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.images.PullImage(cri.PullImageRequest(image=client.spec()), timeout=0.3)
    assert error.value.code() is Code.DEADLINE_EXCEEDED
    call = client.images.PullImage(cri.PullImageRequest(image=client.spec()))
    await registry.until(lambda: gate.waiting > 0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await registry.until(lambda: True)
    assert not (await client.images.ListImages(cri.ListImagesRequest())).images


async def test_streams_in_batches_without_duplicates(
    client: Client, registry: GatedRegistry
) -> None:
    assert [each async for each in client.images.StreamImages(cri.StreamImagesRequest())] == []
    same = layer(0)
    for number in range(105):
        serve(registry, image_of(same, N=number), f"{number}")
    await asyncio.gather(*(client.pull(f"{number}") for number in range(105)))
    batches = [each.images async for each in client.images.StreamImages(cri.StreamImagesRequest())]
    assert all(batches)
    assert len(batches) > 1
    ids = [image.id for batch in batches for image in batch]
    listed = (await client.images.ListImages(cri.ListImagesRequest())).images
    assert (len(ids), set(ids)) == (105, {image.id for image in listed})


async def test_of_a_filter_the_stream_shows_what_the_list_does(
    client: Client, registry: GatedRegistry
) -> None:
    for number in range(2):
        serve(registry, image_of(layer(0), N=number), f"{number}")
        await client.pull(f"{number}")
    for spec, count in ((client.spec("1"), 1), (client.spec("none"), 0)):
        chosen = cri.ImageFilter(image=spec)
        request = cri.StreamImagesRequest(filter=chosen)
        batches = [list(each.images) async for each in client.images.StreamImages(request)]
        listed = await client.images.ListImages(cri.ListImagesRequest(filter=chosen))
        assert batches == [list(listed.images)] * count
        assert len(listed.images) == count


async def test_a_list_that_is_too_large_names_the_stream(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    async with serving(tmp_path, registry, max_send_message_size=1000) as client:
        for number in range(8):
            serve(registry, image_of(layer(0), N=number), f"{number}")
            await client.pull(f"{number}")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.images.ListImages(cri.ListImagesRequest())
        assert error.value.code() is Code.RESOURCE_EXHAUSTED
        assert "StreamImages" in (error.value.details() or "")


async def test_the_runtime_service_says_what_it_is_not(client: Client) -> None:
    version = await client.runtime.Version(cri.VersionRequest())
    assert all((version.version, version.runtime_name, version.runtime_version))
    assert version.runtime_api_version == "v1"
    status = await client.runtime.Status(cri.StatusRequest(verbose=True))
    assert {c.type: c.status for c in status.status.conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
    }
    assert all(json.loads(value) for value in status.info.values())
    assert not (await client.runtime.ListContainers(cri.ListContainersRequest())).containers
    for method in ("RunPodSandbox", "CreateContainer", "Invented"):
        call = client.channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
        with pytest.raises(grpc.aio.AioRpcError, match=f"{method}: .* serves images") as error:
            await call(b"")
        assert error.value.code() is Code.UNIMPLEMENTED
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.channel.unary_unary("/runtime.v1.ImageService/Invented")(b"")
    assert error.value.code() is Code.UNIMPLEMENTED
    counted = generate_latest(client.parts.metrics.registry).decode()
    assert 'method="Version"' in counted
    assert "Invented" not in counted, "whoever may call could make series without end"


async def test_health_and_reflection(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    services = ("runtime.v1.ImageService", "runtime.v1.RuntimeService", "cri_imaged.node.v1.Node")
    for name in ("", *services):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def reflected() -> set[str]:
        with grpc.insecure_channel(f"unix:{client.address}") as channel:
            return set(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert await asyncio.to_thread(reflected) >= set(services)


async def test_the_socket_is_for_its_group(client: Client) -> None:
    status = os.stat(client.address)
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660


async def test_a_live_socket_is_refused(client: Client) -> None:
    with pytest.raises(ConfigError, match="another daemon serves on"):
        claim(client.address, "grpc.address")
    assert await client.runtime.Version(cri.VersionRequest())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = os.getcwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def test_a_stale_socket_makes_way(folder: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind("stale")
    claim(folder / "stale", "grpc.address")
    assert not (folder / "stale").exists()
    claim(folder / "new" / "folder" / "socket", "grpc.address")
    assert (folder / "new" / "folder").is_dir()


def test_where_no_socket_can_be_is_told_by_its_key(folder: Path) -> None:
    (folder / "file").touch()
    for path in (folder / "file" / "socket", folder / "file" / "folder" / "socket"):
        with pytest.raises(ConfigError, match=r"grpc\.address: cannot use .*socket"):
            claim(path, "grpc.address")


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_stays(folder: Path, kind: str) -> None:
    path = folder / kind
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/nowhere")
    with pytest.raises(ConfigError, match="is no socket"):
        claim(path, "grpc.address")
    assert path.is_symlink() or path.exists()


async def test_a_pull_under_way_shows_nothing(client: Client, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0, 50_000)))
    gate = registry.hold(put.layers[0].digest, 1000)
    pull = asyncio.create_task(client.pull())
    await registry.held(gate)
    assert not (await client.images.ListImages(cri.ListImagesRequest())).images
    gate.opened.set()
    await pull
    assert len(registry.gets(BLOB)) == 2
    assert len((await client.images.ListImages(cri.ListImagesRequest())).images) == 1


async def test_a_server_that_has_stopped_leaves_no_call_at_work(
    client: Client, registry: GatedRegistry
) -> None:
    """What they use is closed next."""
    put = serve(registry, image_of(layer(0, 50_000)))
    gate = registry.hold(put.layers[0].digest, 1000)
    pull = asyncio.create_task(client.pull())
    await registry.held(gate)
    await client.server.stop(0.1)
    assert client.parts.running.list() == []
    with pytest.raises(grpc.aio.AioRpcError):
        await pull
