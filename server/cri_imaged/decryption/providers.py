"""Key providers: programs and services that unwrap keys (ocicrypt, docs/keyprovider.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cri_imaged import children
from cri_imaged.children import Argument
from cri_imaged.decoders import decoder
from cri_imaged.disk import on_disk
from cri_imaged.errors import ConfigError
from cri_imaged.limits import MIB

if TYPE_CHECKING:
    import grpc

_SECONDS = 30.0
_ANSWER_BYTES = 1 * MIB
_CONFIG_BYTES = 1 * MIB


class Command(msgspec.Struct, frozen=True):
    """A program."""

    path: Argument
    args: list[Argument] | None = None


class Tls(msgspec.Struct, frozen=True, rename="kebab"):
    """How a service is known, and we to it: files in PEM."""

    root_ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    insecure_skip_verify: bool = False


class Provider(msgspec.Struct, frozen=True, rename="kebab"):
    """One provider: a program, else a service."""

    cmd: Command | None = None
    grpc: str = ""
    grpc_tls: Tls | None = None


class _Config(msgspec.Struct, rename="kebab"):
    key_providers: dict[str, Provider] = {}


class _Result(msgspec.Struct):
    optsdata: bytes | None = None


class _Answer(msgspec.Struct):
    keyunwrapresults: _Result


class ProviderError(Exception):
    """A provider did not unwrap a key; says how, without what it said."""


def read_providers(file: Path) -> dict[str, Provider]:
    """Read the providers of `OCICRYPT_KEYPROVIDER_CONFIG`'s file format from the disk, by name;
    none where there is no file.

    Raises:
        ConfigError: it cannot be read, or is malformed.
    """
    key = "image.image_decryption.keyprovider_config"
    try:
        with file.open("rb") as stream:
            found = decoder(_Config).decode(stream.read(_CONFIG_BYTES)).key_providers
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{key}: {file} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {file} is malformed: {error}") from None
    for name, provider in found.items():
        if provider.cmd is None and not provider.grpc:
            raise ConfigError(f"{key}: {file}: key provider {name} has neither cmd nor grpc")
        if provider.grpc_tls is not None and provider.grpc_tls.insecure_skip_verify:
            raise ConfigError(
                f"{key}: {file}: key provider {name}: insecure-skip-verify is not supported: keys "
                "would go to anybody"
            )
    return found


async def unwrap(provider: Provider, packet: bytes) -> bytes:
    """What the provider finds in a wrapped key. It is told nothing else, and no key of ours.

    Raises:
        ProviderError
    """
    question = msgspec.json.encode(
        {
            "op": "keyunwrap",
            "keywrapparams": {"ec": None, "optsdata": None},
            "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": packet},
        }
    )
    if provider.cmd is not None:
        answer = await _ask_program(provider.cmd, question)
    else:
        answer = await _ask_service(provider, question)
    try:
        found = decoder(_Answer).decode(answer).keyunwrapresults.optsdata
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise ProviderError("its answer is malformed") from None
    if not found:
        raise ProviderError("it found no key")
    return found


async def _ask_program(command: Command, question: bytes) -> bytes:
    arguments = [command.path, *(command.args or ())]
    try:
        ran = await children.ask(arguments, question, seconds=_SECONDS, kept=_ANSWER_BYTES)
    except TimeoutError:
        raise ProviderError(f"{command.path}: no answer within {_SECONDS:g} s") from None
    except OSError as error:
        raise ProviderError(f"{command.path}: cannot be run: {error.strerror}") from None
    if ran.status:
        raise ProviderError(f"{command.path}: failed with status {ran.status}")
    return ran.out


async def _ask_service(provider: Provider, question: bytes) -> bytes:
    import grpc

    from cri_imaged.rpc.ocicrypt.keyprovider import keyprovider_pb2, keyprovider_pb2_grpc

    request = keyprovider_pb2.keyProviderKeyWrapProtocolInput(
        KeyProviderKeyWrapProtocolInput=question
    )
    async with await _channel(provider) as channel:
        stub = keyprovider_pb2_grpc.KeyProviderServiceStub(channel)
        try:
            answer = await stub.UnWrapKey(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise ProviderError(f"{provider.grpc}: answers {error.code().name}") from None
        return answer.KeyProviderKeyWrapProtocolOutput


async def _channel(provider: Provider) -> grpc.aio.Channel:
    import grpc

    # What it answers is a key: through no proxy of the environment.
    options: list[tuple[str, int | str]] = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", _ANSWER_BYTES),
    ]
    tls = provider.grpc_tls
    if tls is None:
        return grpc.aio.insecure_channel(provider.grpc, options)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    try:
        authority, key, chain = await on_disk(
            lambda: [_file(name) for name in (tls.root_ca_file, tls.key_file, tls.cert_file)]
        )
    except OSError as error:
        raise ProviderError(f"{error.filename}: {error.strerror}") from None
    credentials = grpc.ssl_channel_credentials(authority, key, chain)
    return grpc.aio.secure_channel(provider.grpc, credentials, options)


def _file(name: str) -> bytes | None:
    return Path(name).read_bytes() if name else None
