"""Conversion, and errors as gRPC codes."""

from __future__ import annotations

import errno

import grpc
import pytest

from cri_imaged import errors
from cri_imaged.cri.convert import credentials_of, user_of
from cri_imaged.cri.errors import cut, explained, status_of
from cri_imaged.errors import Attempt, Category, ConfigError, ImagedError, RegistryError
from cri_imaged.ports import Credentials
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri
from tests.support.leaks import MARK

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("user", "uid", "name"),
    [
        ("", None, ""),
        ("0", 0, ""),
        ("1000", 1000, ""),
        ("1000:1000", 1000, ""),
        ("1000:staff", 1000, ""),
        ("app", None, "app"),
        ("app:staff", None, "app"),
        (":1000", None, ""),
        ("-1", None, "-1"),
        ("1e3", None, "1e3"),
        ("٣", None, "٣"),
        (str((1 << 63) - 1), (1 << 63) - 1, ""),
        (str(1 << 63), None, str(1 << 63)),
        ("9" * 1024, None, "9" * 1024),
    ],
)
def test_users(user: str, uid: int | None, name: str) -> None:
    assert user_of(user) == (uid, name)


def test_credentials_are_handed_on_as_they_are() -> None:
    assert credentials_of(cri.AuthConfig()) is None
    assert credentials_of(cri.AuthConfig(server_address="h.example")) is None
    for name in ("username", "password", "auth", "identity_token", "registry_token"):
        given = {name: MARK, "server_address": "h.example"}
        kept = {key.replace("_token", "token"): value for key, value in given.items()}
        assert credentials_of(cri.AuthConfig(**given)) == Credentials(**kept)


@pytest.mark.parametrize(
    ("category", "code", "prefix"),
    [
        (Category.INVALID, Code.INVALID_ARGUMENT, ""),
        (Category.NOT_FOUND, Code.NOT_FOUND, ""),
        (Category.UNAUTHENTICATED, Code.UNAUTHENTICATED, ""),
        (Category.PERMISSION_DENIED, Code.PERMISSION_DENIED, ""),
        (Category.REGISTRY_UNAVAILABLE, Code.UNKNOWN, "RegistryUnavailable: "),
        (Category.SIGNATURE_REJECTED, Code.UNKNOWN, "SignatureValidationFailed: "),
        (Category.CORRUPT, Code.FAILED_PRECONDITION, ""),
        (Category.EXHAUSTED, Code.RESOURCE_EXHAUSTED, ""),
    ],
)
def test_codes_and_what_the_kubelet_reads(category: Category, code: Code, prefix: str) -> None:
    error = RegistryError(category, "cannot resolve x", (Attempt("h", "u", "said no", 0.5),))
    assert status_of(error) == (code, f"{prefix}cannot resolve x: h: said no (0.5 s)")


def every_error() -> list[type[ImagedError]]:
    found = []
    pending = list(ImagedError.__subclasses__())
    while pending:
        each = pending.pop()
        pending.extend(each.__subclasses__())
        if each is not RegistryError and each.__module__ == errors.__name__:
            found.append(each)
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code(kind: type[ImagedError]) -> None:
    code, message = status_of(kind("what went wrong"))
    assert code not in (Code.OK, Code.INTERNAL)
    assert message.endswith("what went wrong")


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "ä" * 3000, "€" * 2000, "\0\n" * 4000, "\ud800" * 9]
)
def test_messages_are_cut_at_what_trailers_carry(text: str) -> None:
    shown = cut(text)
    assert len(shown.encode()) <= 4096
    assert shown.isprintable()
    kept = cut(text[:5])
    assert shown.startswith(kept[:5])


def test_a_prefix_outlives_the_cut() -> None:
    error = RegistryError(Category.REGISTRY_UNAVAILABLE, "x" * 9000, ())
    assert status_of(error)[1].startswith("RegistryUnavailable: xxx")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_no_defect(number: int) -> None:
    error = explained(OSError(number, "Too many open files"))
    assert isinstance(error, ImagedError)
    code, message = status_of(error)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "ulimit -n" in message
    defect = OSError(errno.EBADF, "")
    assert explained(defect) is defect


def test_what_seems_wrong_for_want_of_files_is_not_called_wrong() -> None:
    seeming = ConfigError("the folder cannot be read")
    seeming.__context__ = OSError(errno.EMFILE, "Too many open files")
    assert "ulimit -n" in str(explained(seeming))
    honest = ConfigError("the folder is none")
    assert explained(honest) is honest
