"""Segments hand float16 tensors over as float32.

Where a runtime has no float16 kernel it computes in float32, and rounds to float16 only what leaves the graph. A tensor
that crosses from one segment to the next would be rounded there, and nowhere in the whole model. Handed over as float32
it is what the whole model has, bit for bit; where the runtime does compute in float16, the way there and back changes
nothing either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxmtl.ir import Namer, stamp
from onnxmtl.ir.copying import copy_shape

if TYPE_CHECKING:
    from onnxmtl.passes.entry_points import Segment

_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
_MADE_BY = "hand_over_float32"


def hand_over_float32(model: ir.Model, segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Put casts at both ends of every float16 tensor that goes from one segment to another.

    Args:
        model: What the segments are of; the casts become part of it.
        segments: In the order in which they run.

    Returns:
        The segments with the casts.
    """
    graph = model.graph
    namer = Namer(graph)
    given: dict[ir.Value, ir.Value] = {}  # float16 tensor -> as it is handed over
    made = []
    for segment in segments:
        nodes = list(segment.nodes)
        inputs = list(segment.inputs)
        for index, value in enumerate(inputs):
            if value not in given:
                continue
            back = _cast(namer, given[value], _HALF)
            graph.insert_before(nodes[0], back)
            for node in nodes:
                for position, read in enumerate(node.inputs):
                    if read is value:
                        node.replace_input_with(position, back.outputs[0])
            nodes.insert(0, back)
            inputs[index] = given[value]
        outputs: list[ir.Value] = []
        for value in segment.outputs:
            outside = any(value in other.inputs for other in segments)
            if value.dtype is not _HALF or not outside:
                outputs.append(value)
                continue
            away = _cast(namer, value, _SINGLE)
            graph.insert_after(nodes[-1], away)
            nodes.append(away)
            given[value] = away.outputs[0]
            outputs += [value, away.outputs[0]] if value.is_graph_output() else [away.outputs[0]]
        made.append(dataclasses.replace(segment, nodes=tuple(nodes), inputs=tuple(inputs), outputs=tuple(outputs)))
    return tuple(made)


def _cast(namer: Namer, value: ir.Value, to: ir.DataType) -> ir.Node:
    kind = "float16" if to is _HALF else "float32"
    out = ir.Value(name=namer.unique(f"{value.name}/{kind}"), type=ir.TensorType(to), shape=copy_shape(value))
    label = namer.unique(f"{value.name}/to_{kind}")
    return stamp(ir.Node("", "Cast", [value], [ir.AttrInt64("to", to.value)], outputs=[out], name=label), _MADE_BY)
