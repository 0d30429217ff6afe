"""What hosts' answers are taken for: ranges, documents, refusals. Decisions without I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.oci import media_types
from cri_imaged.registry.documents import document_type
from cri_imaged.registry.error_bodies import describe_body
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.ranges import check_range, check_whole
from cri_imaged.registry.redaction import redact
from tests.support.leaks import MARK

# --- ranges ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "start", "end"),
    [
        ({"Content-Range": "bytes 40-99/100"}, 40, 100),
        ({"Content-Range": " bytes 40-99/* ", "Content-Length": "60"}, 40, 100),
        ({"Content-Range": "bytes 0-39/100"}, 0, 40),
    ],
)
def test_the_range_that_was_asked_for(headers: Mapping[str, str], start: int, end: int) -> None:
    check_range(headers, start, end, 100)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Range": ""},
        {"Content-Range": "bytes 39-99/100"},
        {"Content-Range": "bytes 40-98/100"},
        {"Content-Range": "bytes 40-100/100"},
        {"Content-Range": "bytes 041-99"},
        {"Content-Range": "bytes */100"},
        {"Content-Range": "octets 40-99/100"},
        {"Content-Range": "bytes=40-99/100"},
        {"Content-Range": "bytes 40-99/101"},
        {"Content-Range": "bytes 40-99/100", "Content-Length": "100"},
        {"Content-Range": "bytes 40-99/100", "Content-Encoding": "gzip"},
        {"Content-Type": "multipart/byteranges; boundary=x"},
    ],
)
def test_another_range_than_was_asked_for(headers: Mapping[str, str]) -> None:
    with pytest.raises(HostFailure) as caught:
        check_range(headers, 40, 100, 100)
    assert caught.value.status == 206


@pytest.mark.parametrize(
    ("status", "headers"),
    [(200, {}), (203, {"Content-Length": "100"}), (206, {"Content-Range": "bytes 0-99/100"})],
)
def test_the_whole(status: int, headers: Mapping[str, str]) -> None:
    check_whole(status, headers, 100)


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (200, {"Content-Length": "99"}, Kind.CORRUPT),
        (200, {"Content-Length": "9" * 5000}, Kind.CORRUPT),
        (206, {"Content-Range": "bytes 0-9/100"}, Kind.REFUSED),
        (206, {}, Kind.REFUSED),
    ],
)
def test_a_body_of_something_else_is_refused(
    status: int, headers: Mapping[str, str], kind: Kind
) -> None:
    with pytest.raises(HostFailure) as caught:
        check_whole(status, headers, 100)
    assert caught.value.kind is kind


# --- documents ------------------------------------------------------------------------------

INDEX = {"schemaVersion": 2, "manifests": []}
MANIFEST = {"schemaVersion": 2, "config": {}, "layers": []}
JSON = "application/json"


@pytest.mark.parametrize(
    ("announced", "document", "media_type"),
    [
        (f"{media_types.OCI_INDEX}; charset=utf-8", INDEX, media_types.OCI_INDEX),
        ("", INDEX, media_types.OCI_INDEX),
        (JSON, MANIFEST, media_types.OCI_MANIFEST),
        (JSON, {"schemaVersion": None, "mediaType": None, "layers": []}, media_types.OCI_MANIFEST),
        (JSON, {"config": None, **INDEX}, media_types.OCI_INDEX),
        ("", {"annotations": {"unused": "\ud800"}, **INDEX}, media_types.OCI_INDEX),
        ("text/plain", {"schemaVersion": 1}, media_types.DOCKER_MANIFEST_V1),
        ("text/plain", {"mediaType": "application/x"}, "application/x"),
        (JSON, {"mediaType": "application/x", **MANIFEST}, "application/x"),
    ],
)
def test_document_types(announced: str, document: dict[str, Any], media_type: str) -> None:
    assert document_type(announced, json.dumps(document).encode()) == media_type


@pytest.mark.parametrize(
    ("fields", "types"),
    [
        (MANIFEST, (media_types.OCI_MANIFEST, media_types.DOCKER_MANIFEST)),
        (INDEX, (media_types.OCI_INDEX, media_types.DOCKER_INDEX)),
    ],
    ids=["manifest", "index"],
)
def test_a_document_labelled_as_its_sibling_is_what_it_says_itself(
    fields: dict[str, Any], types: tuple[str, str]
) -> None:
    for own in types:
        for announced in types:
            document = json.dumps({"mediaType": own, **fields}).encode()
            assert document_type(announced, document) == own


@pytest.mark.parametrize("announced", sorted(media_types.DOCUMENTS))
def test_a_manifest_that_is_called_an_index_or_the_reverse_is_refused(announced: str) -> None:
    index = announced in media_types.INDEXES
    for own in media_types.MANIFESTS if index else media_types.INDEXES:
        document = json.dumps({"mediaType": own, **(MANIFEST if index else INDEX)}).encode()
        with pytest.raises(HostFailure, match="announces") as caught:
            document_type(announced, document)
        assert caught.value.kind is Kind.CORRUPT


@pytest.mark.parametrize("announced", ["text/html", JSON, "", media_types.OCI_MANIFEST])
@pytest.mark.parametrize(
    "document",
    [
        b"<html>",
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"status":"ok"}',
        b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}',
        b'{"schemaVersion":2}',
        b'{"schemaVersion":2,"config":null,"layers":null,"manifests":null}',
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}',
        b'{"mediaType":7,"config":{}}',
    ],
)
def test_what_is_no_document_is_refused(announced: str, document: bytes) -> None:
    with pytest.raises(HostFailure, match="no manifest") as caught:
        document_type(announced, document)
    assert caught.value.kind is Kind.CORRUPT


# --- refusals -------------------------------------------------------------------------------


def test_error_bodies_are_shortened_and_freed_of_secrets() -> None:
    errors = [
        {"code": "DENIED", "message": f"token {MARK}-token is bad\n", "detail": 1},
        {"code": "X", "message": "y" * 5000},
    ]
    body = json.dumps({"errors": errors}).encode()
    codes, text = describe_body(body, [f"{MARK}-token"])
    assert codes == ("DENIED", "X")
    assert text.startswith("DENIED: token [secret] is bad; X: yyy")
    assert len(text) < 400


@pytest.mark.parametrize(
    ("body", "codes", "text"),
    [
        ({"details": "why"}, (), "why"),
        ({"message": "why"}, (), "why"),
        ({"message": "no", "details": "why"}, (), "no: why"),
        ({"error": "invalid_grant", "error_description": "why"}, ("invalid_grant",), ""),
        ({"error": {"code": 403, "message": "why"}}, ("403",), "403: why"),
        ({"errors": [{"status": 403, "code": 403, "message": "why"}]}, ("403",), "403: why"),
        ({"errors": [{"status": 403, "message": "why"}]}, (), "why"),
        ({"errors": [{"code": "DENIED", "message": None, "detail": None}]}, ("DENIED",), "DENIED"),
        ({"errors": [{"code": None, "message": "why"}, None]}, (), "why"),
        ({"errors": ["why"]}, (), "why"),
        ({"errors": None, "message": "why"}, (), "why"),
        ({"detail": [{"message": "why"}]}, (), "why"),
        ({"type": "about:blank", "title": "Gone", "detail": "why"}, (), "why: Gone"),
        ({"fault": {"message": "why"}}, (), "why"),
        ({"Code": "DENIED", "Message": "why"}, ("DENIED",), "DENIED: why"),
        ({"error_message": "why"}, (), "why"),
        ({"msg": "why", "code": 1403}, ("1403",), "1403: why"),
        ({"message": ["why", "else"]}, (), "why; else"),
        ({"message": {"text": 1, "message": "why"}}, (), "why"),
        ({"errors": {"code": "DENIED", "message": "why"}}, ("DENIED",), "DENIED: why"),
        ("why", (), "why"),
        ([{"message": "why"}], (), "why"),
        ({"errors": [{"code": True}]}, (), ""),
        ({"token": "why"}, (), ""),
        ({"errors": "why"}, (), "why"),
        ({"err": "why"}, (), "why"),
        ({"err": {"message": "why"}}, (), "why"),
        ({"messages": ["why"]}, (), "why"),
        ({"data": {"message": "why"}}, (), "why"),
        ({"response": {"error": "why"}}, ("why",), "why"),
        ({"message": {"text": "why"}}, (), "why"),
        ({"errors": [{"code": "DENIED", "message": "no", "help": "why"}]}, ("DENIED",), ""),
        ({"errors": {"tag": "why"}}, (), "tag: why"),
        ({"title": "Bad", "status": 400, "errors": {"tag": ["why", "else"]}}, (), ""),
        ({"errors": {"0": {"code": "DENIED", "message": "why"}}}, ("DENIED",), ""),
        ({"code": "DENIED", "detail": {"tag": ["why"]}}, ("DENIED",), ""),
        ({"error": {"tag": "why"}}, (), "tag: why"),
        ({"message": {"en": "why"}}, (), "en: why"),
        ({"error": {"errors": [{"detail": [{"message": "why"}]}]}}, (), "why"),
        ({"errors": [{"code": "DENIED", "detail": [{"msg": "why"}]}]}, ("DENIED",), ""),
        ({"status": "why"}, (), "why"),
        ({"status": {"message": "why"}}, (), "why"),
        ({"statusText": "why"}, (), "why"),
        ({"error-message": "why"}, (), "why"),
    ],
)
def test_explanations_in_many_forms(body: Any, codes: tuple[str, ...], text: str) -> None:
    found, shown = describe_body(json.dumps(body).encode(), [])
    assert found == codes
    assert sorted(shown.split(": ")) == sorted((text or "").split(": ")) or "why" in shown


def test_what_a_message_is_about_stands_before_it() -> None:
    assert describe_body(b'{"errors": {"tag": ["why", "else"]}}', []) == (
        (),
        "tag: why; tag: else",
    )
    said = {"code": "UNKNOWN", "message": "unknown", "detail": {"Tag": "latest"}}
    assert describe_body(json.dumps({"errors": [said]}).encode(), []) == (
        ("UNKNOWN",),
        "UNKNOWN: unknown",
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"<html><head><title>403 why</title></head><body>x</body></html>", "403 why"),
        (b"<!DOCTYPE html>\n<HTML>\n<TITLE lang=en>\n why &amp;\nelse </TITLE>", "why & else"),
        (b"<html><title> </title></html>", ""),
        (b'{"message": "one"}\n{"message": "two"}\n', "one; two"),
        (b'{"level": 1}\n{"error": {"message": "why"}}\n{"message": "cut', "why"),
        (b'\xef\xbb\xbf{"message": "why"}', "why"),
        (b"<e:Error xmlns:e='x'><e:Message><![CDATA[why]]></e:Message></e:Error>", "why"),
    ],
)
def test_explanations_in_pages_lines_and_xml(body: bytes, text: str) -> None:
    assert describe_body(body, []) == ((), text)


def test_secrets_are_left_out_of_pages_lines_and_names() -> None:
    for body in (
        f"<html><title>{MARK}-token</title></html>",
        f'{{"message": "{MARK}-token"}}\n{{"level": 1}}',
        json.dumps({"errors": {f"{MARK}-token": ["why"]}}),
        f"<html><title>{MARK}&amp;token</title></html>",
    ):
        _, text = describe_body(body.encode(), [f"{MARK}-token", f"{MARK}&token"])
        assert "[secret]" in text
        assert MARK not in text


def test_plain_text_is_an_explanation_and_a_page_without_a_title_is_none() -> None:
    assert describe_body(b" Too late.\r\n Try again. ", []) == ((), "Too late. Try again.")
    assert describe_body(b"<html><body>403</body></html>", []) == ((), "")
    assert describe_body(b'{"message": "cut off', []) == ((), "")
    assert describe_body(b'[ { "message": "cut off', []) == ((), "")
    assert describe_body(b"[proxy] no way", []) == ((), "[proxy] no way")


def test_explanations_in_xml_and_in_text_that_is_none() -> None:
    xml = b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><Message>why</Message></Error>"
    assert describe_body(xml, []) == (("AccessDenied",), "AccessDenied: why")
    assert describe_body(b'{"message": "ferm\xe9"}', []) == ((), "ferm\ufffd")
    assert describe_body(b'{"message": "why\\ud800"}', []) == ((), "why\ufffd")


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["errors", "error", "code", "message", "details", "x"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_error_body_is_survived_and_stays_short(body: bytes) -> None:
    codes, text = describe_body(body, ["x"])
    assert len(text) < 10_000
    assert all(len(code) <= 81 for code in codes)


@pytest.mark.parametrize(
    ("secret", "said", "shown"),
    [
        ("b", "forbidden by b, b1 and a-b", "forbidden by [secret], b1 and a-[secret]"),
        ("12345", "12345678 is not 12345", "12345678 is not [secret]"),
        ("123456", "12345678", "[secret]78"),
        ("a/b?c=d&e", "at a%2Fb%3Fc%3Dd%26e", "at [secret]"),
        ("p w p w+", "p+w+p+w%2B", "[secret]"),
        ('say "password"', r"say \"password\"", "[secret]"),
        ("<password>", "&lt;password&gt;", "[secret]"),
        ("", "nothing", "nothing"),
    ],
)
def test_secrets_are_found_in_all_their_forms_and_short_ones_only_as_words(
    secret: str, said: str, shown: str
) -> None:
    assert redact(said, [secret]) == shown
