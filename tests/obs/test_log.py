"""The log: one object on a line, from everybody, and no secret in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.obs.log import CENSORED, censor, configure
from cri_imaged.obs.terminal import escaped
from tests.support.leaks import MARK

SECRET = f"{MARK}-{MARK}"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers, level, configuration = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers, root.level = handlers, level
    logging.getLogger("grpc._cython.cygrpc").filters.clear()
    structlog.contextvars.clear_contextvars()
    structlog.configure(**configuration)


def logged(
    write: Callable[[], object],
    level: Literal["debug", "info", "warn", "error"] = "info",
    form: Literal["json", "console"] = "json",
) -> str:
    stream = io.StringIO()
    configure(level, form, stream)
    write()
    return stream.getvalue()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_an_object() -> None:
    [line] = objects(logged(lambda: structlog.get_logger().info("pulled", size=3, name="a\nb")))
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "pulled", "level": "info", "size": 3, "name": "a\nb"}


def test_what_libraries_log_looks_the_same() -> None:
    def write() -> None:
        logging.getLogger("aiohttp").warning("slow %s", "host", extra={"seconds": 3})

    [line] = objects(logged(write))
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "slow host", "level": "warning", "seconds": 3}


def test_a_client_that_left_is_no_error() -> None:
    def write() -> None:
        log = logging.getLogger("grpc._cython.cygrpc")
        for error in (type("ExecuteBatchError", (Exception,), {})("batch"), ValueError("other")):
            try:
                raise error
            except Exception:
                log.exception("raised in core by [/x]")

    gone, other = objects(logged(write))
    assert (gone["level"], "exception" in gone) == ("info", False)
    assert gone["event"].endswith("raised in core by [/x]")
    assert (other["level"], "exception" in other) == ("error", True)


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warn", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(level: Literal["debug", "info", "warn", "error"], shown: list[str]) -> None:
    def write() -> None:
        for log in (structlog.get_logger(), logging.getLogger("x")):
            log.debug("1")
            log.info("2")
            log.warning("3")
            log.error("4")

    assert [line["level"] for line in objects(logged(write, level))] == shown * 2


def test_bound_fields_are_in_every_line_of_the_task() -> None:
    def write() -> None:
        structlog.contextvars.bind_contextvars(reference="busybox")
        structlog.get_logger().info("ours")
        logging.getLogger("x").info("theirs")

    assert [line["reference"] for line in objects(logged(write))] == ["busybox", "busybox"]


def test_an_exception_brings_its_traceback_in_one_line() -> None:
    def write() -> None:
        try:
            raise RuntimeError(f"GET https://user:{SECRET}@registry.example/v2/")
        except RuntimeError:
            structlog.get_logger().exception("failed")

    text = logged(write)
    [line] = objects(text)
    assert "RuntimeError" in line["exception"]
    assert "registry.example" in line["exception"]
    assert SECRET not in text


# --- secrets ----------------------------------------------------------------------------------

SECRET_KEYS = [
    "password",
    "Password",
    "auth",
    "Authorization",
    "Proxy-Authorization",
    "identity_token",
    "identitytoken",
    "registry_token",
    "registryToken",
    "access_token",
    "client_secret",
    "Set-Cookie",
    "X-Api-Key",
    "credentials",
    "private_key",
]


@pytest.mark.parametrize("key", SECRET_KEYS)
@pytest.mark.parametrize("form", ["json", "console"])
def test_secret_keys_are_censored_however_deep(key: str, form: Literal["json", "console"]) -> None:
    def write() -> None:
        structlog.get_logger().warning("x", **{key: SECRET}, request={"headers": [{key: SECRET}]})
        logging.getLogger("x").warning("x", extra={key: SECRET})

    text = logged(write, form=form)
    assert SECRET not in text
    assert text.count(CENSORED) == 3


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"sent basic {SECRET} to it",
        f"https://user:{SECRET}@registry.example/v2/",
        f"proxy http://{SECRET}@proxy:3128",
    ],
)
def test_secrets_in_text_are_censored_by_their_form(text: str) -> None:
    shown = logged(lambda: structlog.get_logger().info(text, detail=(text,)))
    assert SECRET not in shown
    assert shown.count(CENSORED) == 2


def test_what_is_no_secret_stays() -> None:
    fields = {
        "authenticated": True,
        "auth_rounds": 2,
        "token_seconds": 0.1,
        "password": "",
        "author": "me",
        "outcome": "401 Unauthorized, asks for basic authentication",
        "url": "https://registry.example/v2/a/manifests/v1@sha256:0",
    }
    [line] = objects(logged(lambda: structlog.get_logger().info("basic facts", **fields)))
    assert {key: line[key] for key in fields} == fields
    assert line["event"] == "basic facts"


nested = st.recursive(
    st.just(SECRET) | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.sampled_from(SECRET_KEYS), nested)
def test_whatever_is_under_a_secret_key_is_gone(key: str, value: Any) -> None:
    event = censor(None, "info", {"event": "x", "request": [{key: value}]})
    assert SECRET not in repr(event)


# --- terminals --------------------------------------------------------------------------------


def test_what_a_registry_says_does_not_command_the_terminal() -> None:
    def write() -> None:
        structlog.get_logger().info("said\x1b[2J", body="\x1b]0;title\x07", more="a\nlevel=error")

    text = logged(write, form="console")
    assert len(text.splitlines()) == 1
    assert text.rstrip("\n").isprintable()


@given(st.text(st.characters(codec=None)))
def test_escaped_text_is_one_harmless_line(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    shown.encode()
    if text.isprintable():
        assert shown == text
