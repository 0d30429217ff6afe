"""Sets up the log: structlog on standard error, JSON or for people.

What libraries log through `logging` goes the same way. Fields bound with
`structlog.contextvars` appear in every line of their task.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from cri_imaged.obs.log_writer import LogWriter
from cri_imaged.obs.terminal import escaped

Level = Literal["debug", "info", "warn", "error"]
Format = Literal["json", "console"]

CENSORED = "[censored]"

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_SECRET_KEY = re.compile(
    r"auth|.*(?:password|passwd|secret|token|authorization|cookie|credential|apikey|privatekey)s?"
)
_SECRET_TEXT = re.compile(
    r"(?P<scheme>\b(?:Basic|Bearer)\s+)(?!authentication\b)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<url>\b[a-z][a-z0-9+.-]*://)[^\s/@]+@",
    re.IGNORECASE,
)
_MULTILINE = {"exception", "stack"}


def configure(level: Level, form: Format, stream: TextIO | LogWriter | None = None) -> None:
    """Log to `stream` (standard error) from now on, in the whole process."""
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        censor,
    ]
    renderer: list[Processor] = (
        [structlog.processors.JSONRenderer()]
        if form == "json"
        else [escape_controls, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.getLogger().handlers = [handler]
    set_level(level)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_no_gone_client)


def set_level(level: Level) -> None:
    """Log what is at least as severe from now on."""
    logging.getLogger().setLevel(_LEVELS[level])
    for library in ("asyncio", "grpc"):
        # Their debug lines speak of event loops, several for each call.
        logging.getLogger(library).setLevel(max(_LEVELS[level], logging.INFO))


def shows_debug() -> bool:
    """Whether debug lines are shown: to make one costs some microseconds though it is not."""
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def _no_gone_client(record: logging.LogRecord) -> bool:
    """A filter. Where a client leaves in the moment that it is answered, gRPC logs an error with a
    traceback: a remark is enough."""
    kind = record.exc_info[0] if record.exc_info else None
    if kind is None or kind.__name__ != "ExecuteBatchError":
        return True
    logging.getLogger("grpc").info("an answer reached no client: %s", record.getMessage())
    return False


def censor(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hide what looks like a secret, by its key or its form: the last line of defence behind code
    that does not log secrets in the first place."""
    return {key: _censored(key, value) for key, value in event.items()}


def _censored(key: object, value: Any) -> Any:
    # logging's record object and its arguments are rendered already; they are not printed.
    if isinstance(key, str) and key.startswith("_"):
        return value
    if isinstance(key, str) and value and _SECRET_KEY.fullmatch(re.sub(r"[-_]", "", key.lower())):
        return CENSORED
    if isinstance(value, Mapping):
        return {name: _censored(name, item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_censored(None, item) for item in value]
    if isinstance(value, str):
        return _SECRET_TEXT.sub(_hide, value)
    return value


def _hide(match: re.Match[str]) -> str:
    if match["url"]:
        return f"{match['url']}{CENSORED}@"
    return f"{match['scheme']}{CENSORED}"


def escape_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Show control characters as escapes; a traceback keeps its lines."""
    return {
        key: escaped(value) if isinstance(value, str) and key not in _MULTILINE else value
        for key, value in event.items()
    }
