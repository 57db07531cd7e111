"""One model of several segments, and of it only what some outputs need: bytes in, bytes out.

The runner has neither onnx nor protobuf, so the few fields that matter are read as they lie in the file. A protobuf
message is a sequence of fields, each a varint of number and wire type and a value of its own length; fields that
nobody looks at are carried over as they are. Numbers are those of onnx.proto.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnxmtl.errors import ModelError

# ModelProto
_GRAPH = 7
# GraphProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 1, 5, 11, 12, 13
# NodeProto
_READS, _WRITES = 1, 2
# The field with the name, in TensorProto and ValueInfoProto
_TENSOR_NAME, _VALUE_NAME = 8, 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclasses.dataclass(frozen=True)
class _Graph:
    """The parts of one segment's graph, each with the names that tie it to others.

    Attributes:
        nodes: Names read, names written, and the node.
        initializers: By name.
        values: Inputs, outputs and known types of tensors, by name.
        rest: All other fields, with their tags.
    """

    nodes: tuple[tuple[frozenset[str], frozenset[str], bytes], ...]
    initializers: dict[str, bytes]
    values: dict[str, bytes]
    rest: bytes


def assemble(files: Sequence[Path], image: str, outputs: Sequence[str]) -> bytes:
    """A serialised model that computes some outputs of segments, and nothing that they do not need.

    Args:
        files: The segments, in an order in which they can run. Tensors of one name are the same tensor.
        image: Name of the input. The model has none if the outputs do not need it.
        outputs: Names of the tensors that become outputs, in this order.

    Returns:
        The model. Weights stay where they are: what lies in an external file is still looked for there.

    Raises:
        ModelError: A file cannot be read, is no ONNX model, or no file computes one of the outputs.
    """
    graphs, head = [], b""
    for file in files:
        head, graph = _read(file)
        graphs.append(graph)
    needed = set(outputs)
    kept: list[bytes] = []
    for reads, writes, node in reversed([node for graph in graphs for node in graph.nodes]):
        if needed.intersection(writes):
            needed |= reads
            kept.append(node)
    initializers = {name: tensor for graph in graphs for name, tensor in graph.initializers.items() if name in needed}
    values = {name: value for graph in graphs for name, value in graph.values.items()}
    inputs = [image] if image in needed else []  # an output may be a constant
    if missing := [name for name in (*inputs, *outputs) if name not in values]:
        msg = f"{files[0].parent}: no segment has the tensor {missing[0]!r}"
        raise ModelError(msg)
    between = [name for name in values if name in needed and name not in (image, *outputs, *initializers)]
    parts = [_field(_NODE, node) for node in reversed(kept)]
    parts.append(graphs[0].rest)
    parts += [_field(_INITIALIZER, tensor) for tensor in initializers.values()]
    parts += [_field(_INPUT, values[name]) for name in inputs]
    parts += [_field(_OUTPUT, values[name]) for name in outputs]
    parts += [_field(_VALUE_INFO, values[name]) for name in between]
    return head + _field(_GRAPH, b"".join(parts))


def _read(file: Path) -> tuple[bytes, _Graph]:
    """All fields of a model file but the graph, and the graph."""
    try:
        content = memoryview(file.read_bytes())
        fields = list(_fields(content))
        (graph,) = (content[start:end] for number, _, start, end in fields if number == _GRAPH)
        head = b"".join(content[begin:end] for number, begin, _, end in fields if number != _GRAPH)
        return head, _parse(graph)
    except OSError as e:
        msg = f"{file}: cannot be read ({e.strerror})"
        raise ModelError(msg) from e
    except ValueError as e:  # of _fields, of a wrong number of graphs, of names that are no text
        msg = f"{file}: is no ONNX model, or a damaged one; write the directory again"
        raise ModelError(msg) from e


def _parse(graph: memoryview) -> _Graph:
    nodes, initializers, values, rest = [], {}, {}, b""
    for number, begin, start, end in _fields(graph):
        content = graph[start:end]
        if number == _NODE:
            nodes.append((_names(content, _READS), _names(content, _WRITES), bytes(content)))
        elif number == _INITIALIZER:
            initializers[_name(content, _TENSOR_NAME)] = bytes(content)
        elif number in (_INPUT, _OUTPUT, _VALUE_INFO):
            values[_name(content, _VALUE_NAME)] = bytes(content)
        else:
            rest += bytes(graph[begin:end])
    return _Graph(tuple(nodes), initializers, values, rest)


def _names(message: memoryview, field: int) -> frozenset[str]:
    """Names of tensors; an input that is left out has an empty one."""
    found = (str(message[start:end], "utf-8") for number, _, start, end in _fields(message) if number == field)
    return frozenset(name for name in found if name)


def _name(message: memoryview, field: int) -> str:
    (name,) = _names(message, field)
    return name


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number of each field, where it begins, where its value begins, and where it ends.

    Raises:
        ValueError: The bytes are no message.
    """
    position = 0
    while position < len(message):
        begin = position
        tag, position = _varint(message, position)
        start, wire = position, tag & 7
        if wire == _VARINT:
            _, position = _varint(message, position)
        elif wire == _BYTES:
            length, start = _varint(message, position)
            position = start + length
        elif wire in (_FIXED32, _FIXED64):
            position += 4 if wire == _FIXED32 else 8
        else:
            msg = f"no wire type {wire}"
            raise ValueError(msg)
        if position > len(message):
            msg = "the message ends too early"
            raise ValueError(msg)
        yield tag >> 3, begin, start, position


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; and the position behind it."""
    number = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
    msg = "a number does not end"
    raise ValueError(msg)


def _field(number: int, content: bytes) -> bytes:
    """A field with a message or text in it."""
    return _number(number << 3 | _BYTES) + _number(len(content)) + content


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
