"""What commands print, for people and for programs."""

from __future__ import annotations

import json
import re

import grpc
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.cli.failure import ExitCode, Failure, of_status
from cri_imaged.cli.image_list import Row, ago, filtered, rows_of
from cri_imaged.cli.output import (
    Output,
    document,
    enum_name,
    show_columns,
    show_data,
    size,
    time,
)
from cri_imaged.cli.progress import LAYER_BARS, Lines, busy_layers
from cri_imaged.cli.templates import Template
from cri_imaged.rpc.node.v1 import node_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2

IMAGE_ID = "sha256:" + "0123456789abcdef" * 4


def test_a_message_as_json() -> None:
    image = api_pb2.Image(
        id=IMAGE_ID,
        repo_tags=["a:1"],
        size=2**40,
        uid=api_pb2.Int64Value(value=0),
        spec=api_pb2.ImageSpec(image="a", annotations={"z": "1", "b": "2"}),
    )
    assert document(image) == {
        "id": IMAGE_ID,
        "repo_tags": ["a:1"],
        "repo_digests": [],
        # protobuf's own JSON makes this a string.
        "size": 2**40,
        "uid": 0,
        "username": "",
        "spec": {
            "image": "a",
            "annotations": {"b": "2", "z": "1"},
            "user_specified_image": "",
            "runtime_handler": "",
            "image_ref": "",
        },
        "pinned": False,
    }


def test_what_is_not_set_is_null() -> None:
    assert document(api_pb2.Image())["uid"] is None
    assert document(api_pb2.ImageStatusResponse()) == {"image": None, "info": {}}


def test_enum_values_are_lower_case_names() -> None:
    pull = node_pb2.Pull(
        phase=node_pb2.PULL_PHASE_FETCHING,
        layers=[node_pb2.Layer(digest="d", phase=node_pb2.LAYER_PHASE_DONE)],
    )
    shown = document(pull)
    assert shown["phase"] == "fetching"
    assert shown["layers"][0]["phase"] == "done"
    # A value of a newer daemon.
    assert enum_name(node_pb2.PullPhase.DESCRIPTOR, 99) == "99"
    assert enum_name(node_pb2.PullPhase.DESCRIPTOR, 0) == "unspecified"


@given(st.text(st.characters(codec=None)))
def test_json_and_yaml_are_ascii_and_one_value(text: str) -> None:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout.write", lines.append)
        show_data({"name": text}, Output.JSON, line=True)
        show_data([{"name": text}], Output.YAML)
    line, indented = lines
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line) == {"name": text}
    assert indented.isascii()
    assert yaml.safe_load(indented) == [{"name": text}]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@given(st.integers(min_value=0, max_value=2**63))
def test_a_size_is_near_the_truth_and_short(count: int) -> None:
    number, unit = size(count).split()
    shown = float(number) * 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert abs(shown - count) <= 0.051 * max(count, 1)
    assert unit == "TiB" or len(number) <= 6


def test_times_are_utc() -> None:
    assert time(1_767_225_600 * 10**9 + 5) == "2026-01-01T00:00:00Z"


