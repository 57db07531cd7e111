"""Any onnx-graphsurgeon function as a pass. ::

def use_hardswish(graph):           # as TensorRT users write it: edits in place, or returns a graph
    for node in graph.nodes:
        if node.op == "Relu":
            node.op = "HardSwish"

Pipeline([GraphSurgeonPass(use_hardswish)])(model)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxmtl.frontends.graphsurgeon import from_graphsurgeon, is_new, to_graphsurgeon
from onnxmtl.ir import is_supermodel, name_nodes, stamp, to_bytes
from onnxmtl.ir.passes import FunctionalPass, PassResult, Refused
from onnxmtl.passes.supermodel_guard import Choices

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class GraphSurgeonPass(FunctionalPass):
    """Runs `function` on a graphsurgeon graph of the model.

    Requires onnx-graphsurgeon. Ensures that what is still there has its metadata (whatever the function renamed), that
    new nodes have a name of their own and the function's name as ``onnxmtl.pass``, and that nodes are in order. Weights
    that the function does not read stay lazy.

    Args:
        function: Takes a ``gs.Graph``; edits it and returns None, or returns the graph or another one. Calling
            ``cleanup()`` and ``toposort()`` is left to it.
        changes_outputs: Whether it may rename, add or drop outputs.
        preserves_numerics: Whether it promises to keep the numbers; a NumericGuard then holds it to that.

    Raises:
        Refused: The function returns no graph, leaves one that cannot be written or has a cycle, or breaks a
            supermodel's Choices.
    """

    def __init__(
        self,
        function: Callable[[gs.Graph], gs.Graph | None],
        *,
        changes_outputs: bool = False,
        preserves_numerics: bool = False,
    ) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.changes_outputs = changes_outputs
        self.preserves_numerics = preserves_numerics

    def call(self, model: ir.Model) -> PassResult:
        """There and back; the model that is handed in stays as it is."""
        graph = to_graphsurgeon(model)
        result = self.function(graph)
        edited = graph if result is None else result
        if not isinstance(edited, type(graph)):
            raise Refused(f"{self.name}: must edit the graph or return one, not {type(edited).__name__}")
        rebuilt = from_graphsurgeon(edited, origin=model)
        try:
            rebuilt.graph.sort()  # stable: a graph in order stays in order
        except ValueError as error:
            raise Refused(f"{self.name}: left a graph with a cycle") from error
        name_nodes(rebuilt.graph)
        for node in rebuilt.graph:
            if is_new(node):
                stamp(node, self.name)
        if is_supermodel(model):
            problem = Choices.of(rebuilt).broken(Choices.of(model))
            if problem is not None:
                raise Refused(f"{self.name} broke the supermodel: {problem}; edit the backbone, or the selected model")
        return PassResult(rebuilt, modified=to_bytes(rebuilt) != to_bytes(model))
