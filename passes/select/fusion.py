"""``prune_fusion``: what an architecture leaves of fusion units.

A unit is a sum of 1×1 convolutions, one per feature that it reads. With the cut terms gone, the others become one
convolution over the concatenated features,

    W·x + Σ_e W_e·x_e  =  [W W_1 … W_k] ∗ concat(x, x_1, …, x_k)

so a cut edge has neither a slice of the weight nor a place in the concatenation, and costs nothing. A unit without
an edge keeps the convolution of its own features; ``finalize`` folds it where it can
(:mod:`onnxmtl.passes.finalize.fusion_units`).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Namer, new_initializer, role_of, set_role, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult, RemoveUnusedNodesPass
from onnxmtl.passes._fusion_parts import ALONE, FUSION_KEY, JOIN, SLICE, UNIT, ZERO


class JoinEdges(InPlacePass):
    """Join the slices of every fusion unit to one convolution, as the module says. Other graphs are left alone.

    Requires that the Choices at the units are resolved; a unit that still has one stays as it is. The joined weight
    has the role of the slices and is trained like them; the node carries ``onnxmtl.fusion``, ``unit`` or ``alone``.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Join in place; slices and zeros that nobody needs any more are dropped."""
        graph = model.graph
        namer = Namer(graph)
        modified = False
        for node in list(graph):
            if node.metadata_props.get(FUSION_KEY) == JOIN:
                modified |= self._join(graph, node, namer)
        if modified:
            RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)

    def _join(self, graph: ir.Graph, total: ir.Node, namer: Namer) -> bool:
        makers = [value.producer() for value in total.inputs if value is not None]
        terms = [maker for maker in makers if maker is not None and _part(maker) == SLICE]
        if len(terms) + sum(maker is not None and _part(maker) == ZERO for maker in makers) < len(makers):
            return False
        total_out, result = total.outputs[0], terms[0].outputs[0]
        if len(terms) == 1:
            terms[0].metadata_props[FUSION_KEY] = ALONE
        else:
            result = self._one(graph, total, terms, namer)
        name, total_out.name = total_out.name, None
        result.name = name
        total_out.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(total, safe=True)
        return True

    def _one(self, graph: ir.Graph, total: ir.Node, terms: list[ir.Node], namer: Namer) -> ir.Value:
        """Concatenation and convolution in the place of the sum."""
        read = [term.inputs[0] for term in terms]
        weights = [term.inputs[1] for term in terms]
        arrays = [value.const_value.numpy() for value in weights if value is not None and value.const_value is not None]
        first, x = weights[0], read[0]
        assert first is not None and x is not None and len(arrays) == len(terms)
        name = str(total.name).removesuffix("/sum")
        weight = new_initializer(graph, namer.unique(f"{name}.weight"), np.concatenate(arrays, axis=1))
        set_role(weight, role_of(first))
        wide = ir.Value(name=namer.unique(f"{name}/concat_out"), type=x.type)
        if x.shape is not None:
            wide.shape = ir.Shape([x.shape[0], sum(array.shape[1] for array in arrays), *x.shape[2:]])
        concat = ir.Node(
            "", "Concat", read, [ir.AttrInt64("axis", 1)], outputs=[wide], name=namer.unique(f"{name}/concat")
        )
        out = ir.Value(name=namer.unique(f"{name}/conv_out"), type=x.type, shape=total.outputs[0].shape)
        conv = ir.Node(
            "",
            "Conv",
            [wide, weight],
            terms[0].attributes.values(),
            outputs=[out],
            name=namer.unique(f"{name}/conv"),
            metadata_props={FUSION_KEY: UNIT},
        )
        graph.insert_before(total, [stamp(concat, self), stamp(conv, self)])
        return out


def _part(node: ir.Node) -> str | None:
    return node.metadata_props.get(FUSION_KEY)
