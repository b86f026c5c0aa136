"""The answers of etcd that are large, decoded by Google's protobuf as etcd's clients for Python do; the few fields that are read here.

Descriptions are made when this is imported, in place of code that a compiler generated.  Field numbers are those of etcd's ``rpc.proto``
and ``kv.proto``; what is not named is skipped.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_INT64, _BOOL, _MESSAGE, _BYTES = 3, 8, 11, 12
_MESSAGES: dict[str, list[tuple[str, int, int, str]]] = {
    "KeyValue": [
        ("key", 1, _BYTES, ""),
        ("create_revision", 2, _INT64, ""),
        ("mod_revision", 3, _INT64, ""),
        ("version", 4, _INT64, ""),
        ("value", 5, _BYTES, ""),
    ],
    "RangeResponse": [("kvs", 2, _MESSAGE, "KeyValue")],
    "Event": [("kv", 2, _MESSAGE, "KeyValue")],
    "WatchResponse": [("created", 3, _BOOL, ""), ("canceled", 4, _BOOL, ""), ("events", 11, _MESSAGE, "Event")],
}
"""Of each message its fields: name, number, type, and of which message."""

_REPEATED = {"kvs", "events"}


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="replkv_bench.proto", package="bench", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            message.field.add(
                name=field, number=number, type=kind, label=3 if field in _REPEATED else 1, type_name=f".bench.{of}" if of else None
            )
    return file


def _make() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_describe())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"bench.{name}")) for name in _MESSAGES}


_CLASSES = _make()
RangeResponse: Any = _CLASSES["RangeResponse"]
WatchResponse: Any = _CLASSES["WatchResponse"]
