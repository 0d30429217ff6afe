"""The `[image.registry]` table of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import msgspec

from cri_imaged.oci.aliases import check_aliases
from cri_imaged.ports import Auth
from cri_imaged.registry.auth.scope import LoginScope

_Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class HostLogin(Auth, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credentials of one host, with the keys of containerd's `registry.configs.HOST.auth`."""

    def __repr__(self) -> str:
        return "HostLogin(…)"


class HostOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[image.registry.configs."HOST"]`: what one host (and port), or some of its repositories, is
    given."""

    auth: HostLogin | None = None

    def __repr__(self) -> str:
        return "HostOptions(…)"


class RegistryOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How registries are found and spoken to. Keys with containerd's meaning keep its names.

    Credentials come from the first of these that has some for the host being asked: the CRI
    request's AuthConfig, `configs`, `docker_config`, `credential_provider_config`. At a mirror the
    request's come last. Otherwise access is anonymous.
    """

    config_path: str = "/etc/containerd/certs.d:/etc/docker/certs.d"
    """Folders of `HOST/hosts.toml`, separated by colons; the first that knows the host counts."""
    headers: dict[str, list[str]] = {}
    """Headers sent with every request to a registry host, never to a redirect's target. A header in
    hosts.toml replaces one of the same name."""
    configs: dict[str, HostOptions] = {}
    """Credentials by host (and port, where it is not the default), or by host and the begin of a
    repository's path, as in `registry.example/team`: the longest that fits counts."""
    aliases: dict[str, str] = {}
    """Repositories by short names: where `app` is `registry.example/team/app`, a client that names
    `app:1` means `registry.example/team/app:1`, which is the image's name. Credentials of such a
    request that name no host are taken to be for Docker Hub, as the kubelet knows no alias."""
    docker_config: str = "/etc/cri-imaged/auth.json"
    """Path of a Docker `config.json` with `auths`, `credHelpers`, `credsStore`, which need not be
    there; `cri-imaged login` writes to it. A key of `auths` may have the begin of a repository's
    path, as in podman's `auth.json`. Empty: none."""
    credential_provider_config: str = ""
    """The kubelet's CredentialProviderConfig, a file or a folder of such, as it has it for
    --image-credential-provider-config: programs that are asked for logins that nothing above has.
    Empty: none."""
    credential_provider_bin_dir: str = ""
    """Folder of these programs, as in the kubelet's --image-credential-provider-bin-dir."""
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

    def __post_init__(self) -> None:
        check_aliases(self.aliases)
        refuse_contradictions("configs", self.configs)
        if self.credential_provider_config and not self.credential_provider_bin_dir:
            raise ValueError("credential_provider_config goes with credential_provider_bin_dir")

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__ if name != "headers"}
        return f"RegistryOptions({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def refuse_contradictions(name: str, table: Mapping[str, Any]) -> None:
    """Raises `ValueError` where two keys of `table`, the key `name`, say different things of one
    host, as `ghcr.io` and `ghcr.io:443` are, or of the same repositories of it. Quotes no value."""
    keys: dict[LoginScope, str] = {}
    for key, value in table.items():
        first = keys.setdefault(LoginScope.of(key), key)
        if table[first] != value:
            raise ValueError(f'{name}."{key}": is the same as "{first}", which says something else')