def test_columns_are_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "registry.example/" + "a" * 300
    show_columns(("NAME", "TAG"), [(long, "v1"), ("b", "\x1b[31mv2"), ("", "")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].index("TAG") == lines[1].index("v1") == lines[2].index("\\x1b[31mv2")
    assert long in lines[1]
    assert all(line.isprintable() and line == line.rstrip() for line in lines)


def test_an_image_has_a_row_for_each_tag() -> None:
    image = api_pb2.Image(
        id=IMAGE_ID,
        repo_tags=["localhost:5000/a:1", "localhost:5000/a:2"],
        repo_digests=[f"localhost:5000/a@{IMAGE_ID}"],
        size=1024,
        pinned=True,
    )
    one, two = rows_of(image, 0)
    assert one == Row("localhost:5000/a", "1", IMAGE_ID, image, 0)
    assert two == Row("localhost:5000/a", "2", IMAGE_ID, image, 0)
    assert one.fields(whole_ids=False, now=0.0) == {
        "Repository": "localhost:5000/a",
        "Tag": "1",
        "Digest": IMAGE_ID,
        "ID": "0123456789abc",
        "CreatedSince": "",
        "CreatedAt": "",
        "Size": "1.0 KiB",
        "Pinned": "yes",
        "Handler": "",
    }
    assert one.fields(whole_ids=True, now=0.0)["ID"] == IMAGE_ID


def test_an_image_without_tags_is_shown_by_its_repository() -> None:
    digest = f"localhost:5000/a@{IMAGE_ID}"
    image = api_pb2.Image(id=IMAGE_ID, repo_digests=[digest])
    [row] = rows_of(image, 0)
    assert (row.repository, row.tag, row.dangling) == ("localhost:5000/a", "<none>", True)
    [row] = rows_of(api_pb2.Image(id=IMAGE_ID), 0)
    assert (row.repository, row.tag, row.digest) == ("<none>", "<none>", "<none>")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 seconds ago"),
        (1, "1 second ago"),
        (119, "119 seconds ago"),
        (120, "2 minutes ago"),
        (3 * 3600, "3 hours ago"),
        (13 * 86400, "13 days ago"),
        (14 * 86400, "2 weeks ago"),
        (729 * 86400, "24 months ago"),
        (730 * 86400, "2 years ago"),
    ],
)
def test_how_long_ago(seconds: float, text: str) -> None:
    assert ago(seconds) == text


def test_when_an_image_was_built() -> None:
    built = 1_767_225_600 * 10**9
    [row] = rows_of(api_pb2.Image(id=IMAGE_ID), built)
    shown = row.fields(whole_ids=False, now=built / 1e9 + 7200)
    assert shown["CreatedAt"] == "2026-01-01 00:00:00 +0000 UTC"
    assert shown["CreatedSince"] == "2 hours ago"


# --- filters and templates ----------------------------------------------------------------------

HOUR = 3600 * 10**9
OLD, NEW, LOOSE = (
    row
    for image, built in (
        (api_pb2.Image(id="sha256:aa", repo_tags=["docker.io/library/old:1"], pinned=True), HOUR),
        (api_pb2.Image(id="sha256:bb", repo_tags=["registry.example/team/new:v2"]), 2 * HOUR),
        (api_pb2.Image(id="sha256:cc"), 0),
    )
    for row in rows_of(image, built)
)


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ([], [OLD, NEW, LOOSE]),
        (["dangling=true"], [LOOSE]),
        (["dangling=false"], [OLD, NEW]),
        (["pinned=true"], [OLD]),
        (["reference=old"], [OLD]),
        (["reference=old:1"], [OLD]),
        (["reference=library/ol?"], [OLD]),
        (["reference=docker.io/*"], [OLD]),
        (["reference=*/new:v*"], [NEW]),
        (["reference=team/new"], []),
        (["before=registry.example/team/new:v2"], [OLD]),
        (["since=old:1"], [NEW]),
        (["since=aa"], [NEW]),
        (["until=1h"], [OLD, NEW]),
        (["dangling=false", "pinned=false"], [NEW]),
    ],
    ids=lambda value: ",".join(value) if value and isinstance(value[0], str) else None,
)
def test_filters(filters: list[str], wanted: list[Row]) -> None:
    assert filtered([OLD, NEW, LOOSE], filters) == wanted


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("label=x", ExitCode.USAGE, "filters are dangling=…"),
        ("dangling", ExitCode.USAGE, "no filter 'dangling'"),
        ("dangling=perhaps", ExitCode.USAGE, "want true or false"),
        ("until=soon", ExitCode.USAGE, "'soon'"),
        ("since=nothing", ExitCode.NOT_FOUND, "no image nothing"),
    ],
)
def test_filters_that_cannot_be(text: str, code: ExitCode, says: str) -> None:
    with pytest.raises(Failure) as caught:
        filtered([OLD], [text])
    assert caught.value.code == code
    assert says in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{.Name}}", "app"),
        ("{{ .Name }}:{{.Tag}}", "app:1"),
        (r"{{.Name}}\t{{json .Tag}}\n", 'app\t"1"\n'),
        ("{{json .}}", '{"Name": "app", "Tag": "1"}'),
        ("plain", "plain"),
    ],
)
def test_templates(text: str, shown: str) -> None:
    fields = {"Name": "app", "Tag": "1"}
    assert Template(text, tuple(fields)).render(fields) == shown


