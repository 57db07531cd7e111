"""Random factors that an export in training mode leaves behind (stochastic depth) become what they are on average."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Diagnostic, Namer, counted, listed, new_initializer, report
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ops import mark_constant
from onnxmtl.passes.normalize.fold import remove_dead

_RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"})
_DRAWN_BY_SHAPE = frozenset({"Shape", "Size"})
_SAME_ELEMENTS = frozenset({"Cast", "CastLike", "Expand", "Identity", "Reshape", "Squeeze", "Tile", "Unsqueeze"})
_EXACT = 1e-6  # a mean this near to 1 is 1: keep / keep in float32


class DropNoise(InPlacePass):
    """Removes a Mul by values that are drawn at random and hang on nothing else: in evaluation mode torch has none.

    Stochastic depth keeps its mean by dividing by the probability to keep, within the factor (the mean is 1: the Mul
    goes) or on the other side of it (``x / keep * floor(random + keep)``: the mean takes the factor's place). A factor
    whose mean cannot be told is taken for the former.

    Requires: constants are folded. Ensures: no Mul by mere noise; other uses of random values stay.
    The numbers change for an export in training mode: that is the point.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Walk once; `drawn` are the values of constants, shapes and random numbers."""
        graph, namer = model.graph, Namer(model.graph)
        drawn: dict[ir.Value, bool] = {}  # whether a random number is in it
        means: dict[ir.Value, float] = {}
        removed: list[str] = []
        for node in graph:
            inputs = [value for value in node.inputs if value is not None and not _is_constant(value)]
            free = node.op_type in _DRAWN_BY_SHAPE or all(value in drawn for value in inputs)
            if node.domain != "":
                continue
            if free or (node.op_type in _RANDOM and node.op_type.endswith("Like")):
                random = node.op_type in _RANDOM or any(drawn.get(value, False) for value in inputs)
                drawn.update(dict.fromkeys(node.outputs, random))
                mean = _mean(node, means)
                if mean is not None:
                    means[node.outputs[0]] = mean
            elif node.op_type == "Mul" and (place := _place_of_noise(node, drawn)) is not None:
                noise, kept = node.inputs[place], node.inputs[1 - place]
                assert noise is not None and kept is not None
                mean = means.get(noise, 1.0)
                if abs(mean - 1) > _EXACT:
                    array = np.array(mean, np.float32 if noise.dtype is None else noise.dtype.numpy())
                    factor = new_initializer(graph, namer.unique(f"{node.name}.mean"), array)
                    mark_constant(factor, "mean of a random factor")
                    node.replace_input_with(place, factor)
                elif node.outputs[0].is_graph_output():
                    continue
                else:
                    node.outputs[0].replace_all_uses_with(kept)
                    graph.remove(node, safe=True)
                removed.append(str(node.name))
        if removed:
            remove_dead(graph)
            message = (
                f"{counted(len(removed), 'random factor')} of an export in training mode removed ({listed(removed)})"
            )
            report(model, Diagnostic("noise-removed", message))
        return PassResult(model, bool(removed))


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _place_of_noise(node: ir.Node, drawn: Mapping[ir.Value, bool]) -> int | None:
    """Which of two factors is noise; None if none is, or both."""
    noise = [value is not None and drawn.get(value, False) for value in node.inputs]
    return noise.index(True) if sorted(noise) == [False, True] else None


def _mean(node: ir.Node, means: Mapping[ir.Value, float]) -> float | None:
    """The mean of the elements that a node of constants and random numbers makes; None if it is not known."""
    known = [None if value is None else _mean_of(value, means) for value in node.inputs]
    first, second = (*known, None, None)[:2]
    match node.op_type:
        case "RandomUniform" | "RandomUniformLike":
            low, high = _bounds(node)
            return (low + high) / 2
        case "RandomNormal" | "RandomNormalLike":
            return node.attributes.get_float("mean", 0.0)
        case "Bernoulli":
            return first
        case "ConstantOfShape":
            value = node.attributes.get("value")
            return 0.0 if value is None else float(value.as_tensor().numpy().reshape(-1)[0])
        case "Less" | "LessOrEqual" if second is not None and _is_uniform(node.inputs[0]):
            return second
        case "Floor" if first is not None and _is_shifted_uniform(node.inputs[0], means):
            return first - 0.5  # floor(u + keep) is 1 with the probability keep; the mean of u + keep is keep + 0.5
        case op if op in _SAME_ELEMENTS:
            return first
    if first is None or second is None:
        return None
    match node.op_type:
        case "Add":
            return first + second
        case "Sub":
            return first - second
        case "Mul" if _certain(node.inputs[0]) or _certain(node.inputs[1]):
            return first * second
        case "Div" if _certain(node.inputs[1]) and second != 0:
            return first / second
    return None


def _mean_of(value: ir.Value, means: Mapping[ir.Value, float]) -> float | None:
    """Of a constant whose elements are all the same, its element."""
    if value.const_value is None or not _is_constant(value):
        return means.get(value)
    if value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(-1)[0])


def _certain(value: ir.Value | None) -> bool:
    """Whether no random number is in the value; only constants are sure not to have one."""
    return value is not None and _is_constant(value)


def _bounds(node: ir.Node) -> tuple[float, float]:
    return node.attributes.get_float("low", 0.0), node.attributes.get_float("high", 1.0)


def _is_uniform(value: ir.Value | None) -> bool:
    """Whether the value is drawn evenly from 0 … 1."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _SAME_ELEMENTS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in ("RandomUniform", "RandomUniformLike") and _bounds(node) == (0.0, 1.0)


def _is_shifted_uniform(value: ir.Value | None, means: Mapping[ir.Value, float]) -> bool:
    """Whether the value is a number from 0 to 1, plus what is drawn evenly from 0 … 1."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Add":
        return False
    for drawn, other in (node.inputs, node.inputs[::-1]):
        shift = None if other is None or not _certain(other) else _mean_of(other, means)
        if _is_uniform(drawn) and shift is not None and 0 <= shift <= 1:
            return True
    return False
