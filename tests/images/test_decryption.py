"""Who may decrypt an image's layers may pull it, and nobody else may use what was decrypted."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_imaged.config.options import DecryptionOptions
from cri_imaged.config.values import Directory, FilePath
from cri_imaged.decryption.decrypter import NodeDecrypter
from cri_imaged.disk import THREADS, on_disk
from cri_imaged.errors import (
    Category,
    ConfigError,
    CorruptContentError,
    NotDecryptableError,
    RegistryError,
)
from cri_imaged.layers.decode.decoder import Encoded
from cri_imaged.layers.decode.table import decoder_of
from cri_imaged.limits import Limits
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.rpc.ocicrypt.keyprovider import keyprovider_pb2, keyprovider_pb2_grpc
from tests.images.gated import GatedRegistry
from tests.images.workbench import REPOSITORY, Bench, image_of, layer, until
from tests.images.workbench import serve as serve_clear
from tests.support import encryption, images
from tests.support.encryption import JWE, PROVIDER, Encrypted, Recipient, encrypt, recipient
from tests.support.registry import BLOB


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    return folder


@asynccontextmanager
async def node(
    root: Path,
    registry: GatedRegistry,
    keys: Path,
    providers: Path | None = None,
    limits: Limits | None = None,
    trust_store: bool = False,
    **options: Any,
) -> AsyncIterator[Bench]:
    decryption = DecryptionOptions(
        keys_path=Directory(keys),
        keyprovider_config=FilePath(providers or root / "none"),
        **options,
    )
    async with Bench.open(
        root, registry, image_decryption=decryption, limits=limits, trust_store=trust_store
    ) as bench:
        yield bench


def serve(
    registry: GatedRegistry,
    *layers: tuple[images.Layer, Encrypted, dict[str, str]],
    tag: str = "latest",
) -> images.Image:
    """An image of layers, what they are encrypted to, and the annotations with their keys."""
    image = image_of(*(clear for clear, _, _ in layers))
    described = [(made.blob, made.descriptor(**notes)) for _, made, notes in layers]
    encryption.serve(registry, REPOSITORY, tag, image, described)
    return image


def one(registry: GatedRegistry, *to: Recipient, clear: images.Layer | None = None) -> None:
    """An image of one layer, encrypted for these."""
    clear = clear or layer(1)
    made = encrypt(clear)
    serve(registry, (clear, made, {JWE: ",".join(each.wrap(made.private) for each in to)}))


async def refused(bench: Bench) -> str:
    with pytest.raises(NotDecryptableError) as error:
        await bench.pull()
    assert error.value.category is Category.PERMISSION_DENIED
    return str(error.value)


# --- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "compression", "hide"),
    [("rsa", "gzip", "private"), ("ec", "zstd", "public"), ("ec", "none", "private")],
)
async def test_a_private_key_decrypts_layers(
    tmp_path: Path,
    registry: GatedRegistry,
    keys: Path,
    kind: str,
    compression: images.Compression,
    hide: str,
) -> None:
    ours, clear = recipient(keys, "ours.pem", kind), layer(1, compression=compression)
    recipient(keys, "another.pem", kind)
    made, big = encrypt(clear, hide=hide), layer(2, 3_000_000)
    large = encrypt(big)
    image = serve(
        registry,
        (clear, made, {JWE: ours.wrap(made.private)}),
        (big, large, {JWE: ours.wrap(large.private)}),
    )
    async with node(tmp_path / "root", registry, keys) as bench:
        pulled = await bench.pull()
        assert (await bench.tree(pulled.image.id))["top"] == b"2"
        async with Bench.open(tmp_path / "clear", registry) as other:
            serve_clear(registry, image, "clear")
            same = await other.pull("clear")
            assert await bench.tree(pulled.image.id) == await other.tree(same.image.id)


async def test_the_error_names_the_recipients_and_nothing_is_fetched(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    clear = layer(1)
    made = encrypt(clear)
    wrapped = [recipient(elsewhere, kind, kind).wrap(made.private) for kind in ("rsa", "ec")]
    notes = {
        JWE: ",".join(wrapped),
        PROVIDER + "vault": "AAAA",
        "org.opencontainers.image.enc.keys.pkcs7": "AAAA",
    }
    serve(registry, (clear, made, notes))
    recipient(keys, "wrong.pem")
    async with node(tmp_path / "root", registry, keys) as bench:
        message = await refused(bench)
        assert f"layer {images.sha256(made.blob)}: it is encrypted for " in message
        assert "jwe (RSA-OAEP, ECDH-ES+A256KW); pkcs7; provider.vault" in message
        assert f"tried 1 keys in {keys}" in message
        assert "provider.vault is not in image.image_decryption.keyprovider_config" in message
        assert "pkcs7 is not supported" in message
        assert [seen for seen in registry.gets(BLOB) if images.sha256(made.blob) in seen.path] == []
        (keys / "wrong.pem").unlink()
        assert f"tried 0 keys in {keys}" in await refused(bench)
    async with node(tmp_path / "other", registry, keys / "missing") as bench:
        assert f"tried 0 keys in {keys}" in await refused(bench)


async def test_a_pull_without_the_key_of_what_is_here_fails(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    one(registry, recipient(keys, "ours.pem"))
    async with node(tmp_path / "root", registry, keys) as bench:
        first = await bench.pull()
        (keys / "ours.pem").rename(tmp_path / "away.pem")
        assert "it is encrypted for jwe (RSA-OAEP)" in await refused(bench)
        assert bench.parts.store.get(bench.name()).id == first.image.id
        (tmp_path / "away.pem").rename(keys / "ours.pem")
        await bench.pull()


async def test_a_stranger_cannot_claim_what_was_decrypted(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    """Who names the same layers, decrypted, has to have them."""
    clear = layer(1)
    one(registry, recipient(keys, "ours.pem"), clear=clear)
    async with node(tmp_path / "root", registry, keys) as bench:
        await bench.pull()
        await bench.pull()
        snapshots = len(bench.rows("SELECT * FROM snapshots"))
        serve_clear(registry, image_of(clear), "claim")
        registry.blobs.pop(images.sha256(clear.blob))
        with pytest.raises(RegistryError, match="cannot fetch"):
            await bench.pull("claim")
        assert len(bench.rows("SELECT * FROM snapshots")) == snapshots


@pytest.mark.parametrize("trust_store", [False, True])
async def test_a_wrong_key_that_was_wrapped_for_this_node_gives_nothing_that_is_here(
    tmp_path: Path, registry: GatedRegistry, keys: Path, trust_store: bool
) -> None:
    """Anybody can wrap a key of his own for a node, and name somebody else's blob beside it."""
    ours, clear = recipient(keys, "ours.pem"), layer(1)
    made, other = encrypt(clear), encrypt(clear)
    serve(registry, (clear, made, {JWE: ours.wrap(made.private)}))
    claim = replace(other, blob=made.blob)
    image = serve(registry, (clear, claim, {JWE: ours.wrap(other.private)}), tag="claim")
    async with node(tmp_path / "root", registry, keys, trust_store=trust_store) as bench:
        pulled = await bench.pull()
        assert pulled.image.id == images.sha256(image.config)
        with pytest.raises(CorruptContentError, match="its HMAC differs"):
            await bench.pull("claim")
        await bench.pull()


