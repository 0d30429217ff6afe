"""A short name of the configuration, from the pull to the removal."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.real.conftest import Scratch
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, image, layer

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def aliased(scratch: Scratch, private_registry: DockerRegistry) -> Iterator[Daemon]:
    """A daemon for which `app` is a repository of the private registry."""
    private_registry.push(image(layer({"a": file("a")})), "team/app:1")
    options = f'[image.registry.aliases]\napp = "{private_registry.host}/team/app"'
    with Daemon(scratch("aliases"), snapshotter="native", image_options=options) as running:
        yield running


def test_what_is_pulled_by_an_alias_is_found_by_it(
    aliased: Daemon, private_registry: DockerRegistry
) -> None:
    login = private_registry.login
    assert login is not None
    given = {"username": login.username, "password": login.password}
    pulled = aliased.pull("app:1", server_address=private_registry.host, **given)
    whole = f"{private_registry.host}/team/app:1"
    for name in ("app:1", whole):
        found = aliased.image(name)
        assert found is not None
        assert (found.id, list(found.repo_tags)) == (pulled, [whole])
    assert whole in aliased.cli("inspect", "app:1").stdout
    assert "1" in aliased.cli("pulls", "--of", "app:1").stdout
    aliased.cli("pin", "app:1")
    aliased.cli("unpin", whole)
    aliased.remove("app:1")
    assert aliased.image(whole) is None


def test_a_pull_secret_that_was_looked_up_for_docker_hub_is_not_shown_to_the_alias_registry(
    aliased: Daemon, private_registry: DockerRegistry
) -> None:
    login = private_registry.login
    assert login is not None
    with pytest.raises(grpc.RpcError, match="no credentials were given"):
        aliased.pull("app:1", username=login.username, password=login.password)


def test_an_alias_changes_with_the_configuration(
    aliased: Daemon, private_registry: DockerRegistry
) -> None:
    login = private_registry.login
    assert login is not None
    whole = f"{private_registry.host}/team/app:1"
    pulled = aliased.pull(whole, username=login.username, password=login.password)
    aliased.config.write_text(aliased.config.read_text().replace("app = ", "other = "))
    assert "image.registry.aliases" in aliased.cli("config", "reload").stdout
    found = aliased.image("other:1")
    assert found is not None
    assert found.id == pulled
    assert aliased.image("app:1") is None
