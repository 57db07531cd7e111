"""Keep one of several initializers with equal content."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import Diagnostic, Role, report, role_of
from onnxmtl.ir.passes import InPlacePass, PassResult


class DedupInitializers(InPlacePass):
    """Merge initializers of equal bytes, type, shape and role; the first one, in the graph's order, stays.

    Logits are never merged: equal logits belong to different decisions. Inputs and outputs of the graph are left
    alone.

    Args:
        weights: Whether trainable weights are merged too. By default only constants and statistics are: which
            operators share a weight is what the search decided and what the structural proof compares, and two
            tasks' own copies are equal only if nobody trained them.
    """

    preserves_numerics = True

    def __init__(self, weights: bool = False) -> None:
        super().__init__()
        self.weights = weights

    def call(self, model: ir.Model) -> PassResult:
        """Merge in place."""
        graph = model.graph
        trained = set() if self.weights else set(ops.trainable_values(graph))
        kept: dict[Hashable, ir.Value] = {}
        apart: dict[Hashable, ir.Value] = {}
        modified = False
        for name, value in list(graph.initializers.items()):
            if value in trained:
                self._explain(model, value, apart)
                continue
            if value.is_graph_input() or value.is_graph_output():
                continue
            if role_of(value) is Role.LOGITS or value.const_value is None:
                continue
            first = kept.setdefault(_content(value.const_value, role_of(value)), value)
            if first is value:
                continue
            value.replace_all_uses_with(first)
            del graph.initializers[name]
            modified = True
        return PassResult(model, modified)

    def _explain(self, model: ir.Model, value: ir.Value, apart: dict[Hashable, ir.Value]) -> None:
        """Say that two weights of equal content stay two; large ones are not read for it."""
        tensor = value.const_value
        if tensor is None or tensor.nbytes > _READ_AT_MOST:
            return
        first = apart.setdefault(_content(tensor, role_of(value)), value)
        users = [str(user.name) for user in value.consumers()]
        if first is not value and users:
            message = f"the weight {value.name!r} equals {first.name!r} and stays a weight of its own"
            hint = "copies that nobody trained are equal; finalize with dedup_weights=True merges them"
            report(model, Diagnostic("weights-kept-apart", message, users[0], hint))


_READ_AT_MOST = 1 << 20  # bytes


def _content(tensor: ir.TensorProtocol, role: Role) -> Hashable:
    """Equal if and only if (but for a collision of 256 bits) type, shape, bytes and role are."""
    digest = hashlib.blake2b(tensor.tobytes(), digest_size=32).digest()
    return role, tensor.dtype, tuple(map(str, tensor.shape)), digest
