"""What the user of an image that was pulled all the same should know."""

from __future__ import annotations

from dataclasses import asdict

from cri_imaged.images.pull.select import misfit
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config
from cri_imaged.oci.platform import Platform
from cri_imaged.ports import Skipped, Snapshotter


async def warnings_of(
    config: Config, wanted: Platform, snapshotter: Snapshotter | None, chain_id: Digest | None
) -> tuple[str, ...]:
    """Sentences on an image that was pulled for `wanted` and unpacked to `chain_id`."""
    found = []
    other = misfit(config, wanted)
    if other is not None:
        found.append(f"its config is for {other}, it was pulled for {wanted}")
    if snapshotter is not None and chain_id is not None:
        lacking = _lacking(await snapshotter.skipped(chain_id))
        if lacking:
            found.append(f"its root file system lacks {lacking}: not permitted or supported here")
    return tuple(found)


def _lacking(skipped: Skipped) -> str:
    """`12 owners, 1 device`, or nothing."""
    counts = {kind: count for kind, count in asdict(skipped).items() if count}
    return ", ".join(
        f"{count} {kind.removesuffix('s') if count == 1 else kind}"
        for kind, count in counts.items()
    )
