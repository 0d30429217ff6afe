"""ChainIDs (OCI image spec, config.md, "Layer ChainID")."""

from __future__ import annotations

from collections.abc import Iterable

from cri_imaged.oci.digest import Digest


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """The chainID of each stack of layers, lowest first. The lowest is its diffID itself."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain
