"""Why a node of the backbone is no site, or a site offers less than it could: the questions users ask. Read-only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import Diagnostic, head_of
from onnxmtl.passes.spaces.skip import SkipMode, plan_skip
from onnxmtl.passes.spaces.units import Granularity, Unit, find_units

_SHARED = "it stays one node until its inputs differ, and is never chosen"
_OWN_SITE = "it is shared or own by a choice of its own"


def explain_sites(graph: ir.Graph, granularity: Granularity = "op", units: Sequence[Unit] = ()) -> Iterator[Diagnostic]:
    """Diagnostics of the ``vcn`` space about nodes with weights; linear.

        no-site             a node with trainable weights is no site and part of none
        norm-not-absorbed   a normalization that follows an operator is a site of its own

    Args:
        graph: A backbone, or a multi-task graph.
        granularity: As the space's.
        units: What :func:`find_units` found, if that is known.
    """
    found = units or find_units(graph, granularity)
    inside = {node for unit in found for node in unit.nodes}
    for node in graph:
        if node in inside or head_of(node) is not None or not ops.weight_slots(node):
            continue
        yield Diagnostic("no-site", f"{node.op_type} is no site: {_no_site(node)}", str(node.name), _SHARED)
    for unit in found:
        if unit.norm_only and (reason := _not_absorbed(unit.nodes[0])):
            yield Diagnostic(
                "norm-not-absorbed", f"does not follow its operator's choice: {reason}", unit.site, _OWN_SITE
            )


def explain_skips(graph: ir.Graph, mode: SkipMode = "auto", granularity: Granularity = "op") -> Iterator[Diagnostic]:
    """A ``no-skip`` for every site that can be shared or owned only."""
    for unit in find_units(graph, granularity):
        plan = "a normalization alone is never skipped" if unit.norm_only else plan_skip(unit.nodes[0], mode)
        if isinstance(plan, str):
            yield no_skip(unit, plan)


def no_skip(unit: Unit, reason: str) -> Diagnostic:
    """The remark on a site without a skip."""
    return Diagnostic("no-skip", f"this site offers no skip: {reason}", unit.site, "it can still be shared or owned")


def _no_site(node: ir.Node) -> str:
    if ops.is_linear_op(node):
        return "its weight is on the left"
    return "sites are operators that are linear in their weights, and normalizations"


def _not_absorbed(norm: ir.Node) -> str:
    """Why a normalization is not part of the operator before it; "" if none comes before it."""
    value = norm.inputs[0]
    before = value.producer() if value is not None else None
    if value is None or before is None:
        return ""
    if ops.is_linear_op(before):
        others = ", ".join(repr(user.name) for user in value.consumers() if user is not norm)
        reason = f"is read by {others} too" if others else "is an output or has its weight on the left"
        return f"{value.name!r}, which it reads from {before.op_type} {before.name!r}, {reason}"
    earlier = (value.producer() for value in before.inputs if value is not None)
    if any(node is not None and ops.is_linear_op(node) for node in earlier):
        return f"{before.op_type} {before.name!r} stands between"
    return ""
