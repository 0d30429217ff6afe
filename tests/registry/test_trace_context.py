"""A pull's trace (W3C Trace Context) is told to the hosts that are configured for it, and to no
other."""

from __future__ import annotations

from pathlib import Path

from cri_imaged.ports import Activity
from tests.registry.helpers import REPOSITORY, client, noise, read, reference, write_hosts
from tests.support.images import MANIFEST, image, layer
from tests.support.registry import BLOB, BearerAuth, FaultRegistry, redirect, status

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def told(registry: FaultRegistry) -> list[str]:
    """What each request has said."""
    return [seen.headers.get("traceparent", "") for seen in registry.seen]


async def test_only_the_hosts_that_are_configured_for_it_hear_of_it(tmp_path: Path) -> None:
    made = image(layer({}))
    async with FaultRegistry() as mirror, FaultRegistry(auth=BearerAuth()) as registry:
        mirror.faults.append(status(500))
        registry.add_manifest(REPOSITORY, "latest", MANIFEST, made.manifest)
        write_hosts(
            tmp_path,
            registry.authority,
            f'server = "http://{registry.authority}"\ntrace_context = true\n'
            f'[host."http://{mirror.authority}"]\n',
        )
        async with client(config_path=tmp_path) as opened:
            activity = Activity(PARENT)
            await opened.resolve(reference(registry), None, activity=activity)
            await opened.resolve(reference(registry), None)
        assert set(told(mirror)) == {""}
        asked = [seen for seen in registry.seen if seen.kind == "manifest"]
        assert [seen.headers.get("traceparent", "") for seen in asked] == [PARENT, PARENT, ""]
        tokens = [seen for seen in registry.seen if seen.kind == "token"]
        assert tokens
        assert all("traceparent" not in seen.headers for seen in tokens)


async def test_a_redirects_target_does_not_hear_of_it(tmp_path: Path) -> None:
    blob = noise(1000)
    async with FaultRegistry() as elsewhere, FaultRegistry() as registry:
        descriptor = registry.add_blob(blob)
        elsewhere.add_blob(blob)
        target = f"{elsewhere.url}/v2/x/blobs/{descriptor.digest}"
        registry.faults.append(redirect(target, where=BLOB))
        made = image(layer({}))
        registry.add_manifest(REPOSITORY, "latest", MANIFEST, made.manifest)
        hosts = f'server = "http://{registry.authority}"\ntrace_context = true\n'
        write_hosts(tmp_path, registry.authority, hosts)
        async with client(config_path=tmp_path) as opened:
            resolved = await opened.resolve(reference(registry), None, activity=Activity(PARENT))
            await read(resolved.fetcher, descriptor)
        assert set(told(registry)) == {PARENT}
        assert set(told(elsewhere)) == {""}
