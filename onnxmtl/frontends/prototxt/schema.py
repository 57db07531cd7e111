"""Protobuf messages built from :mod:`onnxmtl.frontends.prototxt.tables`: no generated code, no clash with pycaffe.

The messages live in a descriptor pool of their own, under a package name of their own (``onnxmtl_prototxt``). ::

    net = message("NetParameter")
    net.layer.add(name="conv1", type="Convolution").convolution_param.num_output = 64
    net.SerializeToString()  # a .caffemodel, to Caffe
"""

from __future__ import annotations

import functools
import re
from typing import Any

from google.protobuf import (  # type: ignore[import-untyped,unused-ignore]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

from onnxmtl.frontends.prototxt.tables import ENUMS, MESSAGES

PACKAGE = "onnxmtl_prototxt"
FIRST_OWN_NUMBER = 1000  # fields with this number or above are not stock Caffe's

_FIELD = re.compile(
    r"(?P<number>\d+) (?P<name>\w+) (?P<type>\w+)(?P<many>\*?)( (?P<packed>packed))?( = (?P<default>.+))?"
)
_Proto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Proto.TYPE_BOOL,
    "bytes": _Proto.TYPE_BYTES,
    "double": _Proto.TYPE_DOUBLE,
    "float": _Proto.TYPE_FLOAT,
    "int32": _Proto.TYPE_INT32,
    "int64": _Proto.TYPE_INT64,
    "string": _Proto.TYPE_STRING,
    "uint32": _Proto.TYPE_UINT32,
}


def message(name: str) -> Any:
    """A new message of the table, e.g. ``message("NetParameter")``.

    Raises:
        KeyError: The table has no such message.
    """
    return message_class(name)()


@functools.cache
def message_class(name: str) -> Any:
    """The class of a message of the table."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@functools.cache
def enum(name: str) -> dict[str, int]:
    """Names and numbers of an enumeration of the table."""
    return {key: int(number) for key, number in (entry.split("=") for entry in ENUMS[name].split())}


def is_repeated(field: Any) -> bool:
    """Whether a field descriptor is of a repeated field (protobuf 6 and older ones say so differently)."""
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == _Proto.LABEL_REPEATED


@functools.cache
def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE, syntax="proto2")
    for name in ENUMS:
        kind = file.message_type.add(name=f"{name}Enum").enum_type.add(name=name)  # enum values share their scope
        for key, number in enum(name).items():
            kind.value.add(name=key, number=number)
    for name, table in MESSAGES.items():
        proto = file.message_type.add(name=name)
        for line in filter(None, map(str.strip, table.splitlines())):
            _add_field(proto, line)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_field(proto: Any, line: str) -> None:
    match = _FIELD.fullmatch(line)
    assert match is not None, f"{proto.name}: {line}"
    kind = match["type"]
    field = proto.field.add(name=match["name"], number=int(match["number"]))
    field.label = _Proto.LABEL_REPEATED if match["many"] else _Proto.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    elif kind in ENUMS:
        field.type, field.type_name = _Proto.TYPE_ENUM, f".{PACKAGE}.{kind}Enum.{kind}"
    else:
        field.type, field.type_name = _Proto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    if match["packed"]:
        field.options.packed = True
    if match["default"]:
        field.default_value = match["default"]
