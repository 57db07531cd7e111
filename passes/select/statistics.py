"""One set of running statistics per distinct input of a normalization.

Tasks that share a normalization's weights but not its input share scale and shift; mean and variance describe the
input, so each node keeps its own. They start as copies and part with recalibration and retraining.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import Namer, copy_initializer, tasks_of_nodes
from onnxmtl.ir.passes import InPlacePass, PassResult


class SplitStatistics(InPlacePass):
    """Give every normalization node its own mean and variance.

    Run it after equal nodes were merged, or nodes that could have been one will differ.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Copy statistics that a second node uses."""
        graph = model.graph
        tasks = tasks_of_nodes(graph)
        namer = Namer(graph)
        first_user: dict[ir.Value, ir.Node] = {}
        modified = False
        for node in graph:
            for slot, value in ops.weight_slots(node):
                if slot.name not in ("mean", "variance"):
                    continue
                if first_user.setdefault(value, node) is node:
                    continue
                suffix = "+".join(sorted(tasks[node]))
                copy = copy_initializer(graph, value, namer.unique(f"{value.name}/{suffix}"))
                node.replace_input_with(slot.index, copy)
                first_user[copy] = node
                modified = True
        return PassResult(model, modified)
