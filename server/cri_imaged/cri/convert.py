"""Between the services' messages and the domain's values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict

from cri_imaged.images.health.problems import Event, Progress, Summary
from cri_imaged.images.store import Image
from cri_imaged.images.usage import FilesystemUsage
from cri_imaged.obs.tracing import Origin
from cri_imaged.ports import Credentials
from cri_imaged.rpc.node.v1 import node_pb2 as node
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?:-.*)?"
)
_POD_CHARACTERS = 520
"""Two DNS names and what is between them: Kubernetes has no longer ones."""


def image_message(image: Image, shown_id: str) -> cri.Image:
    """An image as ListImages and ImageStatus show it, under the ID that the clients know."""
    uid, username = user_of(image.record.user)
    return cri.Image(
        id=shown_id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.record.size,
        uid=None if uid is None else cri.Int64Value(value=uid),
        username=username,
        spec=cri.ImageSpec(image=shown_id, runtime_handler=image.record.handler),
        pinned=image.pinned,
    )


def user_of(user: str) -> tuple[int | None, str]:
    """A config's `User` as CRI wants it: what stands before a colon, as a number where it is one,
    else as a name."""
    name = user.partition(":")[0]
    if not name:
        return None, ""
    if name.isascii() and name.isdecimal() and int(name) < 1 << 63:
        return int(name), ""
    return None, name


def credentials_of(auth: cri.AuthConfig) -> Credentials | None:
    """An AuthConfig's credentials, as they are. None where it has none."""
    if not any((auth.username, auth.password, auth.auth, auth.identity_token, auth.registry_token)):
        return None
    return Credentials(
        username=auth.username,
        password=auth.password,
        auth=auth.auth,
        identitytoken=auth.identity_token,
        registrytoken=auth.registry_token,
        server_address=auth.server_address,
    )


def pod_of(sandbox: cri.PodSandboxConfig) -> str:
    """`namespace/name` of the pod that an image is pulled for; empty where it is not said."""
    pod = sandbox.metadata
    return f"{pod.namespace}/{pod.name}"[:_POD_CHARACTERS] if pod.name else ""


def trace_of(metadata: Iterable[tuple[str, str | bytes]]) -> Origin | None:
    """A client's trace (W3C Trace Context, `traceparent`); None where it sends none, or no valid
    one."""
    found = _TRACEPARENT.fullmatch(str(dict(metadata).get("traceparent", "")))
    if not found or not int(found["trace"], 16) or not int(found["span"], 16):
        return None
    return Origin(found["trace"], found["span"], bool(int(found["flags"], 16) & 1))


def usage_message(entry: FilesystemUsage) -> cri.FilesystemUsage:
    """One entry of ImageFsInfo."""
    return cri.FilesystemUsage(
        timestamp=entry.measured,
        fs_id=cri.FilesystemIdentifier(mountpoint=str(entry.mountpoint)),
        used_bytes=cri.UInt64Value(value=entry.usage.bytes),
        inodes_used=cri.UInt64Value(value=entry.usage.inodes),
    )


def event_message(event: Event) -> node.CheckStoreResponse:
    """What a check tells, as the Node service says it."""
    match event:
        case Progress():
            return node.CheckStoreResponse(progress=node.CheckProgress(**asdict(event)))
        case Summary():
            return node.CheckStoreResponse(summary=node.CheckSummary(**asdict(event)))
    problem = node.CheckProblem(
        kind=event.kind,
        subject=event.subject,
        description=event.description,
        images=event.images,
        repaired=event.repaired,
    )
    return node.CheckStoreResponse(problem=problem)