@pytest.mark.parametrize("text", ["{{.Nane}}", "{{Name}}", "{{.}}", "{{range .}}", "{{}}"])
def test_templates_with_what_is_no_field(text: str) -> None:
    with pytest.raises(Failure, match="none of its fields"):
        Template(text, ("Name",))


def test_a_template_that_is_cut_off() -> None:
    with pytest.raises(Failure, match="without its"):
        Template("{{.Name}} {{.Tag", ("Name", "Tag"))


@given(st.text(), st.text())
def test_any_template_is_refused_or_shown(text: str, value: str) -> None:
    try:
        template = Template(text + "{{.Name}}", ("Name",))
    except Failure:
        return
    assert template.render({"Name": value}).endswith(value)


# --- progress ---------------------------------------------------------------------------------


def pull_of(phase: node_pb2.PullPhase.ValueType, layers: int = 0) -> node_pb2.Pull:
    return node_pb2.Pull(
        id="1",
        reference="docker.io/library/a:1",
        phase=phase,
        layers=[
            node_pb2.Layer(digest=f"sha256:{n:064}", size=1024, phase=node_pb2.LAYER_PHASE_FETCHING)
            for n in range(layers)
        ],
        bytes_total=layers * 1024,
    )


def test_lines_appear_only_when_a_pull_gets_further(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    resolving = pull_of(node_pb2.PULL_PHASE_RESOLVING)
    fetching = pull_of(node_pb2.PULL_PHASE_FETCHING, layers=2)
    lines.show([resolving])
    lines.show([resolving])
    for fetched in (0, 100, 200):
        fetching.bytes_fetched = fetched
        lines.show([fetching])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "docker.io/library/a:1: resolving",
        "docker.io/library/a:1: fetching, 2 layers, 2.0 KiB",
    ]


def test_no_more_layers_are_shown_than_fit() -> None:
    pull = pull_of(node_pb2.PULL_PHASE_FETCHING, layers=100)
    pull.layers[0].phase = node_pb2.LAYER_PHASE_DONE
    assert busy_layers(pull) == pull.layers[1 : LAYER_BARS + 1]


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "details", "exit_code", "message"),
    [
        ("INVALID_ARGUMENT", "bad name", ExitCode.USAGE, "bad name"),
        ("NOT_FOUND", "no tag", ExitCode.NOT_FOUND, "no tag"),
        ("UNAUTHENTICATED", "401", ExitCode.DENIED, "401"),
        ("PERMISSION_DENIED", "403", ExitCode.DENIED, "403"),
        ("UNKNOWN", "RegistryUnavailable: r: refused", ExitCode.REGISTRY_UNAVAILABLE, "r: refused"),
        (
            "UNKNOWN",
            "SignatureValidationFailed: x",
            ExitCode.FAILED,
            "SignatureValidationFailed: x",
        ),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", ExitCode.TIMEOUT, "Deadline Exceeded"),
        ("UNAVAILABLE", "stopping", ExitCode.UNREACHABLE, "stopping"),
        ("INTERNAL", "", ExitCode.FAILED, "internal"),
    ],
)
def test_statuses(code: str, details: str, exit_code: ExitCode, message: str) -> None:
    failure = of_status(grpc.StatusCode[code].name, details)
    assert (failure.code, failure.message) == (exit_code, message)


def test_who_meets_a_blocked_registry_is_not_sent_for_credentials() -> None:
    blocked = of_status("PERMISSION_DENIED", "r.example is blocked by /c/r.example/hosts.toml")
    assert blocked.code == ExitCode.DENIED
    assert "do not help" in blocked.hint
    assert "--creds" in of_status("PERMISSION_DENIED", "403").hint


@pytest.mark.parametrize("code", [each.name for each in grpc.StatusCode])
def test_every_status_is_some_failure(code: str) -> None:
    failure = of_status(code, "")
    assert failure.code != ExitCode.OK
    assert re.fullmatch(r"[a-z ]+", failure.message)
