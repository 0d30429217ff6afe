"""A login: what is shown to a registry or its token server (pure)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

from cri_imaged.ports import Auth

_AS_GIVEN = ("utf-8", "surrogateescape")
_TOKEN_USER = "<token>"  # noqa: S105  # Docker's mark for "the password is an identity token"


@dataclass(frozen=True, slots=True)
class Login:
    """Exactly one of a user with a password, an identity token, a registry token; or nothing,
    which is anonymous. Secrets are left out of `repr`."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    problem: str = field(default="", compare=False)
    """Why there is none, where there should be one."""

    @classmethod
    def of(cls, given: Auth) -> Login:
        """The login that `given` stands for: username and password, else the identity token, else
        `auth` (base64 of `user:password`, split at the first colon, NULs at the password's ends
        dropped), else the registry token.

        Raises:
            ValueError: `auth` is malformed.
        """
        username, password = given.username, given.password
        if not username and not given.identitytoken and given.auth:
            username, password = _decode(given.auth)
        if username == _TOKEN_USER:
            return cls(identity_token=password)
        if username:
            return cls(username, password)
        if given.identitytoken:
            return cls(identity_token=given.identitytoken)
        return cls(registry_token=given.registrytoken)

    @property
    def anonymous(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.username or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header with user and password (RFC 7617): UTF-8, and what
        `auth` had of other bytes."""
        pair = f"{self.username}:{self.password}".encode(*_AS_GIVEN)
        return f"Basic {base64.b64encode(pair).decode()}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """All texts that must not appear in a message."""
        found = [self.password, self.identity_token, self.registry_token]
        if self.username:
            found.append(self.basic.removeprefix("Basic "))
        return tuple(secret for secret in found if secret)

    @property
    def fingerprint(self) -> str:
        """Tells identities apart without being a secret."""
        parts = (self.username, self.password, self.identity_token, self.registry_token)
        hasher = hashlib.sha256()
        for part in parts:
            raw = part.encode(*_AS_GIVEN)
            hasher.update(len(raw).to_bytes(8, "big") + raw)
        return hasher.hexdigest()


ANONYMOUS = Login()


def _decode(auth: str) -> tuple[str, str]:
    try:
        # `base64` breaks its lines after 76 characters unless it is told not to.
        # What it holds need not be UTF-8, and is shown as it was given.
        text = base64.b64decode("".join(auth.split()), validate=True).decode(*_AS_GIVEN)
    except ValueError:
        raise ValueError("auth is not base64") from None
    username, colon, password = text.partition(":")
    if not colon:
        raise ValueError("auth holds no colon between user and password")
    return username, password.strip("\0")
