"""The distribution client: the registry room's one entry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType

from cri_imaged.limits import Limits
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Credentials, Known, Resolved
from cri_imaged.registry.auth import Authorizer
from cri_imaged.registry.concurrent import Chunks
from cri_imaged.registry.credentials import Keyring
from cri_imaged.registry.fetcher import Machinery
from cri_imaged.registry.hosts_dir import HostsDirectory
from cri_imaged.registry.options import RegistryOptions
from cri_imaged.registry.patience import Patience
from cri_imaged.registry.resolver import RegistryResolver
from cri_imaged.registry.retry import RetryPolicy
from cri_imaged.registry.tokens import ProofCache
from cri_imaged.registry.transport import Transport
from cri_imaged.registry.tries import HostHealth


class DistributionClient:
    """Implements `ports.Resolver`. An async context manager that owns the connections."""

    def __init__(
        self,
        options: RegistryOptions,
        limits: Limits,
        progress_timeout: float | None,
        *,
        policy: RetryPolicy | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`progress_timeout` is `image_pull_progress_timeout` in seconds, None: never.

        Raises:
            ConfigError: the options, or the proxies in `environ`, are unusable.
        """
        header_timeout = options.response_header_timeout
        if progress_timeout is not None:
            header_timeout = min(header_timeout, progress_timeout)
        self._transport = Transport(limits, header_timeout, environ)
        machinery = Machinery(
            transport=self._transport,
            authorizer=Authorizer(self._transport, ProofCache(), limits),
            health=HostHealth(),
            policy=policy or RetryPolicy.of(limits),
            patience=Patience(
                options.stall_timeout, progress_timeout, options.min_rate_bytes_per_second
            ),
            chunks=Chunks(
                options.concurrent_layer_fetch_buffer, options.concurrent_layer_fetch_requests
            ),
        )
        directory = HostsDirectory(options.config_path, options.headers)
        self._resolver = RegistryResolver(machinery, directory, Keyring(options), limits)

    async def __aenter__(self) -> DistributionClient:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._transport.__aexit__(kind, error, traceback)

    async def resolve(
        self, reference: Reference, credentials: Credentials | None, known: Known | None = None
    ) -> Resolved:
        """See `ports.Resolver.resolve`."""
        return await self._resolver.resolve(reference, credentials, known)
