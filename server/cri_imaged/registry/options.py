"""The `[image.registry]` table of the configuration."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

_Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class HostLogin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credentials of one host, with the keys of containerd's `registry.configs.HOST.auth`.

    Which of them is used is decided as for a CRI AuthConfig: username and password, else
    identitytoken, else auth (base64 of `user:password`), else registrytoken.
    """

    username: str = ""
    """User's name."""
    password: str = ""
    """That user's password, or an access token that stands for it."""
    auth: str = ""
    """Base64 of `user:password`."""
    identitytoken: str = ""
    """An OAuth2 refresh token."""
    registrytoken: str = ""
    """A bearer token, sent as it is."""

    def __repr__(self) -> str:
        return "HostLogin(…)"


class HostOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[image.registry.configs."HOST"]`: what one host (and port) is given."""

    auth: HostLogin | None = None

    def __repr__(self) -> str:
        return "HostOptions(…)"


class RegistryOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How registries are found and spoken to. Keys with containerd's meaning keep its names.

    Credentials come from the first of these that has some for the host being asked: the CRI
    request's AuthConfig, `configs`, `docker_config`. Otherwise access is anonymous.
    """

    config_path: str = "/etc/containerd/certs.d:/etc/docker/certs.d"
    """Folders of `HOST/hosts.toml`, separated by colons; the first that knows the host counts."""
    headers: dict[str, list[str]] = {}
    """Headers sent with every request to a registry host, never to a redirect's target."""
    configs: dict[str, HostOptions] = {}
    """Credentials by host (and port, where it is not the default)."""
    docker_config: str = ""
    """Path of a Docker `config.json` with `auths`, `credHelpers`, `credsStore`; empty: none."""
    response_header_timeout: _Seconds = 30.0
    """Seconds from a connection's request to the response's headers."""
    stall_timeout: _Seconds = 30.0
    """Seconds without a byte after which a body is resumed with another request."""
    min_rate_bytes_per_second: _Count = 1024
    """A body that is slower than this for `stall_timeout` is resumed elsewhere; 0: never."""
    concurrent_layer_fetch_buffer: _Count = 0
    """Bytes of the chunks that a large blob is fetched in, several at a time; 0: one request."""
    concurrent_layer_fetch_requests: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Requests at the same time for one blob, where it is fetched in chunks."""

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__ if name != "headers"}
        return f"RegistryOptions({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
