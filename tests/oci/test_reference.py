"""References are what Docker's grammar says they are.

`docker_parse` is the grammar of distribution/reference (regexp.go and normalize.go, as vendored by
containerd 2.3) as one expression over the normalised text; ours takes the text apart by hand.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cri_imaged.errors import InvalidRequestError
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference, sort_key

HEX = "0123456789abcdef" * 4
SHA256 = f"sha256:{HEX}"
SHA512 = f"sha512:{HEX * 2}"

_DOMAIN_COMPONENT = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_COMPONENT = "[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_WHOLE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?"
)


def docker_parse(text: str) -> tuple[str, str, str | None, str | None] | None:
    """Domain, path, tag and digest; None where Docker refuses. Two liberties: only the digest
    algorithms that we support, and a domain that is none is refused, where Docker takes it for a
    path without a domain."""
    if re.fullmatch("[a-f0-9]{64}", text):
        return None
    domain, slash, rest = text.partition("/")
    if not slash:
        domain, rest = "docker.io", f"library/{text}"
    elif domain == "index.docker.io" or domain == "registry-1.docker.io":
        domain = "docker.io"
    elif not (domain == "localhost" or set(".:") & set(domain) or domain.lower() != domain):
        domain, rest = "docker.io", text
    if domain == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    found = _WHOLE.fullmatch(f"{domain}/{rest}")
    if found is None or found["domain"] != domain or len(found["path"]) > 255:
        return None
    return found["domain"], found["path"], found["tag"], found["digest"]


def parsed(text: str) -> tuple[str, str, str | None, str | None] | None:
    try:
        found = Reference.parse(text)
    except InvalidRequestError:
        return None
    return found.registry, found.repository, found.tag, found.digest


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/user/app", "docker.io/user/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("Host/app", "Host/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[fe80::1]/a/b:t", "[fe80::1]/a/b:t"),
        ("host.example/a/b/c:T_a-g.9", "host.example/a/b/c:T_a-g.9"),
        (f"busybox@{SHA256}", f"docker.io/library/busybox@{SHA256}"),
        (f"busybox:1.36@{SHA256}", f"docker.io/library/busybox@{SHA256}"),
        (f"host:1/a@{SHA512}", f"host:1/a@{SHA512}"),
        ("a__b/c-d--e/f.g", "docker.io/a__b/c-d--e/f.g:latest"),
        (HEX[:63], f"docker.io/library/{HEX[:63]}:latest"),
        ("a/" + "b" * 253, "docker.io/a/" + "b" * 253 + ":latest"),
        ("h.example/" + "b" * 255, "h.example/" + "b" * 255 + ":latest"),
    ],
)
def test_what_is_pulled_and_stored(text: str, normal: str) -> None:
    assert str(Reference.parse(text).canonical()) == normal
    assert str(Reference.parse(normal).canonical()) == normal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (HEX, "image ID"),
        ("Busybox", "lower case"),
        ("user/App", "lower case"),
        ("a//b", "repository"),
        ("/a", "repository"),
        ("a/", "repository"),
        ("a_-b", "repository"),
        ("a___b", "repository"),
        ("a..b/c", "host"),
        ("-a.b/c", "host"),
        ("a.b:port/c", "host"),
        ("h.example/", "repository"),
        ("[::1/a", "host"),
        ("busybox:", "tag"),
        ("busybox:.a", "tag"),
        ("busybox:" + "a" * 129, "tag"),
        ("busybox:a b", "tag"),
        ("busybox:ä", "tag"),
        ("busybox\n", "repository"),
        ("busybox:a\n", "tag"),
        ("busybox@", "digest"),
        ("busybox@sha256:abc", "digest"),
        (f"busybox@{SHA256.upper()}", "digest"),
        (f"busybox@sha384:{HEX}{HEX[:32]}", "sha384"),
        (f"busybox@{SHA256}\n", "digest"),
        (f"busybox@{SHA256}:tag", "digest"),
        ("h.example/" + "b" * 256, "longer"),
        ("a" * 5000, "longer"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as error:
        Reference.parse(text)
    assert len(str(error.value)) < 1000


FRAGMENTS = st.sampled_from(
    [
        *("a", "b0", "A", "localhost", "docker.io", "index.docker.io", "x.example", "library"),
        *(".", "_", "__", "-", "--", ":", "/", "@", "[", "]", "::1", "5000", "latest", " ", "\n"),
        *(SHA256, SHA512, HEX, "sha256", "é", "\0"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=9).map("".join))
@example("a.b:0/c:d@" + SHA256)
@example("[::1]:0/c")
def test_as_docker(text: str) -> None:
    assert parsed(text) == docker_parse(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    assert parsed(text) == docker_parse(text)


PARTS = st.tuples(
    st.sampled_from(["", "docker.io/", "localhost/", "Host/", "h.example:1/", "[::1]:5/"]),
    st.lists(st.sampled_from(["a", "b0", "c__d", "e--f", "g.h"]), min_size=1, max_size=3),
    st.sampled_from(["", ":t", ":_T.-1"]),
    st.sampled_from(["", f"@{SHA256}", f"@{SHA512}"]),
)


@settings(max_examples=150, deadline=None)
@given(PARTS)
def test_what_is_normal_stays(parts: tuple[str, list[str], str, str]) -> None:
    host, path, tag, digest = parts
    normal = Reference.parse(host + "/".join(path) + tag + digest).canonical()
    assert Reference.parse(str(normal)) == normal
    assert normal.canonical() == normal
    assert (normal.tag is None) != (normal.digest is None)


def test_the_repo_digest_keeps_the_repository() -> None:
    tagged = Reference.parse("h.example:1/a/b:t")
    assert str(tagged.at_digest(Digest(SHA256))) == f"h.example:1/a/b@{SHA256}"
    assert tagged.name == "h.example:1/a/b"


def test_names_sort_as_docker_sorts_them() -> None:
    wanted = [
        f"docker.io/library/b:1@{SHA256}",
        "docker.io/library/a:1",
        "docker.io/library/a:2",
        "docker.io/library/b:1",
        "docker.io/user/a:1",
        f"docker.io/library/a@{SHA256}",
        f"docker.io/library/b@{SHA256}",
        "docker.io/library/a",
    ]
    mixed = wanted[::-1]
    assert sorted(mixed, key=sort_key) == wanted
