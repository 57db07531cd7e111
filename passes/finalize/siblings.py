"""Sibling fusion: convolutions side by side on one input become one convolution and a Split; and the way back.

Convolutions of several tasks, or of several branches, that read the same tensor with the same kernel size, strides,
pads and dilations compute channels of one larger convolution:

    y_i = W_i ∗ x + b_i    for i = 1 … n      ⟺      y_1, …, y_n = Split([W_1; …; W_n] ∗ x + [b_1; …; b_n])

Weights are stacked along the output channels, so no multiply-add and no parameter comes or goes (but zeros for a bias
that some have and others lack). An activation that all of them have behind them goes before the Split, where a runtime
can compute it together with the convolution. Grouped convolutions stay apart: their channels do not stack.

Whether it helps depends on the runtime. ONNX Runtime on a CPU computes channels in blocks (of 16 with AVX-512) and
fills the last one up. So it gains where fewer blocks are left (4 heads of 8 channels: 0.76×, of 12: 0.89×, of 40:
0.95×) and loses otherwise (4 heads of 32: 1.04×; branches of one task, as in an Inception module: 1.05 to 1.10×), for
a Split puts the blocks in order: ``tests/benchmarks/bench_finalize.py``. By default only the former are fused.

What a fused convolution was made of stands in its metadata, under ``onnxmtl.siblings``, and
:class:`SeparateSiblings` restores it, names, metadata and weights bit for bit. Everything that asks which task needs
what (costs, sharing, entry points, merging, quantization) looks at the separated model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Namer, Role, clone, head_of, new_initializer, role_of, set_role, stamp, tasks_of_nodes, unite
from onnxmtl.ir.attributes import canonical_attributes
from onnxmtl.ir.metadata import json_list
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ir.provenance import HEAD_KEY

SIBLINGS_KEY = "onnxmtl.siblings"

_ELEMENTWISE = frozenset(
    ("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Mish")
) | {"Gelu", "Clip"}
_CHANNELS = 1  # the axis of a map's channels

Member = dict[str, Any]  # what FuseSiblings writes of one convolution


class FuseSiblings(InPlacePass):
    """Fuse convolutions of different tasks that read one tensor alike: of their heads, or of their own branches.

    Where a task has several that are alike, its first one goes with the others' first, and so on. Requires weights
    that are initializers, each read by one convolution alone; others are left as they are. Ensures that outputs, and
    all values that others read, keep their names.

    Args:
        block: Channels that a runtime computes together: siblings are fused that need fewer blocks so; 1: all are.
        within_tasks: Fuse those of one task too.
    """

    preserves_numerics = True

    def __init__(self, block: int = 16, *, within_tasks: bool = False) -> None:
        super().__init__()
        self.block = block
        self.within_tasks = within_tasks

    def call(self, model: ir.Model) -> PassResult:
        """One walk over the convolutions; what reads a Split's output reads another tensor, so one is enough."""
        graph = model.graph
        needed = tasks_of_nodes(graph)
        seen: Counter[Hashable] = Counter()
        groups: dict[Hashable, list[ir.Node]] = {}
        for node in graph:
            if needed[node] and _can_be_stacked(node) and (key := _likeness(node, graph.opset_imports)) is not None:
                seen[key, needed[node]] += 1
                place = 0 if self.within_tasks else seen[key, needed[node]]
                groups.setdefault((key, place), []).append(node)
        found = [nodes for nodes in groups.values() if len(nodes) > 1 and self._pays(nodes)]
        namer = Namer(graph) if found else None
        for nodes in found:
            assert namer is not None
            _fuse(self, graph, namer, nodes)
        return PassResult(model, modified=bool(found))

    def _pays(self, nodes: Sequence[ir.Node]) -> bool:
        """Whether there are fewer blocks of channels afterwards, or nobody counts them."""
        channels = [len(_array(node.inputs[1])) for node in nodes]
        return self.block == 1 or _blocks(sum(channels), self.block) < sum(_blocks(n, self.block) for n in channels)


