"""The ``select_or_skip`` space (AdaShare): every task executes a residual block or skips it.

With fx = relu(residual + block(x)), where residual is x or its projection, task t holds behind the block

    p_t(select) · fx + p_t(skip) · residual

as the released code computes it: a skipped block is its shortcut, without the activation behind the addition. Weights
and running statistics are those of the backbone, shared by all tasks; everything outside blocks (stem, projections,
what joins several maps) is always executed. What a block is says :mod:`onnxmtl.analysis.shortcuts`.

Requires a multi-task graph: a backbone with heads attached, outputs named after the tasks. Ensures one Choice
("select", "skip") per (block, task that comes by), its site called as the block's adding node. A block that one task
alone comes by is a site too: that task may still skip it. With the architecture "all select" the supermodel computes
exactly what the multi-task graph did; blocks that no task selects are gone after ``select``, with their weights.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.analysis.shortcuts import Residual, refused_additions, residual_blocks
from onnxmtl.ir import Diagnostic, head_of, is_supermodel, report
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused, RemoveUnusedNodesPass
from onnxmtl.passes.spaces.copies import TaskCopies

SELECT, SKIP = "select", "skip"
_OTHER = "take a backbone with residual blocks, or the space vcn (recipe automtl), which chooses at every layer"


class SelectOrSkip(InPlacePass):
    """Turn a multi-task graph into AdaShare's supermodel.

    Args:
        shared_prefix: The first N blocks are executed by every task and get no Choice.
        prior: Logit of ``select`` to begin with, of ``skip`` 0; see :class:`onnxmtl.passes.spaces.vcn.Vcn`.
    """

    def __init__(self, *, shared_prefix: int = 0, prior: float = 0.0) -> None:
        self.shared_prefix = shared_prefix
        self.prior = prior

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads, or one that holds Choices already."""
        if is_supermodel(model):
            msg = "select_or_skip: this model already holds Choices; give the pass the multi-task graph before them"
            raise Refused(msg)
        if not any(head_of(node) is not None for node in model.graph):
            raise Refused("select_or_skip: the graph has no task heads; run AttachHeads first")

    def call(self, model: ir.Model) -> PassResult:
        """Insert the Choices in place; nodes that no task needs are dropped.

        Raises:
            Refused: There is no residual block that could be skipped.
        """
        RemoveUnusedNodesPass()(model)
        found = residual_blocks(model.graph)
        blocks = [block for block in found if not block.exit.is_graph_output()]
        lateral = refused_additions(model.graph)
        if not blocks:
            raise Refused(_nothing_to_skip(lateral))
        if self.shared_prefix >= len(blocks):
            msg = f"select_or_skip: shared_prefix={self.shared_prefix} leaves none of {len(blocks)} blocks to decide on"
            raise Refused(f"{msg}; make it smaller")
        for remark in lateral:
            report(model, remark)
        for block in (block for block in found if block.exit.is_graph_output()):
            message = f"its result {block.exit.name!r} is an output of the model as it is"
            report(model, Diagnostic("site-not-made", message, block.id))
        for block in blocks[: self.shared_prefix]:
            message = f"one of the first {self.shared_prefix} blocks, which the settings force to be executed"
            report(model, Diagnostic("site-not-made", message, block.id, "a smaller --shared-prefix frees it"))
        _build(model.graph, blocks[self.shared_prefix :], self)
        model.metadata_props["onnxmtl.kind"] = "supermodel"
        return PassResult(model, modified=True)


def _build(graph: ir.Graph, blocks: list[Residual], made_by: SelectOrSkip) -> None:
    copies = TaskCopies(graph, made_by)
    ends = {block.exit.producer(): block for block in blocks}
    for node in graph:
        copies.plain(node, copies.tasks_of(node))
        block = ends.get(node)
        if block is None:
            continue
        for task in copies.tasks_of(node):
            options = [(SELECT, copies.held(block.exit, task)), (SKIP, copies.held(block.shortcut, task))]
            logits = copies.logits(block.id, task, len(options), made_by.prior)
            copies.choose(block.id, task, block.exit, options, logits)
    copies.finish()


def _nothing_to_skip(lateral: list[Diagnostic]) -> str:
    msg = "select_or_skip: there are no residual blocks before the features that the heads read"
    if lateral:
        msg += f" ({len(lateral)} additions are none: `onnxmtl explain` says why)"
    return f"{msg}; {_OTHER}"
