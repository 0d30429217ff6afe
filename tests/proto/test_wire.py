"""The stubs speak CRI v1, and are what `proto/` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from cri_imaged.rpc.node.v1 import node_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2
from tests.proto import cri_v1

CHECKOUT = Path(__file__).parents[2]
STUBS = CHECKOUT / "server" / "cri_imaged" / "rpc"

SCALARS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def type_name(field: FieldDescriptor) -> str:
    """The field's type as it stands in a .proto."""
    if field.message_type and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return f"map<{type_name(entry['key'])},{type_name(entry['value'])}>"
    if field.message_type:
        name = field.message_type.name
    elif field.enum_type:
        name = field.enum_type.name
    else:
        name = SCALARS[field.type]
    return f"repeated {name}" if field.is_repeated else name


def test_package_and_syntax() -> None:
    assert api_pb2.DESCRIPTOR.package == "runtime.v1"
    assert node_pb2.DESCRIPTOR.package == "cri_imaged.node.v1"
    # proto3: a scalar that is not set is not sent and reads as zero.
    assert not api_pb2.Image.DESCRIPTOR.fields_by_name["size"].has_presence


@pytest.mark.parametrize("name", sorted(cri_v1.MESSAGES))
def test_message(name: str) -> None:
    descriptor = api_pb2.DESCRIPTOR.message_types_by_name[name]
    assert {
        f"{field.number} {type_name(field)} {field.name}" for field in descriptor.fields
    } == cri_v1.MESSAGES[name]


@pytest.mark.parametrize("name", sorted(cri_v1.ENUMS))
def test_enum(name: str) -> None:
    descriptor = api_pb2.DESCRIPTOR.enum_types_by_name[name]
    assert {value.name: value.number for value in descriptor.values} == cri_v1.ENUMS[name]


@pytest.mark.parametrize("name", sorted(cri_v1.SERVICES))
def test_service(name: str) -> None:
    service = api_pb2.DESCRIPTOR.services_by_name[name]
    assert not any(method.client_streaming for method in service.methods)
    assert {
        method.name: (
            method.input_type.name,
            f"{'stream ' if method.server_streaming else ''}{method.output_type.name}",
        )
        for method in service.methods
    } == cri_v1.SERVICES[name]


def test_nothing_is_there_that_cri_does_not_have() -> None:
    assert set(api_pb2.DESCRIPTOR.message_types_by_name) == set(cri_v1.MESSAGES)
    assert set(api_pb2.DESCRIPTOR.enum_types_by_name) == set(cri_v1.ENUMS)
    assert set(api_pb2.DESCRIPTOR.services_by_name) == set(cri_v1.SERVICES)


def test_an_image_spec_as_the_kubelet_encodes_it() -> None:
    # Tags by hand from the encoding's rules: field number << 3 | 2 (length-delimited), as varint.
    wire = b"\x0a\x07busybox" + b"\x92\x01\x01u" + b"\x9a\x01\x04kata"
    spec = api_pb2.ImageSpec.FromString(wire)
    assert (spec.image, spec.user_specified_image, spec.runtime_handler) == ("busybox", "u", "kata")
    assert spec.SerializeToString() == wire


def test_fields_of_a_newer_client_are_no_error() -> None:
    # Field 100, length-delimited.
    assert api_pb2.ImageFsInfoRequest.FromString(b"\xa2\x06\x03new") is not None


def test_the_stubs_in_git_are_generated_from_proto(tmp_path: Path) -> None:
    script = CHECKOUT / "proto" / "generate.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True)
    fresh = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    kept = {
        path.relative_to(STUBS): path.read_text()
        for path in STUBS.rglob("*.py*")
        if path.parent != STUBS and path.suffix in {".py", ".pyi"}
    }
    assert fresh.keys() == kept.keys()
    changed = [str(path) for path, text in fresh.items() if kept[path] != text]
    assert not changed, f"`make proto` was not run after a change of proto/: {changed}"
