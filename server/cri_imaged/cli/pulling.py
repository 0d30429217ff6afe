"""Pulling for the command line: one image after the other, each with its progress."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import grpc

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon
from cri_imaged.cli.failure import Failure, of_status
from cri_imaged.cli.output import note
from cri_imaged.cli.progress import Display, display
from cri_imaged.rpc.node.v1 import catalog_pb2, node_pb2, registries_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2


@dataclass(frozen=True, slots=True)
class Wanted:
    """How images are to be pulled."""

    auth: api_pb2.AuthConfig | None
    handler: str
    platform: str
    """Empty: the handler's."""
    seconds: float | None
    """For each image."""
    quiet: bool
    """Without progress."""


class Pulling:
    """Pulls images by one daemon; what fails is kept for the end."""

    def __init__(self, daemon: Daemon, wanted: Wanted) -> None:
        self._daemon = daemon
        self._wanted = wanted
        self._failures: list[Failure] = []

    async def run(self, names: Sequence[str], *, all_tags: bool) -> AsyncIterator[tuple[str, str]]:
        """Pull images, or every tag of repositories; name and ID of each as it is here.

        Raises:
            Failure: the first one; the others are told, and what could be pulled was.
        """
        for name in names:
            for image in await self._tags(name) if all_tags else [name]:
                with self._kept():
                    image_id, warnings = await self._pull(image)
                    yield image, image_id
                    for warning in warnings:
                        note(f"warning: {image}: {warning}")
        for failure in self._failures[1:]:
            note(f"cri-imaged: {failure.message}")
        if self._failures:
            raise self._failures[0]

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            self._failures.append(of_status(error.code().name, error.details() or ""))

    async def _tags(self, name: str) -> list[str]:
        request = registries_pb2.ListTagsRequest(repository=name, auth=self._wanted.auth)
        with self._kept():
            answer = await self._daemon.registries.ListTags(request, timeout=self._wanted.seconds)
            return [f"{answer.repository}:{tag}" for tag in answer.tags]
        return []

    async def _pull(self, image: str) -> tuple[str, Sequence[str]]:
        if self._wanted.quiet:
            return await self._answer(image)
        with display() as shown:
            watching = asyncio.create_task(self._watch(image, shown))
            try:
                return await self._answer(image)
            finally:
                watching.cancel()
                # Progress is a courtesy: whether the image is there is for the pull to say.
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await watching

    async def _answer(self, image: str) -> tuple[str, Sequence[str]]:
        """The image's ID, and what its user may miss."""
        wanted = self._wanted
        spec = api_pb2.ImageSpec(image=image, runtime_handler=wanted.handler)
        request = api_pb2.PullImageRequest(image=spec, auth=wanted.auth)
        if not wanted.platform:
            answer = await self._daemon.images.PullImage(request, timeout=wanted.seconds)
            return answer.image_ref, await self._warnings(answer.image_ref)
        chosen = catalog_pb2.PullForPlatformRequest(pull=request, platform=wanted.platform)
        pulled = await self._daemon.catalog.PullForPlatform(chosen, timeout=wanted.seconds)
        return pulled.image_id, pulled.warnings

    async def _watch(self, image: str, shown: Display) -> None:
        request = node_pb2.WatchPullsRequest(reference=image)
        async for answer in self._daemon.node.WatchPulls(request):
            # The same image may be pulled for others too; ours is the newest.
            shown.show(answer.pulls[-1:])

    async def _warnings(self, image_id: str) -> list[str]:
        """What it lacks as an image for this node. The pull stands, whether or not this can be
        told."""
        spec = api_pb2.ImageSpec(image=image_id, runtime_handler=self._wanted.handler)
        request = api_pb2.ImageStatusRequest(image=spec, verbose=True)
        with contextlib.suppress(grpc.aio.AioRpcError, ValueError):
            answer = await self._daemon.images.ImageStatus(request, timeout=ANSWER_SECONDS)
            return [str(each) for each in json.loads(answer.info["info"]).get("warnings", ())]
        return []
