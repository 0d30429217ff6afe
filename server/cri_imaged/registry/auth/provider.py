"""One of the kubelet's credential providers: a program that is asked for an image's login, by the
protocol `credentialprovider.kubelet.k8s.io` (kubernetes.io, "Kubelet CredentialProvider (v1)").
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import msgspec

from cri_imaged import children
from cri_imaged.decoders import decoder
from cri_imaged.durations import parse_duration
from cri_imaged.limits import MIB, PROVIDER_ANSWERS, PROVIDER_PROCESSES
from cri_imaged.ports import Auth
from cri_imaged.registry.auth.login import ANONYMOUS, Login
from cri_imaged.registry.auth.provider_config import Provider, matches

_SECONDS = 60.0
"""For an answer, as the kubelet gives them."""
_ANSWER_BYTES = 1 * MIB
_EVERYTHING = ""


class ProviderError(Exception):
    """The program failed; says how, without what it printed."""


class _Auth(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return "_Auth(…)"


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """A CredentialProviderResponse."""

    kind: Literal["CredentialProviderResponse"]
    api_version: str
    cache_key_type: Literal["Image", "Registry", "Global"]
    cache_duration: str | None = None
    auth: dict[str, _Auth] | None = None

    def cache_seconds(self, default: float) -> float:
        """How long it counts; `default` where it does not say."""
        return default if self.cache_duration is None else parse_duration(self.cache_duration)

    def cache_key(self, image: str) -> str:
        """Under which it is kept: it counts for all images of that key."""
        keys = {"Image": image, "Registry": _registry(image), "Global": _EVERYTHING}
        return keys[self.cache_key_type]

    def login(self, image: str) -> Login:
        """The login for `image`: of the keys that match, the last in order of the alphabet, so
        that a longer path goes before a shorter one."""
        for key in sorted(self.auth or {}, reverse=True):
            if matches(_name(key), image):
                found = (self.auth or {})[key]
                return Login.of(Auth(username=found.username, password=found.password))
        return ANONYMOUS


def parse_answer(output: bytes, version: str) -> Answer:
    """What a program of the API `version` has printed (pure).

    Raises:
        ProviderError: it is no answer; quotes nothing of it.
    """
    try:
        answer = decoder(Answer).decode(output)
        answer.cache_seconds(0)
    except (ValueError, RecursionError):
        raise ProviderError("did not answer with a CredentialProviderResponse") from None
    if answer.api_version != version:
        raise ProviderError(f"answered in another API version than {version}")
    return answer


class CredentialProvider:
    """One program, and its answers for as long as they count."""

    def __init__(
        self, folder: Path, provider: Provider, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._program = folder / provider.name
        self._provider = provider
        self._clock = clock
        self._answers: OrderedDict[str, tuple[Answer, float]] = OrderedDict()
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._places = asyncio.Semaphore(PROVIDER_PROCESSES)

    async def login(self, image: str) -> Login:
        """The login for `image` (a name without tag and digest); anonymous where it has none, or is
        for other images.

        Raises:
            ProviderError: names the program.
        """
        if not self._provider.serves(image):
            return ANONYMOUS
        try:
            answer = self._kept(image) or await self._asked(image)
        except ProviderError as error:
            raise ProviderError(f"{self._program}: {error}") from None
        return answer.login(image)

    async def _asked(self, image: str) -> Answer:
        """What the program answers, or has just answered to somebody else."""
        lock = self._asking.get(image)
        if lock is None:
            lock = self._asking[image] = asyncio.Lock()
        async with lock, self._places:
            answer = self._kept(image)
            if answer is None:
                answer = await self._ask(image)
                self._keep(image, answer)
        return answer

    async def _ask(self, image: str) -> Answer:
        question = {
            "kind": "CredentialProviderRequest",
            "apiVersion": self._provider.api_version,
            "image": image,
        }
        try:
            ran = await children.ask(
                [str(self._program), *(self._provider.args or ())],
                msgspec.json.encode(question) + b"\n",  # as the kubelet ends it
                seconds=_SECONDS,
                kept=_ANSWER_BYTES,
                environ=self._environ(),
            )
        except TimeoutError:
            raise ProviderError(f"no answer within {_SECONDS:g} s") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ProviderError(f"cannot be run: {reason}") from None
        if ran.status:
            raise ProviderError(f"failed with status {ran.status}")
        return parse_answer(ran.out, self._provider.api_version)

    def _environ(self) -> Mapping[str, str]:
        return {**os.environ, **{each.name: each.value for each in self._provider.env or ()}}

    def _kept(self, image: str) -> Answer | None:
        for key in (image, _registry(image), _EVERYTHING):
            kept = self._answers.get(key)
            if kept is not None and self._clock() < kept[1]:
                return kept[0]
        return None

    def _keep(self, image: str, answer: Answer) -> None:
        key = answer.cache_key(image)
        self._answers.pop(key, None)
        if seconds := answer.cache_seconds(self._provider.cache_seconds):
            self._answers[key] = answer, self._clock() + seconds
        while len(self._answers) > PROVIDER_ANSWERS:
            self._answers.popitem(last=False)


def _registry(image: str) -> str:
    return image.partition("/")[0]


def _name(key: str) -> str:
    """A key of `auth` as images are called: without scheme and API version, Docker Hub by its
    one name."""
    name = key.partition("://")[2] or key
    for version in ("/v1/", "/v2/", "/v1", "/v2"):
        name = name.removesuffix(version)
    host, slash, path = name.partition("/")
    return ("docker.io" if host == "index.docker.io" else host) + slash + path
