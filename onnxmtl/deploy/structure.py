"""What a model is, apart from names: weight hashes, operators with the tasks they serve, and a digest per output."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import sources, tasks_of_nodes
from onnxmtl.passes._fusion_parts import ALONE, FUSION_KEY


@dataclasses.dataclass(frozen=True, order=True)
class Operator:
    """One operator with weights, described without names of ours.

    Attributes:
        op_type: ONNX operator.
        sources: Names of the user's nodes it stands for; empty for what we invented.
        tasks: The tasks that need it, sorted.
        weight: Sharing class: two operators of a signature use the same weight if and only if this is equal.
    """

    op_type: str
    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    weight: int

    def __str__(self) -> str:
        return f"{self.op_type} {'+'.join(self.sources) or '(ours)'} for {', '.join(self.tasks)}"


def structural_signature(model: ir.Model, *, linear_only: bool = False) -> list[Operator]:
    """The model's operators with weights in a canonical order, with who shares which weight.

    Two models with the same signature run the same operators of the user's network for the same tasks with the
    same sharing. Operators that no output needs are left out.

    Args:
        model: A model whose outputs are its tasks.
        linear_only: Only convolutions and matrix products: normalizations come and go when they are folded, and so
            do fusion units that read no other network.
    """
    needed = tasks_of_nodes(model.graph)
    found = []
    for position, node in enumerate(model.graph):
        slots = ops.weight_slots(node)
        if not slots or not needed[node]:
            continue
        if linear_only and (not ops.is_linear_op(node) or node.metadata_props.get(FUSION_KEY) == ALONE):
            continue
        weight = slots[0][1]
        shape = weight.const_value.shape.numpy() if weight.const_value is not None else ()
        found.append(((node.op_type, sources(node), tuple(sorted(needed[node])), shape, position), weight))
    found.sort(key=lambda entry: entry[0])
    classes: dict[ir.Value, int] = {}
    return [Operator(*key[:3], classes.setdefault(weight, len(classes))) for key, weight in found]


def compare_structures(selected: ir.Model, emitted: ir.Model) -> list[str]:
    """How the convolutions and matrix products of an emitted model differ from those of the selected one.

    Folding may have given an emitted operator the sources of a normalization besides its own.

    Returns:
        One line per difference; empty if the emitted model is what was selected.
    """
    want = structural_signature(selected, linear_only=True)
    known = {name for operator in want for name in operator.sources}
    have = []
    for operator in structural_signature(emitted, linear_only=True):
        own = tuple(name for name in operator.sources if name in known)
        have.append(dataclasses.replace(operator, sources=own))
    unclassed = [
        Counter(dataclasses.replace(operator, weight=0) for operator in operators) for operators in (want, have)
    ]
    lines = [f"missing: {operator}" for operator in sorted((unclassed[0] - unclassed[1]).elements())]
    lines += [f"not selected: {operator}" for operator in sorted((unclassed[1] - unclassed[0]).elements())]
    if not lines:
        have = _renumber(sorted(have, key=lambda operator: (operator.op_type, operator.sources, operator.tasks)))
        lines = [
            f"weight shared otherwise: {left}"
            for left, right in zip(want, have, strict=True)
            if left.weight != right.weight
        ]
    return lines


def _renumber(operators: Iterable[Operator]) -> list[Operator]:
    classes: dict[int, int] = {}
    return [
        dataclasses.replace(operator, weight=classes.setdefault(operator.weight, len(classes)))
        for operator in operators
    ]


def weight_hashes(model: ir.Model) -> dict[str, str]:
    """Name of each initializer -> SHA-256 of its type, shape and bytes."""
    return {name: _tensor_hash(value.const_value) for name, value in sorted(model.graph.initializers.items())}


def operator_list(model: ir.Model) -> list[dict[str, Any]]:
    """All nodes that an output needs: operator, the user's nodes behind it, tasks, hash of the attributes."""
    needed = tasks_of_nodes(model.graph)
    return sorted(
        (
            {
                "op": f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
                "sources": list(sources(node)),
                "tasks": sorted(needed[node]),
                "attributes": _attributes(node)[:16],
            }
            for node in model.graph
            if needed[node]
        ),
        key=lambda entry: (str(entry["op"]), entry["sources"], entry["tasks"], str(entry["attributes"])),
    )


def output_digests(model: ir.Model) -> dict[str, str]:
    """Name of each output -> hash of all that computes it: operators, attributes, wiring, weights; no names."""
    digests: dict[ir.Value, str] = {}
    for position, value in enumerate(model.graph.inputs):
        digests[value] = f"input {position}"
    for value in model.graph.initializers.values():
        digests[value] = _tensor_hash(value.const_value)
    for node in model.graph:
        inputs = ",".join("" if value is None else digests.get(value, str(value.name)) for value in node.inputs)
        opset = model.graph.opset_imports.get(node.domain)
        text = f"{node.domain}|{node.op_type}|{opset}|{_attributes(node)}|{inputs}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        for position, value in enumerate(node.outputs):
            digests[value] = f"{digest}.{position}"
    return {str(value.name): digests.get(value, "") for value in model.graph.outputs}


def operator_differences(recorded: Iterable[Mapping[str, Any]], found: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per operator that is gone, new, or has other attributes."""
    want, have = (Counter(_operator_key(entry) for entry in entries) for entries in (recorded, found))
    gone, new = want - have, have - want
    lines = []
    for key in sorted(gone.elements()):
        changed = next((other for other in sorted(new) if other[:3] == key[:3] and new[other]), None)
        if changed is not None:
            new[changed] -= 1
            lines.append(f"operator {_operator_words(key)} has other attributes")
        else:
            lines.append(f"operator {_operator_words(key)} is gone")
    return lines + [f"operator {_operator_words(key)} was not recorded" for key in sorted(new.elements())]


_Key = tuple[str, tuple[str, ...], tuple[str, ...], str]


def _operator_key(entry: Mapping[str, Any]) -> _Key:
    return str(entry["op"]), tuple(entry["sources"]), tuple(entry["tasks"]), str(entry["attributes"])


def _operator_words(key: _Key) -> str:
    return f"{key[0]} [{', '.join(key[1]) or 'ours'}] of {', '.join(key[2])}"


def _tensor_hash(tensor: ir.TensorProtocol | None) -> str:
    if tensor is None:
        return ""
    digest = hashlib.sha256(f"{tensor.dtype.name}{list(tensor.shape.numpy())}".encode())
    digest.update(tensor.tobytes())
    return digest.hexdigest()


def _attributes(node: ir.Node) -> str:
    digest = hashlib.sha256()
    for name in sorted(node.attributes):
        digest.update(ir.to_proto(node.attributes[name]).SerializeToString(deterministic=True))
    return digest.hexdigest()
