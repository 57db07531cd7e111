"""Random factors that an export in training mode leaves behind (stochastic depth) are 1."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.ir import Diagnostic, counted, listed, report
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.fold import remove_dead

_RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"})
_DRAWN_BY_SHAPE = frozenset({"Shape", "Size"})


class DropNoise(InPlacePass):
    """Removes a Mul by values that are drawn at random and hang on nothing else: their mean is 1 where it is
    stochastic depth, and in evaluation mode torch has none.

    Requires: constants are folded. Ensures: no Mul by mere noise; other uses of random values stay.
    The numbers change for an export in training mode: that is the point.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Walk once; `drawn` are the values of constants, shapes and random numbers."""
        graph = model.graph
        drawn: dict[ir.Value, bool] = {}  # whether a random number is in it
        removed: list[str] = []
        for node in graph:
            inputs = [value for value in node.inputs if value is not None and not _is_constant(value)]
            free = node.op_type in _DRAWN_BY_SHAPE or all(value in drawn for value in inputs)
            if node.domain != "":
                continue
            if free:
                random = node.op_type in _RANDOM or any(drawn.get(value, False) for value in inputs)
                drawn.update(dict.fromkeys(node.outputs, random))
            elif node.op_type in _RANDOM and all(node.op_type.endswith("Like") for _ in inputs):
                drawn.update(dict.fromkeys(node.outputs, True))
            elif node.op_type == "Mul" and (kept := _without_noise(node, drawn)) is not None:
                node.outputs[0].replace_all_uses_with(kept)
                if not node.outputs[0].is_graph_output():
                    removed.append(str(node.name))
                    graph.remove(node, safe=True)
        if removed:
            remove_dead(graph)
            shown = listed(removed)
            message = f"{counted(len(removed), 'random factor')} of an export in training mode removed ({shown})"
            report(model, Diagnostic("noise-removed", message))
        return PassResult(model, bool(removed))


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _without_noise(node: ir.Node, drawn: dict[ir.Value, bool]) -> ir.Value | None:
    """The factor that is not noise; None if there is no noise, or nothing else."""
    noise = [value is not None and drawn.get(value, False) for value in node.inputs]
    return node.inputs[noise.index(False)] if sorted(noise) == [False, True] else None
