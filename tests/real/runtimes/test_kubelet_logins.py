"""A real kubelet with a credential provider, and a daemon with the same one: both ask it alike, and
a pod whose image has a name that only the daemon knows is pulled once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.conftest import Scratch
from tests.real.runtimes.conftest import Pushed
from tests.real.runtimes.test_kubelet import FOREVER, output
from tests.support.credential_provider import Provider, entry, write_config
from tests.support.docker_registry import DockerRegistry
from tests.support.kubelet import Kubelet
from tests.support.node import Node
from tests.support.process import wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def kubelet_and_node(
    scratch: Scratch, pause: str, private_registry: DockerRegistry
) -> Iterator[tuple[Kubelet, Provider, Node, Provider]]:
    """Each with a provider of its own, which do alike."""
    folder, login, host = scratch("providers"), private_registry.login, private_registry.host
    assert login is not None
    config = write_config(folder / "config.yaml", entry("plugin", [host]))
    theirs, ours = (
        Provider(folder / name, username=login.username, password=login.password)
        for name in ("theirs", "ours")
    )
    for provider in (theirs, ours):
        provider.gives(host)
    options = (
        f'[image.registry]\ncredential_provider_config = "{config}"\n'
        f'credential_provider_bin_dir = "{ours.folder}"\n'
        f'[image.registry.aliases]\napp = "{host}/team/app"\n'
    )
    arguments = (
        f"--image-credential-provider-config={config}",
        f"--image-credential-provider-bin-dir={theirs.folder}",
    )
    with (
        Node(scratch("node"), pause, image_options=options) as node,
        Kubelet(
            scratch("kubelet"), node.containerd.socket, node.daemon.socket, arguments=arguments
        ) as kubelet,
    ):
        yield kubelet, theirs, node, ours


def test_both_ask_alike_and_an_alias_is_pulled_once(
    kubelet_and_node: tuple[Kubelet, Provider, Node, Provider],
    app: Pushed,
    private_registry: DockerRegistry,
) -> None:
    kubelet, theirs, node, ours = kubelet_and_node
    whole = private_registry.push(app.image, "team/app:1")
    command = ("/bin/sh", "-c", f"cat /srv/text; {FOREVER}")

    def run(pod: str, name: str, policy: str = "IfNotPresent") -> None:
        kubelet.run(pod, name, *command, container={"imagePullPolicy": policy})
        wait_until(lambda: output(kubelet, pod) == "hello\n", f"{pod} prints", kubelet.process)

    # The kubelet takes this name for Docker Hub's, and has no login for it.
    run("alias", "app:1")
    assert theirs.questions == []
    assert ours.asked == [f"{private_registry.host}/team/app"]
    run("again", "app:1")
    ended = [line for line in node.daemon.log_lines() if line["event"] == "pull ended"]
    assert [line["reference"] for line in ended if "pause" not in line["reference"]] == [whole]
    # By its whole name the kubelet has a login, and hands it over: ours is not asked again.
    run("whole", whole, "Always")
    assert len(ours.questions) == 1
    assert theirs.questions == ours.questions
