"""Takes over a changed configuration while the daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import structlog

from cri_imaged.config import Config
from cri_imaged.errors import ConfigError
from cri_imaged.limits import BUILT_IN, Limits

log = structlog.get_logger()

RELOADABLE = frozenset(
    {
        "debug.level",
        "metrics.registries",
        "image.pinned_images",
        "image.bandwidth",
        "image.gc",
        "image.preload.images",
        "image.preload.refresh",
        "image.preload.jitter",
        "image.preload.pinned",
        "image.verification.bin_dir",
        "image.verification.max_verifiers",
        "image.verification.per_verifier_timeout",
        "image.verification.policy",
        "image.registry.config_path",
        "image.registry.headers",
        "image.registry.docker_config",
        "image.registry.configs",
        "image.registry.aliases",
        "image.registry.credential_provider_config",
        "image.registry.credential_provider_bin_dir",
        *(f"image.limits.{name}" for name in Limits.__struct_fields__ if name not in BUILT_IN),
    }
)
"""Keys that change while the daemon runs. All others are what it is built of."""


class Reloaded(NamedTuple):
    """What became of a changed configuration, by keys."""

    changed: tuple[str, ...]
    """In force now."""
    restart: tuple[str, ...]
    """In force after a restart."""


class Reloader:
    """Knows the configuration that is in force."""

    def __init__(
        self, config: Config, read: Callable[[], Config], apply: Callable[[Config], Awaitable[None]]
    ) -> None:
        """`read` gives the configuration as its files are now; `apply` takes over what of it is
        `RELOADABLE`. Both raise `ConfigError`, and then change nothing."""
        self._config = config
        self._read = read
        self._apply = apply
        self._lock = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Read the files again.

        Raises:
            ConfigError: they are wrong; all stays as it is.
        """
        async with self._lock:
            wanted = await asyncio.to_thread(self._read)
            differing = tuple(differences(self._config, wanted))
            changed = tuple(key for key in differing if key in RELOADABLE)
            if changed:
                await self._apply(wanted)
                self._config = taken_over(self._config, wanted)
            restart = tuple(key for key in differing if key not in RELOADABLE)
            log.info("configuration reloaded", changed=changed, needs_restart=restart)
            return Reloaded(changed, restart)

    async def follow(self, wanted: asyncio.Event) -> None:
        """Reload whenever `wanted` is set. Nobody waits for an answer: the log has it."""
        while True:
            await wanted.wait()
            wanted.clear()
            try:
                await self.reload()
            except ConfigError as error:
                log.error("configuration not reloaded", problems=str(error).splitlines())
            except Exception:
                log.exception("configuration not reloaded, or not all of it; it can be tried again")


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The keys whose values differ. A table that is taken over as a whole is one key, as is one of
    the user's own names."""
    whole = path in RELOADABLE or not isinstance(old, msgspec.Struct)
    if whole or type(old) is not type(new):
        if old != new:
            yield path
        return
    for name in old.__struct_fields__:
        below = f"{path}.{name}" if path else name
        yield from differences(getattr(old, name), getattr(new, name), below)


def taken_over(old: Any, new: Any, path: str = "") -> Any:
    """`old` with what of `new` is `RELOADABLE`."""
    if path in RELOADABLE:
        return new
    if type(old) is not type(new) or not isinstance(old, msgspec.Struct):
        return old
    return type(old)(
        **{
            name: taken_over(
                getattr(old, name), getattr(new, name), f"{path}.{name}" if path else name
            )
            for name in old.__struct_fields__
        }
    )