class SeparateSiblings(InPlacePass):
    """Undo :class:`FuseSiblings`.

    A convolution whose Split somebody has taken away or changed stays: it is an ordinary one then.

    Raises:
        ModelError: What its metadata says of a convolution is not what FuseSiblings writes.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Every fused convolution, in graph order."""
        graph = model.graph
        modified = False
        for node in list(graph):
            members = _members(node)
            if members and (parts := _parts_of(node, members)) is not None:
                _separate(graph, node, members, parts)
                modified = True
        return PassResult(model, modified)


def has_siblings(model: ir.Model) -> bool:
    """Whether some convolution of the model is a fused one."""
    return any(SIBLINGS_KEY in node.metadata_props for node in model.graph)


def separated(model: ir.Model) -> ir.Model:
    """The model itself if it has no fused siblings, else a copy with them separated.

    Raises:
        ModelError: Its metadata is damaged.
    """
    return SeparateSiblings()(clone(model)).model if has_siblings(model) else model


# Which convolutions are siblings


def _can_be_stacked(node: ir.Node) -> bool:
    if node.op_type != "Conv" or node.domain != "" or node.attributes.get_int("group", 1) != 1:
        return False
    weights = [value for value in node.inputs[1:] if value is not None]
    return node.inputs[0] is not None and len(weights) == len(node.inputs) - 1 and all(map(_is_private, weights))


def _is_private(value: ir.Value) -> bool:
    constant = value.is_initializer() and value.const_value is not None
    return constant and not value.is_graph_input() and not value.is_graph_output() and len(value.uses()) == 1


def _likeness(node: ir.Node, opsets: MutableMapping[str, int]) -> Hashable | None:
    """Equal for two convolutions if they can be stacked; None for one that nothing can be stacked with."""
    x, weight = node.inputs[:2]
    assert x is not None and weight is not None and weight.const_value is not None
    attributes = canonical_attributes(node, opsets)
    if attributes is None:
        return None
    plain = tuple(entry for entry in attributes if entry[0] != "kernel_shape")  # type: ignore[attr-defined]
    kernel = tuple(weight.const_value.shape.numpy())[2:]
    activation = _activation(node)
    alike = None
    if activation is not None:
        alike = (activation.op_type, canonical_attributes(activation, opsets), tuple(map(id, activation.inputs[1:])))
    in_head, in_skip = head_of(node) is not None, role_of(weight) is Role.SKIP
    return id(x), weight.const_value.dtype, kernel, plain, alike, in_head, in_skip


def _activation(node: ir.Node) -> ir.Node | None:
    """What alone reads the convolution, if it works element by element."""
    (result,) = node.outputs
    users = [use.node for use in result.uses()]
    if len(users) != 1 or result.is_graph_output():
        return None
    return users[0] if users[0].op_type in _ELEMENTWISE and users[0].domain == "" else None


# Fusing