async def test_a_pass_phrase_is_in_a_file_beside_its_key(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    phrase = "s3cr3t phrase"
    one(registry, recipient(keys, "ours.pem", pass_phrase=phrase))
    async with node(tmp_path / "root", registry, keys) as bench:
        assert "ours.pem: needs a pass-phrase" in await refused(bench)
        (keys / "ours.pem.pass").write_text("\n")
        assert "ours.pem: needs a pass-phrase" in await refused(bench)
        (keys / "ours.pem.pass").write_text("another")
        assert "ours.pem: its pass-phrase is wrong" in await refused(bench)
        (keys / "ours.pem.pass").write_text(f"{phrase}\n")
        await bench.pull()
        (keys / "ours.pem.pass").rename(keys / "ours.pass")
        await bench.pull()


async def test_files_that_are_no_keys_are_told_and_hinder_nothing(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    (keys / "a.txt").write_text("nothing")
    (keys / "folder").mkdir()
    elsewhere, ours = tmp_path / "elsewhere", recipient(keys, "ours.pem")
    one(registry, recipient(elsewhere, "theirs.pem"))
    async with node(tmp_path / "root", registry, keys) as bench:
        assert "a.txt: it is no private key in PEM or DER" in await refused(bench)
        one(registry, ours)
        await bench.pull()


async def test_decryption_can_be_turned_off(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    one(registry, recipient(keys, "ours.pem"))
    async with node(tmp_path / "root", registry, keys, key_model="") as bench:
        assert "image.image_decryption.key_model is off" in await refused(bench)


# --- what strangers write --------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_a_changed_byte_is_found(
    tmp_path: Path, registry: GatedRegistry, keys: Path, compression: images.Compression
) -> None:
    """Though the registry serves it under its own digest."""
    ours, clear = recipient(keys, "ours.pem"), layer(1, compression=compression)
    made = encrypt(clear, change=b"x" * 9)
    serve(registry, (clear, made, {JWE: ours.wrap(made.private)}))
    async with node(tmp_path / "root", registry, keys) as bench:
        with pytest.raises(CorruptContentError, match="its HMAC differs"):
            await bench.pull()
        assert bench.shown() == set()


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({}, "it has no wrapped key"),
        ({JWE: "?"}, "no Base64"),
        ({JWE: "AAAA"}, "it is encrypted for jwe"),
        ({JWE: base64.b64encode(b'{"recipients":[1,{}],"protected":1}').decode()}, "jwe"),
        ({JWE: base64.b64encode(b"[" * 100_000).decode()}, "it is encrypted for jwe"),
        ({JWE: "good", encryption.PUBLIC: "AAAA"}, "pubopts is malformed"),
        ({JWE: "good", encryption.PUBLIC: ""}, "pubopts is malformed"),
        ({JWE: "good", encryption.PUBLIC: "eyJjaXBoZXIiOiJST1QxMyIsImhtYWMiOiIifQ=="}, "'ROT13'"),
        ({JWE: "empty"}, "its wrapped key is malformed"),
        ({JWE: "short"}, "key, nonce and HMAC have 1, 0 and 32 bytes"),
    ],
)
async def test_malformed_annotations_are_told(
    tmp_path: Path, registry: GatedRegistry, keys: Path, notes: dict[str, str], message: str
) -> None:
    ours, clear = recipient(keys, "ours.pem"), layer(1)
    made = encrypt(clear)
    wrapped = {
        "good": made.private,
        "empty": b"{}",
        "short": json.dumps({"symkey": "AA=="}).encode(),
    }
    if private := wrapped.get(notes.get(JWE, "")):
        notes = {**notes, JWE: ours.wrap(private)}
    serve(registry, (clear, made, notes))
    async with node(tmp_path / "root", registry, keys) as bench:
        with pytest.raises((CorruptContentError, NotDecryptableError), match=message):
            await bench.pull()


async def test_the_error_is_short_whatever_a_stranger_writes(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    clear = layer(1)
    made = encrypt(clear)
    header = {"alg": "x" * 500, "kid": "y" * 500}
    packet = json.dumps({"recipients": [{"header": header}] * 20}).encode()
    notes = {JWE: base64.b64encode(packet).decode()}
    notes |= {f"{PROVIDER}{n}{'z' * 1000}": "AAAA" for n in range(40)}
    serve(registry, (clear, made, notes))
    async with node(tmp_path / "root", registry, keys) as bench:
        assert len(await refused(bench)) < 20_000


async def test_so_many_wrapped_keys_are_tried(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    ours, theirs = recipient(keys, "ours.pem"), recipient(tmp_path / "elsewhere", "theirs.pem")
    limits = Limits(wrapped_keys=3)
    async with node(tmp_path / "root", registry, keys, limits=limits) as bench:
        one(registry, theirs, theirs, theirs, ours)
        await refused(bench)
        one(registry, theirs, theirs, ours)
        await bench.pull()


# --- key providers ---------------------------------------------------------------------------


def configured(folder: Path, **providers: object) -> Path:
    file = folder / "providers.json"
    file.write_text(json.dumps({"key-providers": providers}))
    return file


def provided(registry: GatedRegistry, name: str = "vault") -> Encrypted:
    """An image whose layer's key a provider has; the packet is its number."""
    clear = layer(1)
    made = encrypt(clear)
    packets = [base64.b64encode(each).decode() for each in (b"zero", b"one")]
    serve(registry, (clear, made, {PROVIDER + name: ",".join(packets)}))
    return made


def answer(private: bytes) -> str:
    found = base64.b64encode(private).decode()
    return json.dumps(
        {"keywrapresults": {"annotation": None}, "keyunwrapresults": {"optsdata": found}}
    )


PROGRAM = """
import base64, json, sys
question = json.load(sys.stdin)
assert question["op"] == "keyunwrap", question
assert question["keyunwrapparams"]["dc"] == {"Parameters": {}}, question
if base64.b64decode(question["keyunwrapparams"]["annotation"]) != b"one":
    sys.exit("not mine")
print(open(sys.argv[1]).read())
"""


def program(folder: Path, made: Encrypted) -> dict[str, object]:
    script, secret = folder / "provider.py", folder / "secret.json"
    script.write_text(PROGRAM)
    secret.write_text(answer(made.private))
    return {"cmd": {"path": sys.executable, "args": [str(script), str(secret)]}}


async def test_a_program_unwraps_keys(tmp_path: Path, registry: GatedRegistry, keys: Path) -> None:
    config = configured(tmp_path, vault=program(tmp_path, provided(registry)))
    async with node(tmp_path / "root", registry, keys, config) as bench:
        await bench.pull()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 3", "failed with status 3"),
        ("echo s3cr3t", "its answer is malformed"),
        ("""echo '{"keyunwrapresults":{"optsdata":null}}'""", "it found no key"),
        ("head -c 3000000 /dev/zero", "its answer is malformed"),
    ],
)
async def test_what_a_program_does_wrong_is_told_without_its_words(
    tmp_path: Path, registry: GatedRegistry, keys: Path, command: str, message: str
) -> None:
    provided(registry)
    config = configured(tmp_path, vault={"cmd": {"path": "/bin/sh", "args": ["-c", command]}})
    async with node(tmp_path / "root", registry, keys, config) as bench:
        assert f"provider.vault: {message}" in (await refused(bench)).replace("/bin/sh: ", "")


async def test_a_program_that_is_not_there_is_told(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    provided(registry)
    config = configured(tmp_path, vault={"cmd": {"path": "/nowhere/vault"}})
    async with node(tmp_path / "root", registry, keys, config) as bench:
        assert "/nowhere/vault: cannot be run: No such file" in await refused(bench)


class Service(keyprovider_pb2_grpc.KeyProviderServiceServicer):
    def __init__(self, private: bytes) -> None:
        self._private = private

    async def UnWrapKey(  # noqa: N802
        self, request: Any, context: Any
    ) -> keyprovider_pb2.keyProviderKeyWrapProtocolOutput:
        question = json.loads(request.KeyProviderKeyWrapProtocolInput)
        if base64.b64decode(question["keyunwrapparams"]["annotation"]) != b"one":
            await context.abort(grpc.StatusCode.NOT_FOUND, "s3cr3t")
        return keyprovider_pb2.keyProviderKeyWrapProtocolOutput(
            KeyProviderKeyWrapProtocolOutput=answer(self._private).encode()
        )


@asynccontextmanager
async def serving(private: bytes, credentials: Any = None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    keyprovider_pb2_grpc.add_KeyProviderServiceServicer_to_server(Service(private), server)
    port = (
        server.add_secure_port("127.0.0.1:0", credentials)
        if credentials
        else server.add_insecure_port("127.0.0.1:0")
    )
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_a_service_unwraps_keys(
    tmp_path: Path, registry: GatedRegistry, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And through no proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    made = provided(registry)
    async with serving(made.private) as address:
        config = configured(tmp_path, vault={"grpc": address})
        async with node(tmp_path / "root", registry, keys, config) as bench:
            await bench.pull()
    async with node(tmp_path / "other", registry, keys, config) as bench:
        assert f"provider.vault: {address}: answers UNAVAILABLE" in await refused(bench)


async def test_a_service_is_spoken_to_by_tls(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    import trustme

    authority = trustme.CA()
    certificate, client = authority.issue_cert("vault.example"), authority.issue_cert("node")
    files = {
        "root-ca-file": authority.cert_pem.bytes(),
        "cert-file": client.cert_chain_pems[0].bytes(),
        "key-file": client.private_key_pem.bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    tls = {name: str(tmp_path / name) for name in files}
    made = provided(registry)
    async with serving(made.private, credentials) as address:
        vault = {"grpc": address, "grpc-tls": {**tls, "server-name": "vault.example"}}
        config = configured(tmp_path, vault=vault)
        async with node(tmp_path / "root", registry, keys, config) as bench:
            await bench.pull()
        configured(tmp_path, vault={**vault, "grpc-tls": tls})
        async with node(tmp_path / "other", registry, keys, config) as bench:
            assert "answers UNAVAILABLE" in await refused(bench)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is malformed"),
        ('{"key-providers": {"vault": {"cmd": {"path": "a\\u0000"}}}}', "is malformed"),
        ('{"key-providers": {"vault": {}}}', "key provider vault has neither cmd nor grpc"),
        (
            '{"key-providers": {"vault": {"grpc": "a:1", '
            '"grpc-tls": {"insecure-skip-verify": true}}}}',
            "insecure-skip-verify is not supported",
        ),
    ],
)
async def test_a_wrong_configuration_of_providers_is_told(
    tmp_path: Path, registry: GatedRegistry, keys: Path, text: str, message: str
) -> None:
    provided(registry)
    file = tmp_path / "providers.json"
    file.write_text(text)
    async with node(tmp_path / "root", registry, keys, file) as bench:
        with pytest.raises(ConfigError, match=message) as error:
            await bench.pull()
        assert f"image.image_decryption.keyprovider_config: {file}" in str(error.value)


RECORDED = json.loads(Path(__file__).parents[1].joinpath("support/ocicrypt.json").read_text())
"""A layer that ocicrypt itself encrypted, for a private key and for the provider below."""
REVERSE = """
import base64, json, sys
packet = base64.b64decode(json.load(sys.stdin)["keyunwrapparams"]["annotation"])
found = base64.b64encode(packet.removeprefix(b"vault:")[::-1]).decode()
print(json.dumps({"keyunwrapresults": {"optsdata": found}}))
"""


@pytest.mark.parametrize("by", ["a private key", "a key provider"])
async def test_what_ocicrypt_encrypted_is_decrypted(tmp_path: Path, keys: Path, by: str) -> None:
    if by == "a private key":
        (keys / "ours.pem").write_text(RECORDED["private key"])
    vault = {"cmd": {"path": sys.executable, "args": ["-c", REVERSE]}}
    config = configured(tmp_path, **({"vault": vault} if by == "a key provider" else {}))
    blob = base64.b64decode(RECORDED["ciphertext"])
    media_type = images.LAYER + "+encrypted"
    described = Descriptor(
        media_type, Digest.of(blob), len(blob), annotations=RECORDED["annotations"]
    )
    secrets = await NodeDecrypter(keys, config, Limits()).unwrap([described])
    told = Encoded(media_type, size=len(blob), secret=secrets[described.digest])
    plain = b"".join(decoder_of(media_type).decode([blob], told, Limits()))
    assert plain.decode() == RECORDED["plaintext"]


WAITING = """
import sys
open(sys.argv[1], "w").close()
open(sys.argv[2]).close()
print(open(sys.argv[3]).read())
"""


async def test_a_private_key_is_used_while_the_disk_stands_still(
    tmp_path: Path, keys: Path
) -> None:
    """The disk stands still once all is read; the provider of the layer before waits for that."""
    begun, go, told = (tmp_path / name for name in ("begun", "go", "told"))
    os.mkfifo(go)
    slow, made = encrypt(layer(1)), encrypt(layer(2))
    told.write_text(answer(slow.private))
    command = ["-c", WAITING, str(begun), str(go), str(told)]
    config = configured(tmp_path, vault={"cmd": {"path": sys.executable, "args": command}})
    ours = recipient(keys, "ours.pem").wrap(made.private)
    wanted = [
        Descriptor(each.media_type, Digest.of(each.blob), len(each.blob), annotations=notes)
        for each, notes in (
            (slow, {**slow.annotations, PROVIDER + "vault": "AAAA"}),
            (made, {**made.annotations, JWE: ours}),
        )
    ]
    unwrapping = asyncio.create_task(NodeDecrypter(keys, config, Limits()).unwrap(wanted))
    await until(begun.exists)
    stands_still = threading.Event()
    busy = [asyncio.ensure_future(on_disk(stands_still.wait)) for _ in range(THREADS)]
    goes = os.open(go, os.O_RDWR)
    try:
        async with asyncio.timeout(30):
            assert set(await unwrapping) == {each.digest for each in wanted}
    finally:
        os.close(goes)
        stands_still.set()
        await asyncio.gather(*busy)


# --- the store's health ----------------------------------------------------------------------


async def test_what_was_decrypted_is_checked_and_made_anew_with_its_key(
    tmp_path: Path, registry: GatedRegistry, keys: Path
) -> None:
    one(registry, recipient(keys, "ours.pem"))
    async with node(tmp_path / "root", registry, keys) as bench:
        pulled = await bench.pull()
        (top,) = (bench.root / "snapshots" / "native").rglob("top")
        top.write_text("damaged")
        events = [event async for event in bench.parts.checker.check(repair=True)]
        assert events[-1].problems == events[-1].repaired == 1  # type: ignore[union-attr]
        assert (await bench.tree(pulled.image.id))["top"] == b"1"
