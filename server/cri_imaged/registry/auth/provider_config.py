"""The kubelet's CredentialProviderConfig: which programs know logins for which images.

Its fields and their rules are those of `kubelet.config.k8s.io/v1` (and its beta and alpha, which
say the same). Unknown fields are left to the kubelet, whose file it is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from cri_imaged.children import Argument
from cri_imaged.durations import parse_duration
from cri_imaged.errors import ConfigError
from cri_imaged.limits import MIB
from cri_imaged.oci.authority import split_port

_SUFFIXES = (".json", ".yaml", ".yml")
_FILE_BYTES = 1 * MIB


class Variable(msgspec.Struct, frozen=True):
    """One of the environment."""

    name: Argument
    value: Argument


class TokenAttributes(msgspec.Struct, frozen=True, rename="camel"):
    """For programs that want a pod's service account token, which the kubelet alone has."""

    require_service_account: bool = False


class Provider(msgspec.Struct, frozen=True, rename="camel"):
    """One program."""

    name: Annotated[str, msgspec.Meta(pattern=r"^(?!\.{1,2}$)[^/\s\0]+$")]
    """Of its file, in the folder of all of them."""
    match_images: Annotated[list[str], msgspec.Meta(min_length=1)]
    api_version: Literal[
        "credentialprovider.kubelet.k8s.io/v1",
        "credentialprovider.kubelet.k8s.io/v1beta1",
        "credentialprovider.kubelet.k8s.io/v1alpha1",
    ]
    default_cache_duration: str
    """As Go writes durations; for answers that say none."""
    args: list[Argument] | None = None
    env: list[Variable] | None = None
    token_attributes: TokenAttributes | None = None

    def __post_init__(self) -> None:
        parse_duration(self.default_cache_duration)

    @property
    def cache_seconds(self) -> float:
        """`default_cache_duration`."""
        return parse_duration(self.default_cache_duration)

    def serves(self, image: str) -> bool:
        """Whether it may be asked for `image`, a name without tag and digest."""
        if self.token_attributes is not None and self.token_attributes.require_service_account:
            return False
        return any(matches(glob, image) for glob in self.match_images)


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    kind: Literal["CredentialProviderConfig"]
    api_version: Literal[
        "kubelet.config.k8s.io/v1",
        "kubelet.config.k8s.io/v1beta1",
        "kubelet.config.k8s.io/v1alpha1",
    ]
    providers: list[Provider]


def matches(glob: str, image: str) -> bool:
    """Whether a `matchImages` entry, or a key of an answer's `auth`, stands for `image` (pure).

    The kubelet's rules: `*` and `?` stand for characters of one label of the host, so that both
    have as many labels; the port is the same, and the path begins with the entry's.
    """
    wanted_host, _, wanted_path = glob.partition("/")
    host, _, path = image.partition("/")
    wanted_name, wanted_port = split_port(wanted_host)
    name, port = split_port(host)
    wanted_labels, labels = wanted_name.split("."), name.split(".")
    return (
        wanted_port == port
        and path.startswith(wanted_path)
        and len(wanted_labels) == len(labels)
        and all(map(fnmatch.fnmatchcase, labels, wanted_labels))
    )


def files_of(path: Path) -> list[Path]:
    """The file itself, or those of the folder in order of their names. Reads directories.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES)


def read_providers(files: Sequence[Path]) -> tuple[Provider, ...]:
    """The providers of all `files`, YAML or JSON. Reads them.

    Raises:
        ConfigError: one cannot be read, is malformed, or names a provider once more.
    """
    found: dict[str, Provider] = {}
    for file in files:
        for provider in _read(file).providers:
            if provider.name in found:
                raise ConfigError(f"{file}: there are two providers {provider.name!r}")
            found[provider.name] = provider
    return tuple(found.values())


def _read(file: Path) -> _Document:
    try:
        with file.open("rb") as opened:
            text = opened.read(_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    if len(text) > _FILE_BYTES:
        raise ConfigError(f"{file}: is larger than {_FILE_BYTES} bytes")
    try:
        return msgspec.convert(_document(text), _Document)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: is no CredentialProviderConfig: {error}") from None


def _document(text: bytes) -> Any:
    import yaml  # few nodes have such a file

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # Its text would quote the file, whose environment variables may be secrets.
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"malformed YAML{line}") from None
    except yaml.YAMLError:
        raise ValueError("malformed YAML") from None
