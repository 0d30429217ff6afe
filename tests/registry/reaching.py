"""A network of its own, with public and other addresses, in which registries lead to other
addresses: `python -m tests.registry.reaching CASES`, a JSON list of [from, to, how], prints for
each whether the other one was asked and what was said."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

from cri_imaged.errors import ImagedError
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.registry.retry import RetryPolicy
from tests.registry.helpers import REPOSITORY, client, read, resolve, write_hosts
from tests.support.registry import BLOB, BearerAuth, FaultRegistry, redirect

ONCE = RetryPolicy(tries=1, seconds=20.0)
ADDRESSES = ("93.184.216.34", "93.184.216.35", "10.1.2.3", "169.254.169.254")


async def lead(source: str, target: str, how: str, hosts: Path) -> tuple[bool, str]:
    """`how`: by redirect, realm or foreign layer."""
    async with FaultRegistry(address=source) as registry, FaultRegistry(address="0.0.0.0") as other:
        data = b"layer"
        blob = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        other.share(registry)
        there = f"http://{target}:{other.port}"
        write_hosts(hosts, registry.authority, f'server = "{registry.url}"')
        if how == "redirect":
            registry.faults.append(redirect(f"{there}/v2/x/blobs/{blob.digest}", where=BLOB))
        elif how == "realm":
            other.auth = registry.auth = BearerAuth(realm=f"{there}/token")
        else:
            urls = (f"{there}/v2/x/blobs/{blob.digest}",)
            blob = Descriptor(media_types.OCI_FOREIGN_LAYER, blob.digest, blob.size, urls=urls)
            registry.blobs = {}
        said = "fetched"
        async with client(config_path=hosts, policy=ONCE) as opened:
            try:
                assert await read((await resolve(opened, registry)).fetcher, blob) == data
            except ImagedError as error:
                said = str(error)
        return bool(other.seen), said


async def lead_all(cases: list[tuple[str, str, str]]) -> list[tuple[bool, str]]:
    with tempfile.TemporaryDirectory() as hosts:
        return [await lead(*case, Path(hosts)) for case in cases]


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in ADDRESSES:
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    print(json.dumps(uvloop.run(lead_all(json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
