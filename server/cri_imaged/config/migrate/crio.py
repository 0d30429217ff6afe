"""CRI-O's `crio.conf` and its drop-ins: the table `[crio.image]`, and the names of its runtimes."""

from __future__ import annotations

from cri_imaged.config.migrate.hosts import Endpoint
from cri_imaged.config.migrate.migration import Source

_WHY = {
    "signature_policy": "see image verification in docs/configuration.md",
    "signature_policy_dir": "see image verification in docs/configuration.md",
    "pause_image_auth_file": "put that login into image.registry.docker_config",
}
_CARRIED = ("pause_image", "global_auth_file", "pinned_images", "insecure_registries")


def read(source: Source) -> None:
    """Read it. What concerns containers stays with CRI-O and is not listed."""
    image = source.inner("crio", "image")
    image.carry("pause_image", "image", "pinned_images", "sandbox")
    image.carry("global_auth_file", "image", "registry", "docker_config")
    image.carry("pull_progress_timeout", "image", "image_pull_progress_timeout")
    for number, name in enumerate(image.strings("pinned_images"), 1):
        image.migration.set(("image", "pinned_images", f"crio-{number}"), name)
    for name in image.strings("insecure_registries"):
        if "/" in name:
            image.leave("insecure_registries", f"{name} is a network: name the registries in it")
            continue
        hosts = image.migration.registry(name)
        hosts.mirrors.append(Endpoint(f"https://{name}", tls={"skip_verify": True}))
        hosts.server = Endpoint(f"http://{name}")
    for handler, _ in source.inner("crio", "runtime", "runtimes").tables():
        image.migration.set(("image", "runtime_platforms", handler, "snapshotter"), "")
    for key in image.table:
        if key not in (*_CARRIED, "pull_progress_timeout"):
            image.leave(key, _WHY.get(key, "has no counterpart here"))
