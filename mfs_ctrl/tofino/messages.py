"""The protobuf messages of a Tofino switch, built from descriptions of their fields.

No Python package contains them. Field numbers and types are those of Stratum's ``bf.proto`` (package
``stratum.hal.barefoot``) and of the BF Runtime service (package ``bfrt_proto``); fields that are not used here are left
out. Enumerations are integers, which have the same wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
}


class _Field(NamedTuple):
    """A field: ``type`` names a scalar type or another message; ``choice`` names the ``oneof`` that it belongs to."""

    name: str
    number: int
    type: str
    repeated: bool = False
    choice: str = ""


_PROFILE = (
    _Field("profile_name", 1, "string"),
    _Field("context", 2, "bytes"),
    _Field("binary", 3, "bytes"),
    _Field("pipe_scope", 4, "uint32", repeated=True),
)
_PIPELINE_CONFIG = (
    _Field("p4_name", 1, "string"),
    _Field("bfruntime_info", 2, "bytes"),
    _Field("profiles", 3, "Profile", repeated=True),
)

_BF_RUNTIME: Mapping[str, tuple[_Field, ...]] = {
    "TargetDevice": (
        _Field("device_id", 1, "uint32"),
        _Field("pipe_id", 2, "uint32"),
        _Field("direction", 3, "uint32"),
        _Field("prsr_id", 4, "uint32"),
    ),
    "Exact": (_Field("value", 1, "bytes"),),
    "Ternary": (_Field("value", 1, "bytes"), _Field("mask", 2, "bytes")),
    "Lpm": (_Field("value", 1, "bytes"), _Field("prefix_len", 2, "int32")),
    "Range": (_Field("low", 1, "bytes"), _Field("high", 2, "bytes")),
    "KeyField": (
        _Field("field_id", 1, "uint32"),
        _Field("exact", 2, "Exact", choice="match_type"),
        _Field("ternary", 3, "Ternary", choice="match_type"),
        _Field("lpm", 4, "Lpm", choice="match_type"),
        _Field("range", 5, "Range", choice="match_type"),
    ),
    "TableKey": (_Field("fields", 1, "KeyField", repeated=True),),
    "IntArray": (_Field("val", 1, "uint32", repeated=True),),
    "BoolArray": (_Field("val", 1, "bool", repeated=True),),
    "DataField": (
        _Field("field_id", 1, "uint32"),
        _Field("stream", 2, "bytes", choice="value"),
        _Field("str_val", 4, "string", choice="value"),
        _Field("int_arr_val", 5, "IntArray", choice="value"),
        _Field("bool_arr_val", 6, "BoolArray", choice="value"),
        _Field("bool_val", 8, "bool", choice="value"),
    ),
    "TableData": (_Field("action_id", 1, "uint32"), _Field("fields", 2, "DataField", repeated=True)),
    "TableEntry": (
        _Field("table_id", 1, "uint32"),
        _Field("key", 2, "TableKey", choice="value"),
        _Field("data", 3, "TableData"),
        _Field("is_default_entry", 4, "bool"),
        _Field("table_flags", 9, "TableFlags"),
    ),
    "TableFlags": (_Field("from_hw", 1, "bool"),),
    "Entity": (_Field("table_entry", 1, "TableEntry", choice="entity"),),
    "Update": (_Field("type", 1, "uint32"), _Field("entity", 2, "Entity")),
    "WriteRequest": (
        _Field("target", 1, "TargetDevice"),
        _Field("client_id", 2, "uint32"),
        _Field("updates", 3, "Update", repeated=True),
        _Field("p4_name", 5, "string"),
    ),
    "Error": (_Field("canonical_code", 1, "int32"), _Field("message", 2, "string")),
    "WriteResponse": (_Field("status", 1, "Error", repeated=True),),
    "ReadRequest": (
        _Field("target", 1, "TargetDevice"),
        _Field("client_id", 2, "uint32"),
        _Field("entities", 3, "Entity", repeated=True),
        _Field("p4_name", 4, "string"),
    ),
    "ReadResponse": (_Field("entities", 1, "Entity", repeated=True), _Field("status", 2, "Error", repeated=True)),
    "Profile": _PROFILE,
    "ForwardingPipelineConfig": _PIPELINE_CONFIG,
    "NonP4Config": (_Field("bfruntime_info", 1, "bytes"),),
    "GetForwardingPipelineConfigRequest": (_Field("device_id", 1, "uint32"), _Field("client_id", 2, "uint32")),
    "GetForwardingPipelineConfigResponse": (
        _Field("config", 1, "ForwardingPipelineConfig", repeated=True),
        _Field("non_p4_config", 2, "NonP4Config"),
    ),
    "SetForwardingPipelineConfigRequest": (
        _Field("device_id", 1, "uint32"),
        _Field("client_id", 2, "uint32"),
        _Field("action", 3, "uint32"),
        _Field("config", 6, "ForwardingPipelineConfig", repeated=True),
    ),
    "SetForwardingPipelineConfigResponse": (),
    "Status": (_Field("code", 1, "int32"), _Field("message", 2, "string")),
    "Subscribe": (_Field("device_id", 2, "uint32"), _Field("status", 4, "Status")),
    "StreamMessageRequest": (
        _Field("client_id", 1, "uint32"),
        _Field("subscribe", 2, "Subscribe", choice="update"),
    ),
    "StreamMessageResponse": (_Field("subscribe", 1, "Subscribe", choice="update"),),
}

INSERT, MODIFY, DELETE = 1, 2, 4
"""``Update.Type``. The entries of the traffic manager always exist, and are modified."""
BIND = 0
"""``SetForwardingPipelineConfigRequest.Action``: the client takes over the program that the switch runs."""


def _classes(package: str, messages: Mapping[str, tuple[_Field, ...]]) -> dict[str, Any]:
    """Message classes for ``messages``, by name."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        choices = list(dict.fromkeys(field.choice for field in fields if field.choice))
        for choice in choices:
            message.oneof_decl.add(name=choice)
        for field in fields:
            described = message.field.add(name=field.name, number=field.number)
            described.label = described.LABEL_REPEATED if field.repeated else described.LABEL_OPTIONAL
            if field.type in _TYPES:
                described.type = _TYPES[field.type]
            else:
                described.type, described.type_name = described.TYPE_MESSAGE, f".{package}.{field.type}"
            if field.choice:
                described.oneof_index = choices.index(field.choice)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    # GetMessageClass replaced MessageFactory in protobuf 4.22.
    runtime: Any = message_factory
    message_class = getattr(runtime, "GetMessageClass", None) or runtime.MessageFactory(pool).GetPrototype
    return {name: message_class(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}


BF_RUNTIME = _classes("bfrt_proto", _BF_RUNTIME)
"""The messages of BF Runtime, by name."""

# Stratum nests Profile in BfPipelineConfig; the wire format is the same.
BfPipelineConfig: Any = _classes("stratum.hal.barefoot", {"Profile": _PROFILE, "BfPipelineConfig": _PIPELINE_CONFIG})[
    "BfPipelineConfig"
]
"""Stratum's device config for Tofino."""
