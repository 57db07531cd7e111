"""Which nodes can be trained, and the one message that names all those that cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import onnx
import onnx_ir as ir

from onnxmtl.ir.choice import is_choice
from onnxmtl.ir.wording import counted
from onnxmtl.ops.operators import UNKNOWN_WINDOW, operator

OLDEST_OPSET = 7  # what normalization converts from
# From this opset on the operators mean what the lowering computes (Softmax, Squeeze and Split changed at 13).
LOWEST_OPSET = 13
NEWEST_OPSET = 26  # what onnxruntime 1.31 loads

_STANDARD = ("", "ai.onnx")
# Normalization turns these into operators of the table, where it can.
_NORMALIZED_AWAY = frozenset(
    {"Upsample", "Scatter", "SplitToSequence", "SequenceAt", "If"}
    | {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
    | {"MatMulInteger"}
)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A node that cannot be trained.

    Attributes:
        node: Its name, or its first output's if it has none.
        operator: Domain and operator, "com.acme.Swizzle"; the standard domain is left out.
        opset: Of that domain; None if the model does not say.
        reason: In a few words.
    """

    node: str
    operator: str
    opset: int | None
    reason: str

    def __str__(self) -> str:
        opset = "opset unknown" if self.opset is None else f"opset {self.opset}"
        return f"{self.operator} {self.node!r} ({opset}: {self.reason})"


def supported(node: ir.Node, *, raw: bool = False) -> str | None:
    """None if `node` can be trained, else the reason in a few words.

    Args:
        node: Of any graph.
        raw: The graph is not normalized yet: old opsets, and what normalization rewrites, are no obstacles.
    """
    if is_choice(node):
        return None
    if node.domain not in _STANDARD:
        return "no such operator"
    opset = opset_of(node)
    if opset is not None and not (OLDEST_OPSET if raw else LOWEST_OPSET) <= opset <= NEWEST_OPSET:
        return _opset_reason(opset, raw)
    found = operator(node.op_type)
    if found is None:
        if raw and node.op_type in _NORMALIZED_AWAY:
            return None
        if node.op_type in _QUANTIZED:
            return "quantized"
        return "cannot be trained" if onnx.defs.has(node.op_type) else "no such operator"
    reason = None if found.refuse is None else found.refuse(node)
    return None if raw and reason == UNKNOWN_WINDOW else reason


def refusals(graph: ir.Graph, *, raw: bool = False, known: Collection[tuple[str, str]] = ()) -> list[Refusal]:
    """All nodes of a graph that cannot be trained, in graph order.

    Args:
        graph: Any graph.
        raw: As in :func:`supported`. What computes on constants only is no obstacle then: it will be folded.
        known: (domain, name) of operators that are none of ONNX's but fine: model-local functions, own lowerings.
    """
    constant: set[ir.Value] = set()
    found = []
    for node in graph:
        if raw and _is_constant(node, constant):
            constant.update(node.outputs)
            continue
        if (node.domain, node.op_type) in known:
            continue
        reason = supported(node, raw=raw)
        if reason is not None:
            found.append(refusal(node, reason))
    return found


def refusals_in(model: ir.Model) -> list[Refusal]:
    """All nodes of a model as it came from its file that cannot be trained, those in called functions included."""
    functions = {(function.domain, function.name) for function in model.functions.values()}
    found = refusals(model.graph, raw=True, known=functions)
    called = {(node.domain, node.op_type) for node in model.graph}
    for function in model.functions.values():
        if (function.domain, function.name) in called:
            found += refusals(function.graph, raw=True, known=functions)
    return found


def refusal_message(found: Sequence[Refusal]) -> str:
    """One line that names every node and says what to do. `found` must not be empty."""
    return f"{counted(len(found), 'node')} cannot be trained: {', '.join(refusal_texts(found))}; {_advice(found)}"


def refusal_texts(found: Sequence[Refusal]) -> list[str]:
    """One text per node; one in all for those that are refused for the opset of the file, which all its nodes have."""
    texts = [str(refusal) for refusal in found if not _of_opset(refusal)]
    outdated = [refusal for refusal in found if _of_opset(refusal)]
    if len(outdated) > 1:
        first = outdated[0]
        texts.append(
            f"{first.operator} {first.node!r} and {counted(len(outdated) - 1, 'node')} more "
            f"(opset {first.opset}: {first.reason})"
        )
    else:
        texts += map(str, outdated)
    return texts


def _of_opset(refusal: Refusal) -> bool:
    return refusal.reason.startswith("opsets ")


def opset_of(node: ir.Node) -> int | None:
    """The opset a node is of: its own, or the import of its graph; None if it is in none."""
    if node.version is not None:
        return node.version
    owner = node.graph
    if owner is None:
        return None
    imports = owner.opset_imports
    return imports.get(node.domain, imports.get("ai.onnx") if node.domain == "" else imports.get(""))


def refusal(node: ir.Node, reason: str) -> Refusal:
    """A node with the reason against it."""
    name = node.name or next((str(value.name) for value in node.outputs if value.name), "")
    label = node.op_type if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"
    return Refusal(name, label, opset_of(node), reason)


def _opset_reason(opset: int, raw: bool) -> str:
    if opset > NEWEST_OPSET:
        return f"opsets up to {NEWEST_OPSET} are taken"
    return f"opsets from {OLDEST_OPSET} on are taken" if raw else f"needs opset {LOWEST_OPSET} or newer"


def _is_constant(node: ir.Node, constant: Collection[ir.Value]) -> bool:
    if node.domain not in _STANDARD or not onnx.defs.has(node.op_type):
        return False
    return all(
        value is None or (value.is_initializer() and not value.is_graph_input()) or value in constant
        for value in node.inputs
    )


def _advice(found: Sequence[Refusal]) -> str:
    reasons = {refusal.reason for refusal in found}
    if reasons == {"quantized"}:
        return "the model is quantized: give the float model it was made from"
    if all(map(_of_opset, found)):
        return f"export the model with an opset from {OLDEST_OPSET} to {NEWEST_OPSET}"
    advice = "name features before them with --features, or export the model without these operators"
    return f"{advice} (the quantized ones: give the float model)" if "quantized" in reasons else advice
