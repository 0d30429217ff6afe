"""Unwraps the keys of encrypted layers by what the node has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog

from cri_imaged.decryption import jwe, providers
from cri_imaged.decryption.keys import Keys, read_keys
from cri_imaged.decryption.providers import Provider, ProviderError, read_providers
from cri_imaged.decryption.wrapping import JWE, PROVIDER, Wrapped, secret_of, wrapped_keys
from cri_imaged.disk import on_disk
from cri_imaged.errors import ImagedError, NotDecryptableError
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import LayerSecret, Secrets
from cri_imaged.threads import Threads

log = structlog.get_logger()

_SHOWN = 10
"""Recipients, and failures, that an error names."""
_threads = Threads(2, "unwrap")
"""Not those for the disk: a stranger chooses how often a private key is used."""
_PROVIDER_SECONDS = 60.0
"""For all that a provider is asked of one layer."""


class NodeDecrypter:
    """Implements `ports.Decrypter` by private keys and key providers of this node, which are read
    anew each time: one that was taken away decrypts nothing more."""

    def __init__(self, keys_path: Path, keyprovider_config: Path, limits: Limits) -> None:
        self._keys_path = keys_path
        self._keyprovider_config = keyprovider_config
        self._most = limits.wrapped_keys

    async def unwrap(self, layers: Sequence[Descriptor]) -> Secrets:
        """See `ports.Decrypter.unwrap`."""
        wanted = encrypted(layers)
        if not wanted:
            return {}
        keys = await on_disk(lambda: read_keys(self._keys_path))
        known = await on_disk(lambda: read_providers(self._keyprovider_config))
        for problem in keys.problems:
            log.warning("a key cannot be used", folder=str(self._keys_path), problem=problem)
        found = {}
        for digest, layer in wanted.items():
            try:
                found[digest] = await self._unwrap(layer, keys, known)
            except ImagedError as error:
                raise error.within(f"layer {digest}") from None
        return found

    async def _unwrap(
        self, layer: Descriptor, keys: Keys, known: Mapping[str, Provider]
    ) -> LayerSecret:
        offered = wrapped_keys(layer, self._most)
        failures: list[str] = []
        for wrapped in offered:
            if wrapped.scheme == JWE:
                unwrapped = await _threads.run(partial(self._open, wrapped.packets, keys))
            else:
                provider = known.get(wrapped.scheme.removeprefix(PROVIDER))
                unwrapped = await _ask(provider, wrapped, failures)
            if unwrapped is not None:
                return secret_of(unwrapped, layer)
        raise NotDecryptableError(await on_disk(lambda: self._told(offered, keys, failures)))

    def _open(self, packets: Sequence[bytes], keys: Keys) -> bytes | None:
        opened = (jwe.unwrap(packet, keys.usable, self._most) for packet in packets)
        return next((each for each in opened if each is not None), None)

    def _told(self, offered: Sequence[Wrapped], keys: Keys, failures: Sequence[str]) -> str:
        recipients = []
        for each in offered:
            said = [name for packet in each.packets for name in self._recipients(each, packet)]
            shown = ", ".join(said[:_SHOWN])
            recipients.append(f"{each.scheme} ({shown})" if said else each.scheme)
        tried = f"{len(keys.usable)} keys in {self._keys_path}"
        problems = "; ".join((*keys.problems[:_SHOWN], *failures[:_SHOWN]))
        return (
            f"it is encrypted for {'; '.join(recipients)}, and nothing of this node decrypts it: "
            f"tried {tried}{f'; {problems}' if problems else ''}"
        )

    def _recipients(self, wrapped: Wrapped, packet: bytes) -> list[str]:
        return jwe.recipients(packet, self._most) if wrapped.scheme == JWE else []


class NoDecrypter:
    """Implements `ports.Decrypter` where layers are never decrypted."""

    async def unwrap(self, layers: Sequence[Descriptor]) -> Secrets:
        """See `ports.Decrypter.unwrap`."""
        for digest in encrypted(layers):
            raise NotDecryptableError(
                f"layer {digest} is encrypted, and image.image_decryption.key_model is off"
            )
        return {}


def encrypted(layers: Sequence[Descriptor]) -> dict[Digest, Descriptor]:
    """Those of `layers` that are encrypted, each once."""
    return {
        layer.digest: layer for layer in layers if layer.media_type in media_types.ENCRYPTED_LAYERS
    }


async def _ask(provider: Provider | None, wrapped: Wrapped, failures: list[str]) -> bytes | None:
    """What a key provider finds, None where it finds nothing, or there is none for the scheme."""
    if not wrapped.scheme.startswith(PROVIDER):
        failures.append(f"{wrapped.scheme} is not supported")
    elif provider is None:
        failures.append(f"{wrapped.scheme} is not in image.image_decryption.keyprovider_config")
    else:
        try:
            async with asyncio.timeout(_PROVIDER_SECONDS):
                return await _ask_each(provider, wrapped, failures)
        except TimeoutError:
            failures.append(f"{wrapped.scheme}: no key within {_PROVIDER_SECONDS:g} s")
    return None


async def _ask_each(provider: Provider, wrapped: Wrapped, failures: list[str]) -> bytes | None:
    for packet in wrapped.packets:
        try:
            return await providers.unwrap(provider, packet)
        except ProviderError as error:
            failures.append(f"{wrapped.scheme}: {error}")
    return None