def _blocks(channels: int, block: int) -> int:
    return -(-channels // block)


def _fuse(made_by: object, graph: ir.Graph, namer: Namer, nodes: Sequence[ir.Node]) -> None:
    first = nodes[0]
    activations = [node for node in map(_activation, nodes) if node is not None]
    members = [_describe(node, _activation(node)) for node in nodes]
    name = namer.unique(f"{first.name}/siblings")
    kernels = [_array(node.inputs[1]) for node in nodes]
    inputs = [first.inputs[0], _stacked(graph, namer, f"{name}.weight", kernels, first.inputs[1])]
    if any(len(node.inputs) > 2 for node in nodes):
        offsets = [
            _array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(len(kernel), kernel.dtype)
            for node, kernel in zip(nodes, kernels, strict=True)
        ]
        inputs.append(_stacked(graph, namer, f"{name}.bias", offsets, first.inputs[1]))
    channels = sum(map(len, kernels))
    fused = ir.Node(
        "",
        "Conv",
        inputs,
        first.attributes.values(),
        outputs=[_like(first.outputs[0], namer, name, channels)],
        name=name,
    )
    fused.metadata_props[SIBLINGS_KEY] = json.dumps(members, ensure_ascii=False, sort_keys=True)
    made = [fused]
    if activations:
        act = activations[0]
        label = namer.unique(f"{act.name}/siblings")
        out = _like(act.outputs[0], namer, label, channels)
        made.append(
            ir.Node(
                "", act.op_type, [fused.outputs[0], *act.inputs[1:]], act.attributes.values(), outputs=[out], name=label
            )
        )
    ends = [node.outputs[0] for node in activations or nodes]
    label = namer.unique(f"{name}/split")
    sizes = new_initializer(graph, namer.unique(f"{label}.sizes"), np.asarray([len(k) for k in kernels], np.int64))
    parts = [ir.Value(type=end.type, shape=end.shape) for end in ends]
    made.append(
        ir.Node("", "Split", [made[-1].outputs[0], sizes], [ir.AttrInt64("axis", _CHANNELS)], outputs=parts, name=label)
    )
    for node, old in zip(made, (nodes, activations, ())[: len(made)] if activations else (nodes, ()), strict=True):
        unite(node, *old)
        stamp(node, made_by)
        if head_of(first) is not None:
            node.metadata_props[HEAD_KEY] = "+".join(dict.fromkeys(str(head_of(member)) for member in nodes))
    graph.insert_before(first, made)
    for end, part in zip(ends, parts, strict=True):
        _hand_over(end, part)
    used = [value for node in nodes for value in node.inputs[1:]]
    graph.remove([*activations, *nodes], safe=True)
    _drop_unused(graph, used)


def _describe(node: ir.Node, activation: ir.Node | None) -> Member:
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    assert weight is not None and weight.const_value is not None
    return {
        "node": _named(node),
        "weight": _named(weight),
        "bias": None if bias is None else _named(bias),
        "channels": int(weight.const_value.shape.numpy()[0]),
        "output": _named(node.outputs[0]),
        "activation": None if activation is None else _named(activation),
    }


def _named(of: ir.Node | ir.Value) -> dict[str, Any]:
    return {"name": of.name, "metadata": dict(sorted(of.metadata_props.items()))}


def _stacked(
    graph: ir.Graph, namer: Namer, name: str, arrays: Sequence[np.ndarray[Any, Any]], like: ir.Value | None
) -> ir.Value:
    assert like is not None
    return set_role(new_initializer(graph, namer.unique(name), np.concatenate(arrays)), role_of(like))


def _like(value: ir.Value, namer: Namer, name: str, channels: int) -> ir.Value:
    """A value of the same type and shape, but for the channels."""
    shape = None
    if value.shape is not None:
        dims = list(value.shape)
        dims[_CHANNELS] = channels
        shape = ir.Shape(dims)
    return ir.Value(name=namer.unique(f"{name}_out"), type=value.type, shape=shape)


def _hand_over(old: ir.Value, new: ir.Value) -> None:
    """`new` takes the users of `old`, its name and its metadata."""
    name, old.name = old.name, None
    new.name = name
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _array(value: ir.Value | None) -> np.ndarray[Any, Any]:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def _drop_unused(graph: ir.Graph, values: Sequence[ir.Value | None]) -> None:
    for value in values:
        if value is not None and not value.uses():
            graph.initializers.pop(str(value.name), None)


# Separating


def _members(node: ir.Node) -> list[Member]:
    """What the node was made of; empty if it is no fused convolution."""
    if node.op_type != "Conv" or node.domain != "":
        return []
    found = json_list(node.metadata_props, SIBLINGS_KEY)
    members = [entry for entry in found if isinstance(entry, dict) and _is_member(entry)]
    if len(members) != len(found):
        msg = f"the metadata {SIBLINGS_KEY!r} of the node {node.name!r} is damaged; emit the model again"
        raise ModelError(msg)
    return members


def _is_member(entry: Member) -> bool:
    def named(key: str, optional: bool = False) -> bool:
        value = entry.get(key)
        if value is None:
            return optional
        return isinstance(value, dict) and isinstance(value.get("name"), str) and _is_text(value.get("metadata"))

    channels = entry.get("channels")
    given = named("node") and named("weight") and named("output")
    return given and named("bias", True) and named("activation", True) and isinstance(channels, int) and channels > 0


def _is_text(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(isinstance(text, str) for pair in metadata.items() for text in pair)


def _parts_of(node: ir.Node, members: Sequence[Member]) -> list[ir.Node] | None:
    """The nodes from the convolution to its Split; None if they are not as FuseSiblings leaves them."""
    chain = [node]
    if members[0]["activation"] is not None:
        activation = _activation(node)
        if activation is None:
            return None
        chain.append(activation)
    (result,) = chain[-1].outputs
    users = [use.node for use in result.uses()]
    if len(users) != 1 or result.is_graph_output() or users[0].op_type != "Split" or users[0].domain != "":
        return None
    sizes = users[0].inputs[1] if len(users[0].inputs) > 1 else None
    channels = [member["channels"] for member in members]
    if sizes is None or sizes.const_value is None or sizes.const_value.numpy().tolist() != channels:
        return None
    weights = node.inputs[1:]
    lengths = {value.const_value.shape.numpy()[0] for value in weights if value and value.const_value is not None}
    if lengths != {sum(channels)} or users[0].attributes.get_int("axis", 0) != _CHANNELS:
        return None
    return [*chain, users[0]]


def _separate(graph: ir.Graph, fused: ir.Node, members: Sequence[Member], chain: Sequence[ir.Node]) -> None:
    split = chain[-1]
    namer = Namer(graph)
    kernel = _array(fused.inputs[1])
    offset = _array(fused.inputs[2]) if len(fused.inputs) > 2 else None
    made: list[ir.Node] = []
    ends: list[ir.Value] = []
    for member, (start, stop), part in zip(members, _ranges(members), split.outputs, strict=True):
        inputs = [fused.inputs[0], _restored(graph, namer, member["weight"], kernel[start:stop])]
        if member["bias"] is not None and offset is not None:
            inputs.append(_restored(graph, namer, member["bias"], offset[start:stop]))
        node = _node(namer, member["node"], fused, inputs, part)
        node.outputs[0].metadata_props.update(member["output"]["metadata"])
        made.append(node)
        if member["activation"] is not None:
            node.outputs[0].name = namer.unique(member["output"]["name"])
            made.append(_node(namer, member["activation"], chain[1], [node.outputs[0], *chain[1].inputs[1:]], part))
        ends.append(made[-1].outputs[0])
    graph.insert_before(fused, made)
    for part, end in zip(split.outputs, ends, strict=True):
        _hand_over(part, end)
    used = [value for node in (fused, split) for value in node.inputs[1:]]
    graph.remove(list(reversed(chain)), safe=True)
    _drop_unused(graph, used)


def _ranges(members: Sequence[Member]) -> Iterator[tuple[int, int]]:
    start = 0
    for member in members:
        yield start, start + member["channels"]
        start += member["channels"]


def _restored(graph: ir.Graph, namer: Namer, entry: Member, array: np.ndarray[Any, Any]) -> ir.Value:
    value = new_initializer(graph, namer.unique(entry["name"]), np.ascontiguousarray(array))
    value.metadata_props.update(entry["metadata"])
    return value


def _node(namer: Namer, entry: Member, like: ir.Node, inputs: Sequence[ir.Value | None], part: ir.Value) -> ir.Node:
    """One of what `like` stands for, with an output as `part`."""
    out = ir.Value(type=part.type, shape=part.shape)
    return ir.Node(
        "",
        like.op_type,
        inputs,
        like.attributes.values(),
        outputs=[out],
        name=namer.unique(entry["name"]),
        metadata_props=dict(entry["metadata"]),
    )
