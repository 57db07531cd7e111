"""One weight per place: what an exporter tied because the numbers were equal is untied again.

Exporters merge initializers of equal bytes: γ = 1 with a running variance of 1, all zero biases of a fresh network. A
training that keeps such ties writes running statistics into weights. From here on the initializer's identity is the
tie, and nothing merges by value before export.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Diagnostic, Namer, Role, copy_initializer, counted, listed, report, set_role
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ops import is_tied, mark_constant, spec, weight_slots

_STATISTICS = ("mean", "variance")
_MASKED = -50.0  # what is added to a score that is not to count; Swin has -100


class UntieWeights(InPlacePass):
    """Gives every (node, slot) its own initializer and every weight its role.

    A tie is kept only where operator and slot agree, and the numbers are not all the same or a frontend says that it is
    meant (``onnxmtl.ops.mark_tied``): then it is the author's.

    Ensures: an initializer feeds several slots only if it is tied on purpose; roles are set (BACKBONE, STATISTIC).
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Untie, then set roles."""
        graph = model.graph
        masks = _mark_masks(graph)
        namer = Namer(graph)
        untied: list[str] = []
        kept: list[str] = []
        for value in list(graph.initializers.values()):
            uses = [(node, index) for node, index in value.uses()]
            groups = _groups(uses)
            if not groups:
                continue
            constant = len(uses) > 1 and _is_filled(value) and not is_tied(value)
            # Every group beyond the first gets a copy; of a constant-filled tensor every use does.
            parts = [[use] for group in groups.values() for use in group] if constant else list(groups.values())
            for part in parts[1:]:
                copy = copy_initializer(graph, value, namer.unique(_name(value, part[0])))
                for node, index in part:
                    node.replace_input_with(index, copy)
            if len(parts) > 1:
                untied.append(str(value.name))
            if any(len(part) > 1 and key[0] for key, part in zip(groups, parts, strict=False)) and not constant:
                kept.append(str(value.name))
        if untied:
            report(
                model,
                Diagnostic(
                    "weights-untied",
                    _sentence(
                        untied,
                        "were shared by places that only happen to hold equal numbers; each place has its own now",
                    ),
                ),
            )
        if kept:
            report(
                model,
                Diagnostic(
                    "ties-kept", _sentence(kept, "serve several nodes of one operator in one place and stay shared")
                ),
            )
        _report_computed_weights(model)
        changed = bool(untied) or masks
        for node in graph:
            for slot, value in weight_slots(node):
                role = Role.STATISTIC if slot.name in _STATISTICS else Role.BACKBONE
                if "onnxmtl.role" not in value.metadata_props:
                    set_role(value, role)
                    changed = True
        return PassResult(model, changed)


def _mark_masks(graph: ir.Graph) -> bool:
    """Constants of 0 and one very negative number that are added are attention masks, no weights."""
    found = False
    for node in graph:
        if node.op_type != "Add" or node.domain != "":
            continue
        for _, value in weight_slots(node):
            if value.const_value is not None and len(value.const_value.shape) > 1 and _is_mask(value.const_value):
                mark_constant(value, "mask")
                found = True
    return found


def _is_mask(tensor: ir.TensorProtocol) -> bool:
    array = tensor.numpy()
    lowest = array.min(initial=0)
    return bool(lowest <= _MASKED) and bool(np.all((array == 0) | (array == lowest)))


def _report_computed_weights(model: ir.Model) -> None:
    """A weight that is still computed by nodes (too large to fold, or not computable here) cannot be trained."""
    constant: set[ir.Value] = set()
    for node in model.graph:
        present = [value for value in node.inputs if value is not None]
        if all(value.is_initializer() or value in constant for value in present):
            constant.update(node.outputs)
            continue
        for value in present:
            if value in constant and spec(node) is not None:
                message = f"the weight {value.name!r} is computed in the graph and will not be trained"
                report(model, Diagnostic("weight-not-constant", message, str(node.name), "store it as an initializer"))


def _groups(uses: list[tuple[ir.Node, int]]) -> dict[tuple[str, str], list[tuple[ir.Node, int]]]:
    """Uses in weight slots, by (operator, slot); uses as plain constants share one group, ("", "")."""
    groups: dict[tuple[str, str], list[tuple[ir.Node, int]]] = {}
    any_slot = False
    for node, index in uses:
        entry = spec(node)
        slot = next((slot for slot, _ in weight_slots(node) if slot.index == index), None) if entry else None
        any_slot |= slot is not None
        key = ("", "") if slot is None else (node.op_type, slot.name)
        groups.setdefault(key, []).append((node, index))
    return groups if any_slot else {}


def _is_filled(value: ir.Value) -> bool:
    """Whether all elements are the same number."""
    if value.const_value is None:
        return False
    array = value.const_value.numpy().reshape(-1)
    return array.size == 0 or bool(np.all(array == array[0]))


def _name(value: ir.Value, use: tuple[ir.Node, int]) -> str:
    """A readable name for the copy: the node that uses it and the slot."""
    node, index = use
    slot = next((slot.name for slot, _ in weight_slots(node) if slot.index == index), "constant")
    return f"{node.name}.{slot}"


def _sentence(names: list[str], what: str) -> str:
    return f"{counted(len(names), 'weight')} ({listed(sorted(names))}) {what}"
