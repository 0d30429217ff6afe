"""`hosts.toml`, field for field as containerd's docs/hosts.md describes it (pure).

Stricter in one thing: what is malformed or unknown is an error that names file and line, where
containerd falls back to asking the registry itself. A misspelt mirror must not go unnoticed.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeGuard
from urllib.parse import urlsplit

from cri_imaged.durations import parse_duration
from cri_imaged.errors import Category, ConfigError, RegistryError
from cri_imaged.oci.authority import DOCKER_HUB_HOST
from cri_imaged.oci.reference import DOCKER_HUB
from cri_imaged.registry.hosts.host import (
    ALL_CAPABILITIES,
    DIAL_SECONDS,
    Capability,
    Host,
    TlsSettings,
    default_host,
    is_authority,
)
from cri_imaged.registry.hosts.rewrite import Rewrite

_CAPABILITIES = {
    capability.name.lower(): capability for capability in Capability if capability.name
}
_AT_LINE = re.compile(r"(.*) \(at line (\d+), column \d+\)", re.DOTALL)
_PLAIN_PORT = 80
_PLAIN_URL = re.compile(r"[!-~]+")
_USER_INFORMATION = re.compile(r"(?<=//)[^/]*@")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_FIELDS = frozenset(
    {
        "capabilities",
        "ca",
        "client",
        "skip_verify",
        "header",
        "override_path",
        "dial_timeout",
        "rewrite",
        "blocked",
        "trace_context",
    }
)


def parse_hosts(text: str, file: Path, registry: str) -> tuple[Host, ...]:
    """The hosts that a `hosts.toml` gives for `registry`: those of `[host]` in the file's order,
    then `server`, which is the registry itself where it is not given.

    `file` is named in errors, and its folder is what relative paths start from.

    Besides containerd's fields: `rewrite` (see `hosts.rewrite`); `blocked`, which leaves a host
    out, or, at the root, the whole registry; `trace_context`, which tells the host a pull's trace;
    `order`, at the root, by which those of `[host]` are tried: as in the file, or by `latency`.

    Raises:
        ConfigError: malformed; begins with file and line.
        RegistryError: the registry is blocked.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.fullmatch(str(error))
        line, problem = (int(found[2]), found[1]) if found else (text.count("\n") + 1, str(error))
        raise ConfigError(f"{file}:{line}: {problem}") from None
    root = _Section(text, file, None)
    table, server = document.pop("host", {}), document.pop("server", "")
    order = document.pop("order", "file")
    if order not in ("file", "latency"):
        root.refuse("order", 'must be "file" or "latency"')
    if not isinstance(table, dict):
        root.refuse("host", 'must be tables, as in [host."https://mirror.example"]')
    if not isinstance(server, str):
        root.refuse("server", "must be a URL in a string")
    hosts: list[Host] = []
    for url, fields in table.items():
        section = _Section(text, file, url)
        if not isinstance(fields, dict):
            section.refuse(url, "must be a table")
        settings = _settings(fields, section)
        if not settings.blocked:
            host = _host(url, url, settings, section)
            hosts.append(replace(host, by_latency=order == "latency"))
    settings = _settings(document, root)
    if settings.blocked:
        raise RegistryError(Category.PERMISSION_DENIED, f"{registry} is blocked by {file}", ())
    if server:
        hosts.append(_host(server, "server", settings, root))
    else:
        hosts.append(_registry_itself(registry, settings))
    return tuple(hosts)


@dataclass(frozen=True, slots=True)
class _Settings:
    """A host's fields, checked."""

    capabilities: Capability
    tls: TlsSettings
    headers: tuple[tuple[str, str], ...]
    override_path: bool
    dial_seconds: float
    rewrites: tuple[Rewrite, ...]
    blocked: bool
    trace_context: bool


class _Section:
    """Where in the file something stands: the root, or the table of one host."""

    def __init__(self, text: str, file: Path, host: str | None) -> None:
        self.file = file
        self._text = text
        self._host = host

    def refuse(self, key: str, problem: str) -> NoReturn:
        """Raise the error about `key`."""
        shown = _USER_INFORMATION.sub("", key)
        raise ConfigError(f"{self.file}:{self._line(key)}: {shown} {problem}")

    def path(self, key: str, text: str) -> Path:
        """A path that `key` gives, relative to the file's folder."""
        if "\0" in text:
            self.refuse(key, "must not hold a NUL")
        return self.file.parent / text

    def _line(self, key: str) -> int:
        """The line that `key` begins on, or that of its table."""
        assignment = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]")
        component = re.compile(rf"[\[.\"'\s]{re.escape(key)}[\].\"'\s]")
        inside, table_line = self._host is None, 1
        for number, line in enumerate(self._text.splitlines(), 1):
            if line.lstrip().startswith("["):
                inside = self._host is not None and self._host in line
                if inside and table_line == 1:
                    table_line = number
                if component.search(line) and (inside or self._host is None):
                    return number
            elif inside and assignment.match(line):
                return number
        return table_line


def _registry_itself(registry: str, settings: _Settings) -> Host:
    host = default_host(registry)
    return replace(
        host,
        tls=settings.tls if settings.tls.configured else host.tls,
        headers=settings.headers,
        dial_seconds=settings.dial_seconds,
        rewrites=settings.rewrites,
        trace_context=settings.trace_context,
    )


