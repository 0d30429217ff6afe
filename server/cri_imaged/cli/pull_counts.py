"""How often images were pulled, beside what else is shown of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import grpc

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon
from cri_imaged.cli.output import counted, size, time
from cri_imaged.rpc.node.v1 import history_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2


async def pull_counts(daemon: Daemon, image: str = "") -> list[history_pb2.PullCount]:
    """Those of an image, or of all."""
    request = history_pb2.CountPullsRequest(image=image)
    try:
        answer = await daemon.history.CountPulls(request, timeout=ANSWER_SECONDS)
    except grpc.aio.AioRpcError:
        return []  # an older daemon must keep nobody from what he asked for
    return list(answer.counts)


def counts_of(
    image: api_pb2.Image, counts: Iterable[history_pb2.PullCount]
) -> list[history_pb2.PullCount]:
    """Those of one image, for its runtime handler."""
    known = (image.id.rpartition(":")[2], image.spec.runtime_handler)
    return [
        each for each in counts if (each.image_id.rpartition(":")[2], each.runtime_handler) == known
    ]


def sentences(counts: Sequence[history_pb2.PullCount]) -> list[str]:
    """One for each name: `NAME 3 times, of which 1 fetched 2.0 MiB, first …, last …`."""
    return [
        f"{each.reference} {counted(each.pulls, 'time')}, {each.fetched} fetched "
        f"{size(each.bytes)}, first {time(each.first)}, last {time(each.last)}"
        for each in counts
    ]
