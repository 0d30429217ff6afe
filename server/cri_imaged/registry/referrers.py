"""What refers to a manifest: signatures, say (distribution spec 1.1, "Listing Referrers")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from cri_imaged.disk import on_disk
from cri_imaged.errors import Category, RegistryError
from cri_imaged.oci import media_types
from cri_imaged.oci.digest import Digest
from cri_imaged.registry.auth.access import Access
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.session import Session
from cri_imaged.registry.tries import Tries
from cri_imaged.shielding import to_the_end

_HEADERS = {"Accept": media_types.OCI_INDEX}


class Referrers:
    """Asks each host in turn, until one lists some: a mirror may know of none."""

    def __init__(
        self, session: Session, access: Access, hosts: Sequence[Host], subject: Digest, limit: int
    ) -> None:
        """`limit` is the most bytes that a list may have."""
        self._session = session
        self._access = access
        self._hosts = hosts
        self._subject = subject
        self._thing = f"referrers/{subject}"
        self._limit = limit

    async def listed(self) -> BinaryIO | None:
        """An index of the referrers, to be closed; None where no host has such a list.

        Raises:
            RegistryError, LimitExceededError: see `Tries.run`.
        """
        what = f"cannot list what refers to {self._subject}"
        tries = Tries(self._hosts, what, self._session.policy, self._session.health)
        try:
            return await tries.run(
                self._ask, lambda host: host.url(self._access.path(host, self._thing))
            )
        except RegistryError as error:
            if error.category is Category.NOT_FOUND:
                return None
            raise

    async def _ask(self, host: Host) -> BinaryIO:
        try:
            response = await self._session.authorizer.get(host, self._thing, self._access, _HEADERS)
        except HostFailure as failure:
            if failure.kind is Kind.REFUSED and failure.status is not None:
                # Whoever has no such endpoint says so in many ways.
                raise HostFailure(
                    Kind.NOT_FOUND, failure.outcome, status=failure.status, codes=failure.codes
                ) from None
            raise
        document = self._session.spools.new()
        try:
            response.limit_silence(self._session.patience.stall_timeout)
            if not await response.save(document, self._limit):
                raise HostFailure(Kind.TOO_LARGE, f"a list of more than {self._limit} bytes")
            if not response.headers.get("Content-Type", "").startswith(media_types.OCI_INDEX):
                raise HostFailure(Kind.NOT_FOUND, "answers with something else than an index")
        except BaseException:
            await to_the_end(on_disk(document.close))
            raise
        finally:
            response.close()
        return document
