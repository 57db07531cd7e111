"""The last gate: the emitted model is valid ONNX and says what it is."""

from __future__ import annotations

from typing import Literal

import onnx
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import is_choice, skeleton
from onnxmtl.ir.passes import PassBase, PassResult

_TRAINING_ONLY = frozenset(("Dropout",))


class CheckFinal(PassBase):
    """onnx's checker with full type and shape inference, and what we promise beyond it.

    Ours: standard operators only, nothing that only matters in training, every output typed and of a name of its own.

    Raises:
        ModelError: The first thing that is wrong.
    """

    preserves_numerics = True

    @property
    def in_place(self) -> Literal[True]:
        """The same model comes back."""
        return True

    @property
    def changes_input(self) -> Literal[False]:
        """Nothing is changed."""
        return False

    def call(self, model: ir.Model) -> PassResult:
        """Check; the model is not modified."""
        problem = _first_problem(model.graph)
        if problem is not None:
            msg = f"the emitted model is wrong: {problem}"
            raise ModelError(msg)
        try:
            # Not onnx_ir's CheckerPass: it looks every weight up in a list of all, and reorders them.
            onnx.checker.check_model(skeleton(model), full_check=True)
        except Exception as error:  # the checker raises several unrelated classes
            msg = f"the emitted model is not valid ONNX: {' '.join(str(error).split())}"
            raise ModelError(msg) from error
        return PassResult(model, modified=False)


def _first_problem(graph: ir.Graph) -> str | None:
    for node in graph:
        mode = node.attributes.get("training_mode")
        if is_choice(node):
            return f"{node.name!r} is a Choice; select an architecture first"
        training = node.op_type == "BatchNormalization" and mode is not None and mode.as_int() != 0
        if node.domain == "" and (node.op_type in _TRAINING_ONLY or training):
            return f"{node.op_type} {node.name!r} is there for training only"
    names = [value.name for value in graph.outputs]
    if not names or len(set(names)) != len(names) or not all(names):
        return f"its outputs are {names}; each needs a name of its own"
    for value in graph.outputs:
        if value.dtype is None or value.shape is None:
            return f"type or shape of the output {value.name!r} is unknown; run shape inference first"
    return None