def _host(text: str, key: str, settings: _Settings, section: _Section) -> Host:
    """The host at a URL, which is https where it has no scheme."""
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        port = url.port
    except ValueError:
        section.refuse(key, "is no URL")
    if url.scheme not in ("http", "https") or not url.hostname:
        section.refuse(key, "must be an http:// or https:// URL of a host")
    if "@" in url.netloc:
        section.refuse(key, "must not hold credentials; they go into registry.configs")
    if url.query or url.fragment or not _PLAIN_URL.fullmatch(text):
        section.refuse(key, "must be a URL of scheme, host, port and path only")
    scheme, authority = url.scheme, url.netloc.lower()
    if not is_authority(authority):
        section.refuse(key, "names a host that there cannot be")
    # With TLS settings, http means: TLS if the host speaks it. Port 80 leaves no doubt.
    upgrade = scheme == "http" and settings.tls.configured and port != _PLAIN_PORT
    return Host(
        "https" if upgrade else scheme,
        DOCKER_HUB_HOST if authority == DOCKER_HUB else authority,
        _api_root(url.path, settings.override_path),
        settings.capabilities,
        settings.tls,
        settings.headers,
        settings.dial_seconds,
        plain_fallback=upgrade,
        rewrites=settings.rewrites,
        trace_context=settings.trace_context,
    )


def _api_root(path: str, override: bool) -> str:
    root = posixpath.normpath(path).lstrip("/") if path else ""
    root = f"/{root}" if root not in ("", ".") else ""
    return root if override or root.endswith("/v2") else f"{root}/v2"


def _settings(fields: Mapping[str, Any], section: _Section) -> _Settings:
    for key in fields:
        if key not in _FIELDS:
            section.refuse(key, f"is not known here; known are {', '.join(sorted(_FIELDS))}")
    skip_verify = fields.get("skip_verify")
    if not isinstance(skip_verify, bool | None):
        section.refuse("skip_verify", "must be true or false")
    return _Settings(
        _capabilities(fields.get("capabilities", []), section),
        TlsSettings(
            _authorities(fields.get("ca", []), section),
            _clients(fields.get("client", []), section),
            skip_verify,
        ),
        _headers(fields.get("header", {}), section),
        _switch("override_path", fields, section),
        _dial_seconds(fields.get("dial_timeout"), section),
        _rewrites(fields.get("rewrite", {}), section),
        _switch("blocked", fields, section),
        _switch("trace_context", fields, section),
    )


def _switch(key: str, fields: Mapping[str, Any], section: _Section) -> bool:
    value = fields.get(key, False)
    if not isinstance(value, bool):
        section.refuse(key, "must be true or false")
    return value


def _capabilities(value: object, section: _Section) -> Capability:
    if not _is_strings(value):
        section.refuse("capabilities", 'must be a list, as in ["pull", "resolve"]')
    found = Capability(0)
    for name in value:
        if name.lower() not in _CAPABILITIES:
            section.refuse(
                "capabilities", f"has the unknown {name!r}; known are {', '.join(_CAPABILITIES)}"
            )
        found |= _CAPABILITIES[name.lower()]
    return found or ALL_CAPABILITIES


def _authorities(value: object, section: _Section) -> tuple[Path, ...]:
    names = [value] if isinstance(value, str) else value
    if not _is_strings(names):
        section.refuse("ca", "must be a path or a list of paths")
    return tuple(section.path("ca", name) for name in names)


def _clients(value: object, section: _Section) -> tuple[tuple[Path, Path | None], ...]:
    entries = [value] if isinstance(value, str) else value
    pairs: list[tuple[Path, Path | None]] = []
    for entry in entries if isinstance(entries, list) else [None]:
        if isinstance(entry, str):
            pairs.append((section.path("client", entry), None))
        elif _is_strings(entry) and len(entry) == 2:
            certificate, key = entry
            found = section.path("client", certificate)
            pairs.append((found, section.path("client", key) if key else None))
        else:
            section.refuse("client", "must be a path, a list of paths, or a list of pairs of paths")
    return tuple(pairs)


def _headers(value: object, section: _Section) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        section.refuse("header", "must be a table")
    headers: list[tuple[str, str]] = []
    for name, content in value.items():
        values = [content] if isinstance(content, str) else content
        if not _is_strings(values):
            section.refuse(name, "must be a string or a list of strings")
        if not all(is_header(name, text) for text in values):
            section.refuse(name, "is no header that HTTP allows")
        headers.extend((name, text) for text in values)
    return tuple(headers)


def _rewrites(value: object, section: _Section) -> tuple[Rewrite, ...]:
    if not isinstance(value, dict):
        section.refuse("rewrite", "must be a table of regular expressions and replacements")
    found: list[Rewrite] = []
    for pattern, replacement in value.items():
        if not isinstance(replacement, str):
            section.refuse(pattern, "must be replaced by a string")
        try:
            found.append(Rewrite.of(pattern, replacement))
        except re.error as error:
            section.refuse(pattern, f"is no regular expression: {error}")
    return tuple(found)


def is_header(name: str, value: str) -> bool:
    """Whether HTTP allows this header (RFC 9110, 5.1 and 5.5)."""
    return bool(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value))


def _dial_seconds(value: object, section: _Section) -> float:
    if value is None or value == "":
        return DIAL_SECONDS
    try:
        seconds = parse_duration(value) if isinstance(value, str) else 0
    except ValueError:
        seconds = 0
    if not seconds:
        section.refuse("dial_timeout", 'must be a duration, as in "30s" or "1m30s"')
    return seconds


def _is_strings(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
