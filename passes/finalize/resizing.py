"""Resize in the form that every tool reads: scales or sizes for all axes, no ``axes`` attribute.

``axes`` came with opset 18. Tools that do not know it take the scales or sizes for those of the first axes. Without it
the same is said so:

    sizes, and float32 holds every ratio     scales [1, 1, r_h, r_w]
    sizes, any other                         sizes [N, C, h, w]; those that are open are read from the tensor
    scales                                   scales [1, 1, s_h, s_w]

A ratio that float32 does not hold is not rounded: with floor(x / scale) a pixel would move.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Namer, Role, new_initializer, role_of, set_role, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult

# What is written for one axis: a number, what was given for it, or None for the tensor's own size.
_Entry: TypeAlias = float | ir.Value | None


class ResizeAllAxes(InPlacePass):
    """Write every Resize without ``axes``; the numbers stay, to the last bit.

    Left as they are: a Resize whose input's rank is unknown; one that crops (``tf_crop_and_resize``); one that keeps
    the aspect ratio, which of all axes would be another; computed scales or sizes of axes that are not side by side.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """One walk in graph order."""
        graph = model.graph
        found = [node for node in graph if node.op_type == "Resize" and node.domain == "" and "axes" in node.attributes]
        namer = Namer(graph) if found else None
        modified = False
        for node in found:
            assert namer is not None
            modified |= _rewrite(_Maker(graph, node, namer, self), node)
        return PassResult(model, modified)


def _rewrite(maker: _Maker, node: ir.Node) -> bool:
    x, scales, sizes = node.inputs[0], _given(node, 2), _given(node, 3)
    given = sizes if scales is None else scales
    stretches = node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    crops = node.attributes.get_string("coordinate_transformation_mode") == "tf_crop_and_resize"
    if x is None or x.shape is None or given is None or not stretches or crops:
        return False
    dims = [dim if isinstance(dim, int) else None for dim in x.shape]
    axes = [axis % len(dims) for axis in node.attributes["axes"].as_ints()]
    known = None if given.const_value is None else given.const_value.numpy().tolist()
    if known is None and axes != list(range(axes[0], axes[0] + len(axes))):
        return False
    ratios = None if known is None or sizes is None else _ratios([dims[axis] for axis in axes], known)
    by_scale = scales is not None or ratios is not None
    entries: list[_Entry] = [1.0] * len(dims) if by_scale else list(dims)
    for axis, entry in zip(axes, ratios or known or [given] * len(axes), strict=True):
        entries[axis] = entry
    name, dtype = ("scales", np.float32) if by_scale else ("sizes", np.int64)
    made = maker.vector(name, entries, dtype, role_of(given))
    node.resize_inputs(3 if by_scale else 4)
    node.replace_input_with(2, made if by_scale else None)
    if not by_scale:
        node.replace_input_with(3, made)
    del node.attributes["axes"]
    return True


def _given(node: ir.Node, index: int) -> ir.Value | None:
    """An input; none is also given by an empty tensor."""
    value = node.inputs[index] if index < len(node.inputs) else None
    empty = value is not None and value.const_value is not None and value.const_value.size == 0
    return None if empty else value


def _ratios(before: Sequence[int | None], after: Sequence[int]) -> list[float] | None:
    """after / before, if float32 holds them all."""
    if not all(before):
        return None
    ratios = [new / old for new, old in zip(after, before, strict=True) if old]
    return ratios if all(float(np.float32(ratio)) == ratio for ratio in ratios) else None


class _Maker:
    """Makes what stands before one Resize; all of it comes from where the Resize comes from."""

    def __init__(self, graph: ir.Graph, node: ir.Node, namer: Namer, made_by: object) -> None:
        self._graph, self._node, self._namer, self._made_by = graph, node, namer, made_by

    def vector(self, name: str, entries: Sequence[_Entry], dtype: type[np.generic], role: Role) -> ir.Value:
        """The entries as one tensor of rank 1: an initializer, of that role, where all are numbers."""
        groups = itertools.groupby(enumerate(entries), lambda item: _kind(item[1]))
        parts = [self._part(name, list(group), dtype, role) for _, group in groups]
        if len(parts) == 1:
            return parts[0]
        return self._op("Concat", parts, {"axis": 0}, name, len(entries), parts[0])

    def _part(self, name: str, group: list[tuple[int, _Entry]], dtype: type[np.generic], role: Role) -> ir.Value:
        start, entry = group[0]
        if isinstance(entry, ir.Value):
            return entry
        if entry is None:
            span = {"start": start, "end": start + len(group)}
            return self._op("Shape", [self._node.inputs[0]], span, f"{name}_open", len(group))
        full = self._namer.unique(f"{self._node.name}/{name}")
        made = new_initializer(self._graph, full, np.array([entry for _, entry in group], dtype))
        return set_role(made, role)

    def _op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, int],
        name: str,
        length: int,
        like: ir.Value | None = None,
    ) -> ir.Value:
        full = self._namer.unique(f"{self._node.name}/{name}")
        node = ir.node(op_type, inputs, attributes, name=full)
        node.metadata_props.update(self._node.metadata_props)
        stamp(node, self._made_by)
        value = node.outputs[0]
        value.name, value.shape = full, ir.Shape([length])
        value.type = ir.TensorType(ir.DataType.INT64) if like is None else like.type
        self._graph.insert_before(self._node, node)
        return value


def _kind(entry: _Entry) -> int:
    return 0 if entry is None else 1 if isinstance(entry, ir.Value) else 2
