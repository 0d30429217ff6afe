"""TLS: what is trusted, and what a refusal says."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme

from cri_imaged.errors import Category, ConfigError, RegistryError
from tests.registry.conftest import Certificates
from tests.registry.helpers import REPOSITORY, client, resolve, write_hosts
from tests.support.registry import FaultRegistry


def trust(root: Path, registry: FaultRegistry, certificates: Certificates, more: str = "") -> None:
    text = f'server = "{registry.url}"\nca = "{certificates.ca_file}"\n{more}'
    write_hosts(root, registry.authority, text)


async def test_an_authority_of_hosts_toml(certificates: Certificates, tmp_path: Path) -> None:
    async with FaultRegistry(tls=certificates.server()) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        trust(tmp_path, registry, certificates)
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_dockers_layout_of_certificates(certificates: Certificates, tmp_path: Path) -> None:
    async with FaultRegistry(tls=certificates.server(want_client=True)) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        folder = tmp_path / registry.authority
        folder.mkdir()
        (folder / "ca.crt").write_bytes(certificates.ca_file.read_bytes())
        leaf = certificates.authority.issue_cert("node@example.org")
        leaf.cert_chain_pems[0].write_to_path(str(folder / "client.cert"))
        leaf.private_key_pem.write_to_path(str(folder / "client.key"))
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


@pytest.mark.parametrize("apart", [True, False])
async def test_client_certificates(certificates: Certificates, tmp_path: Path, apart: bool) -> None:
    leaf = certificates.authority.issue_cert("node@example.org")
    if apart:
        leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "c.pem"))
        leaf.private_key_pem.write_to_path(str(tmp_path / "k.pem"))
        pair = f'client = [["{tmp_path / "c.pem"}", "{tmp_path / "k.pem"}"]]'
    else:
        leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
        pair = f'client = "{tmp_path / "both.pem"}"'
    async with FaultRegistry(tls=certificates.server(want_client=True)) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        trust(tmp_path, registry, certificates, pair)
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_a_server_that_wants_a_client_certificate_and_gets_none(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with FaultRegistry(tls=certificates.server(want_client=True)) as registry:
        trust(tmp_path, registry, certificates)
        async with client(config_path=tmp_path) as opened:
            with pytest.raises(RegistryError) as caught:
                await resolve(opened, registry)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert registry.seen == []


async def refusal(registry: FaultRegistry, root: Path) -> str:
    """The message of a resolve that must fail before anything is asked."""
    async with client(config_path=root) as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert len(caught.value.attempts) == 1
    assert registry.seen == []
    return str(caught.value)


async def test_an_unknown_authority(certificates: Certificates, tmp_path: Path) -> None:
    async with FaultRegistry(tls=certificates.server()) as registry:
        write_hosts(tmp_path, registry.authority, f'server = "{registry.url}"')
        assert "signed by an unknown authority" in await refusal(registry, tmp_path)


@pytest.mark.parametrize("which", ["intermediate", "the server's own"])
@pytest.mark.parametrize("sends_chain", [True, False])
async def test_each_certificate_of_ca_is_an_anchor(
    certificates: Certificates, tmp_path: Path, which: str, sends_chain: bool
) -> None:
    intermediate = certificates.authority.create_child_ca()
    leaf = intermediate.issue_cert("127.0.0.1")
    anchor = intermediate.cert_pem if which == "intermediate" else leaf.cert_chain_pems[0]
    anchor.write_to_path(str(tmp_path / "anchor.pem"))
    chain = leaf.cert_chain_pems if sends_chain else leaf.cert_chain_pems[:1]
    for pem in (leaf.private_key_pem, *chain):
        pem.write_to_path(str(tmp_path / "server.pem"), append=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")
    async with FaultRegistry(tls=context) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        text = f'server = "{registry.url}"\nca = "{tmp_path / "anchor.pem"}"'
        write_hosts(tmp_path, registry.authority, text)
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "block",
    [
        "-----BEGIN CERTIFICATE-----\nMIIBgarbage\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
        "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n",
        "no PEM \u00e9\n",
    ],
    ids=["malformed", "no base64", "revocations", "text"],
)
async def test_what_is_no_certificate_in_a_bundle_is_passed_over(
    certificates: Certificates, tmp_path: Path, block: str, before: bool
) -> None:
    good = certificates.ca_file.read_text()
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(block + good if before else good + block)
    async with FaultRegistry(tls=certificates.server()) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, registry.authority, f'server = "{registry.url}"\nca = "{bundle}"\n')
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_a_certificate_that_signed_itself(certificates: Certificates, tmp_path: Path) -> None:
    other = trustme.CA()
    leaf = other.issue_cert("127.0.0.1")
    async with FaultRegistry(tls=certificates.server(leaf)) as registry:
        trust(tmp_path, registry, certificates)
        assert "signed by an unknown authority" in await refusal(registry, tmp_path)


@pytest.mark.parametrize("name", ["registry.example", "127.0.0.2"])
async def test_another_name(certificates: Certificates, tmp_path: Path, name: str) -> None:
    leaf = certificates.authority.issue_cert(name)
    async with FaultRegistry(tls=certificates.server(leaf)) as registry:
        trust(tmp_path, registry, certificates)
        message = await refusal(registry, tmp_path)
        assert f"not valid for the name {registry.authority}" in message


@pytest.mark.parametrize(
    ("days", "words"), [((-20, -10), "has expired"), ((10, 20), "is not yet valid")]
)
async def test_another_time(
    certificates: Certificates, tmp_path: Path, days: tuple[int, int], words: str
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    leaf = certificates.authority.issue_cert(
        "127.0.0.1",
        not_before=now + datetime.timedelta(days=days[0]),
        not_after=now + datetime.timedelta(days=days[1]),
    )
    async with FaultRegistry(tls=certificates.server(leaf)) as registry:
        trust(tmp_path, registry, certificates)
        assert words in await refusal(registry, tmp_path)


async def test_skip_verify(certificates: Certificates, tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("somebody.example")
    async with FaultRegistry(tls=certificates.server(leaf)) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, registry.authority, f'server = "{registry.url}"\nskip_verify = true')
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_loopback_may_show_any_certificate_or_none(certificates: Certificates) -> None:
    async with (
        FaultRegistry(tls=certificates.server()) as secure,
        FaultRegistry() as plain,
        client() as opened,
    ):
        for registry in (secure, plain):
            image = registry.add_image(REPOSITORY, "latest")
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_https_that_was_configured_never_becomes_http(tmp_path: Path) -> None:
    async with FaultRegistry() as registry:
        registry.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, registry.authority, f'server = "https://{registry.authority}"')
        async with client(config_path=tmp_path) as opened:
            with pytest.raises(RegistryError, match="TLS handshake with"):
                await resolve(opened, registry)
        assert registry.seen == []


async def test_http_with_tls_settings_speaks_both(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with FaultRegistry(tls=certificates.server()) as secure, FaultRegistry() as plain:
        for registry in (secure, plain):
            image = registry.add_image(REPOSITORY, "latest")
            text = f'server = "http://{registry.authority}"\nskip_verify = true'
            write_hosts(tmp_path, registry.authority, text)
            async with client(config_path=tmp_path) as opened:
                assert (await resolve(opened, registry)).descriptor == image.manifest


@pytest.mark.parametrize(
    ("field", "content", "problem"),
    [
        ("ca", None, "cannot be read"),
        ("ca", "nothing", "no PEM certificate"),
        ("client", "nothing", "no client certificate"),
    ],
)
async def test_unusable_files_are_named(
    tmp_path: Path, field: str, content: str | None, problem: str
) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    write_hosts(tmp_path, "registry.invalid", f'{field} = "{file}"')
    async with client(config_path=tmp_path) as opened:
        with pytest.raises(ConfigError, match=rf"file\.pem.*{problem}"):
            await resolve(opened, "registry.invalid")


async def test_a_directory_as_an_authority_is_named(tmp_path: Path) -> None:
    write_hosts(tmp_path, "registry.invalid", 'ca = ""')
    async with client(config_path=tmp_path) as opened:
        with pytest.raises(ConfigError, match=r"registry\.invalid: cannot be read: Is a directory"):
            await resolve(opened, "registry.invalid")


@pytest.mark.parametrize("cipher", ["ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA"])
async def test_a_server_with_old_ciphers_alone(
    certificates: Certificates, tmp_path: Path, cipher: str
) -> None:
    kind = trustme.KeyType.RSA if "RSA" in cipher else trustme.KeyType.ECDSA
    leaf = certificates.authority.issue_cert("127.0.0.1", key_type=kind)
    context = certificates.server(leaf)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)
    async with FaultRegistry(tls=context) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        trust(tmp_path, registry, certificates)
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_an_authority_that_is_replaced_is_read_again(
    certificates: Certificates, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    async with FaultRegistry(tls=certificates.server()) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, registry.authority, f'server = "{registry.url}"\nca = "{file}"')
        async with client(config_path=tmp_path) as opened:
            with pytest.raises(RegistryError, match="unknown authority"):
                await resolve(opened, registry)
            file.write_bytes(certificates.ca_file.read_bytes() + b"\n")
            assert (await resolve(opened, registry)).descriptor == image.manifest
