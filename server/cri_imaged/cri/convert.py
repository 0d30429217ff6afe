"""Between the services' messages and the domain's values."""

from __future__ import annotations

from dataclasses import asdict

from cri_imaged.images.check import Event, Problem, Progress, Summary
from cri_imaged.images.store import Image
from cri_imaged.images.usage import FilesystemUsage
from cri_imaged.ports import Credentials
from cri_imaged.rpc.node.v1 import node_pb2 as node
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri


def image_message(image: Image) -> cri.Image:
    """An image as ListImages and ImageStatus show it."""
    uid, username = user_of(image.record.user)
    return cri.Image(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.record.size,
        uid=None if uid is None else cri.Int64Value(value=uid),
        username=username,
        spec=cri.ImageSpec(image=image.id, runtime_handler=image.record.handler),
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
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
        server_address=auth.server_address,
    )


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
        case Problem():
            return node.CheckStoreResponse(problem=node.CheckProblem(**asdict(event)))
        case Summary():
            return node.CheckStoreResponse(summary=node.CheckSummary(**asdict(event)))
