"""Image references, parsed and normalised as Docker does (distribution/reference grammar).

`busybox` means `docker.io/library/busybox:latest`. Where tag and digest are given, the digest
decides and the tag is dropped from what is stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from cri_imaged.errors import InvalidRequestError, UnsupportedContentError
from cri_imaged.oci.digest import Digest

DOCKER_HUB = "docker.io"
_REPOSITORY_BYTES = 255
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_BARE_ID = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference: a registry, a repository, and a tag or a digest or neither."""

    registry: str
    """Host and port as written: `docker.io`, `localhost:5000`, `[::1]:5000`."""
    repository: str
    """Path on the registry: `library/busybox`."""
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference as a client gives it, without adding a tag.

        Raises:
            InvalidRequestError: `text` is not a reference; the message says which part.
        """
        shown = text if len(text) <= 300 else text[:300] + "…"
        if not text:
            raise InvalidRequestError("image reference is empty, want [HOST/]NAME[:TAG|@DIGEST]")
        if _BARE_ID.fullmatch(text):
            raise InvalidRequestError(
                f"image reference {shown!r} is an image ID, which no registry knows; use a name"
            )
        rest, at, digest_text = text.partition("@")
        try:
            digest = Digest.parse(digest_text) if at else None
        except (InvalidRequestError, UnsupportedContentError) as error:
            raise InvalidRequestError(f"image reference {shown!r}: {error}") from None
        name, tag = split_tag(rest)
        if tag is not None and not is_tag(tag):
            raise InvalidRequestError(f"image reference {shown!r}: tag {tag[:140]!r} is malformed")
        registry, repository = _split_registry(name)
        if not _HOST.fullmatch(registry):
            raise InvalidRequestError(f"image reference {shown!r}: host {registry!r} is malformed")
        if not _PATH.fullmatch(repository):
            hint = ", must be lower case" if repository != repository.lower() else ""
            raise InvalidRequestError(
                f"image reference {shown!r}: "
                f"repository name {repository[:260]!r} is malformed{hint}"
            )
        if len(repository) > _REPOSITORY_BYTES:
            raise InvalidRequestError(
                f"image reference {shown!r}: "
                f"repository name is longer than {_REPOSITORY_BYTES} characters"
            )
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Registry and repository: `docker.io/library/busybox`."""
        return f"{self.registry}/{self.repository}"

    def with_default_tag(self) -> Reference:
        """This reference, with `latest` where it has neither tag nor digest."""
        if self.tag is None and self.digest is None:
            return replace(self, tag="latest")
        return self

    def canonical(self) -> Reference:
        """This reference as it is pulled and stored: with a default tag, and by digest alone
        where it has one."""
        if self.digest is not None:
            return replace(self, tag=None)
        return self.with_default_tag()

    def at_digest(self, digest: Digest) -> Reference:
        """The repo digest: the same repository at `digest`."""
        return Reference(self.registry, self.repository, None, digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def is_tag(text: str) -> bool:
    """Whether a repository can have such a tag."""
    return _TAG.fullmatch(text) is not None


def sort_key(normalised: str) -> tuple[int, str, str]:
    """Orders normalised reference strings as docker references sort: tag and digest, tag, digest,
    name alone; then by name, then by the whole."""
    rest, at, _ = normalised.partition("@")
    name, tag = split_tag(rest)
    rank = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}
    return rank[tag is not None, bool(at)], name, normalised


def split_tag(text: str) -> tuple[str, str | None]:
    """A name without a digest, and its tag apart."""
    head, colon, tail = text.rpartition(":")
    if colon and "/" not in tail:
        return head, tail
    return text, None


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_host = slash and (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    )
    if not is_host:
        registry, repository = DOCKER_HUB, name
    elif first in ("index.docker.io", "registry-1.docker.io"):
        registry, repository = DOCKER_HUB, rest
    else:
        registry, repository = first, rest
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository
