"""Digests, chain IDs and platforms."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.errors import InvalidRequestError, UnsupportedContentError
from cri_imaged.oci.chain import chain_ids
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.platform import Platform, acceptable, choose

# --- digests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_names_bytes(algorithm: str) -> None:
    digest = Digest.of(b"content", algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.algorithm == algorithm
    assert digest.hex == hashlib.new(algorithm, b"content").hexdigest()
    hasher = digest.hasher()
    hasher.update(b"con")
    assert not digest.matches(hasher)
    hasher.update(b"tent")
    assert digest.matches(hasher)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        ":" + "a" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha512:" + "a" * 64,
        "SHA256:" + "a" * 64,
        "sha256:../x",
        "sha256:" + "a" * 61 + "/..",
        "../sha256:" + "a" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "a" * 64 + "\0",
        "sha256:" + "٣" * 64,
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="digest"):
        Digest.parse(text)


@pytest.mark.parametrize(
    "text", ["sha384:" + "a" * 96, "md5:" + "a" * 32, "sha256+b64u:abc", "blake3:" + "a" * 64]
)
def test_other_algorithms_are_named(text: str) -> None:
    with pytest.raises(UnsupportedContentError, match=r"algorithm .* not supported"):
        Digest.parse(text)


@given(
    st.text(max_size=90)
    | st.sampled_from(["sha256:", "sha512:", "a+b:"]).map(lambda a: a + "0" * 64)
)
def test_a_digest_is_always_a_safe_file_name(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except (InvalidRequestError, UnsupportedContentError):
        return
    assert digest.algorithm in ("sha256", "sha512")
    assert digest.hex.isalnum()
    assert digest.hex.isascii()


# --- chain IDs -------------------------------------------------------------------------------


def test_chain_ids_as_the_specification_defines_them() -> None:
    """config.md: ChainID(L0) = DiffID(L0); ChainID(L0|…|Ln) = Digest(ChainID(L0|…|Ln-1) + " " +
    DiffID(Ln))."""
    a, b, c = (Digest.of(name) for name in (b"a", b"b", b"c"))

    def sha256(text: str) -> str:
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    assert chain_ids([]) == []
    assert chain_ids([a]) == [a]
    assert chain_ids([a, b, c]) == [a, sha256(f"{a} {b}"), sha256(f"{sha256(f'{a} {b}')} {c}")]


def test_a_chain_above_a_sha512_diff_id_is_sha256() -> None:
    a = Digest.of(b"a", "sha512")
    assert [each.algorithm for each in chain_ids([a, a])] == ["sha512", "sha256"]


# --- platforms -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("linux/riscv64", "linux/riscv64"),
        ("linux/arm64/v8.0", "linux/arm64"),
        ("linux/arm64/9", "linux/arm64/v9"),
        ("linux/aarch64/v8", "linux/arm64"),
    ],
)
def test_platforms_are_normalised_as_containerd_does(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal
    assert str(Platform.parse(normal)) == normal


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/arm/"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="platform"):
        Platform.parse(text)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=3).map("/".join))
def test_every_platform_accepts_itself_first(text: str) -> None:
    try:
        platform = Platform.parse(text)
    except InvalidRequestError:
        return
    assert acceptable(platform)[0] == platform


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386", "windows/amd64"], 0),
        ("linux/amd64", ["linux/amd64/v3", "windows/amd64"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64/v3", ["linux/amd64"], 0),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/amd64", ["unknown/unknown", "linux/s390x"], None),
        ("linux/amd64", [None, "linux/amd64"], 1),
        ("linux/amd64", ["linux/arm64", None, None], 1),
        ("linux/amd64", [], None),
        ("linux/arm/v6", ["linux/arm", "linux/arm/v5"], 1),
        ("linux/arm/v6", ["linux/arm64", "linux/arm"], 1),
        ("linux/arm/v5", ["windows/arm", "linux/arm"], 1),
        ("linux/arm/v6", [None, "linux/arm"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm"], 1),
    ],
)
def test_the_best_of_what_is_offered(
    wanted: str, offered: list[str | None], chosen: int | None
) -> None:
    platforms = [text and Platform.parse(text) for text in offered]
    assert choose(Platform.parse(wanted), platforms) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "image"),
    [
        ("x86_64", "linux/amd64"),
        ("i386", "linux/386"),
        ("i486", "linux/386"),
        ("i586", "linux/386"),
        ("i686", "linux/386"),
        ("aarch64", "linux/arm64"),
        ("aarch64_be", "linux/arm64be"),
        ("armv5tel", "linux/arm/v5"),
        ("armv5tejl", "linux/arm/v5"),
        ("armv6l", "linux/arm/v6"),
        ("armv7l", "linux/arm/v7"),
        ("armv7b", "linux/armbe/v7"),
        ("armv8l", "linux/arm/v8"),  # a 32-bit process on a 64-bit kernel
        ("loongarch64", "linux/loong64"),
        ("mips", "linux/mips"),
        ("mips64", "linux/mips64"),
        ("ppc64le", "linux/ppc64le"),
        ("ppc64", "linux/ppc64"),
        ("s390x", "linux/s390x"),
        ("riscv64", "linux/riscv64"),
        ("riscv32", "linux/riscv"),
        ("sparc64", "linux/sparc64"),
    ],
)
def test_the_kernels_name_of_a_machine_finds_what_go_calls_it(machine: str, image: str) -> None:
    assert choose(Platform.of("Linux", machine), [None, Platform.parse(image)]) == 1


@pytest.mark.parametrize("machine", ["arm", "armv5tel", "armv6l", "armv7l", "armhf", "armel"])
def test_any_arm_takes_an_image_for_arm_without_a_variant(machine: str) -> None:
    assert choose(Platform.of("Linux", machine), [Platform.of("linux", "arm")]) == 0
