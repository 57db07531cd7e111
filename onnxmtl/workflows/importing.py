"""From what the user has to a backbone in canonical form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.errors import ModelError, OnnxMTLError
from onnxmtl.frontends.onnx import load as load_file
from onnxmtl.ir import to_bytes
from onnxmtl.passes.instruments import Instrument, NumericGuard
from onnxmtl.passes.normalize import normalize


def load(
    model: str | os.PathLike[str],
    *,
    features: Sequence[str] = (),
    output_stride: int = 0,
    batchnorm: Literal["keep", "insert"] = "keep",
    input_size: tuple[int, int] = (0, 0),
    guard: bool = True,
    instruments: Sequence[Instrument] = (),
) -> ir.Model:
    """Read a backbone and normalize it.

    Args:
        model: Path of an ONNX file.
        features: Tensor or node names the heads may read; empty: the tensor before the classifier is found.
        output_stride: Turn later strides into dilations so that no feature is coarser than this; 0: keep.
        batchnorm: ``insert`` puts BatchNormalization behind every convolution that lost it at export.
        input_size: (height, width) to use instead of the exported one; (0, 0): keep.
        guard: Run the network in ONNX Runtime around every pass that promises to keep the numbers.
        instruments: Watch the passes.

    Returns:
        A backbone whose outputs are its features. What was repaired is in ``onnxmtl.ir.diagnostics(model)``.

    Raises:
        ModelError: The file or the network cannot be used; one line that says why and what to do.
    """
    loaded = load_file(model)
    watching = _guard(loaded) if guard and not all(input_size) else []
    unknown = _unknown_operators(loaded)
    try:
        return normalize(
            loaded,
            features=list(features) or None,
            output_stride=output_stride or None,
            batchnorm=batchnorm,
            input_size=input_size if all(input_size) else None,
            instruments=[*watching, *instruments],
        )
    except ModelError as error:
        # They may well stand behind the features, where they do no harm; here they are the likelier cause.
        if not unknown:
            raise
        listed = ", ".join(unknown)
        msg = (
            f"{len(unknown)} nodes have an operator that neither ONNX nor the file defines: {listed}; "
            f"cut the model before them with --features, or export it without these operators ({error})"
        )
        raise ModelError(msg) from error


def _unknown_operators(model: ir.Model) -> list[str]:
    """Operator and name of the nodes whose operator is neither a standard one nor a function in the file."""
    functions = {(function.domain, function.name) for function in model.functions.values()}
    return [
        f"{node.domain}.{node.op_type} {(node.name or node.outputs[0].name)!r}".lstrip(".")
        for node in model.graph
        if (node.domain, node.op_type) not in functions and not onnx.defs.has(node.op_type, node.domain)
    ]


def _guard(model: ir.Model) -> list[Instrument]:
    """A numeric guard on one seeded image; none for a network that ONNX Runtime cannot run as it came."""
    images = [v for v in model.graph.inputs if not v.is_initializer() and v.shape is not None and len(v.shape) == 4]
    if len(images) != 1 or images[0].dtype is not ir.DataType.FLOAT:
        return []
    image, shape = images[0], ir.Shape(images[0].shape or ())
    sizes = [1, *(d if isinstance(d, int) else usual for d, usual in zip(shape[1:], (3, 64, 64), strict=True))]
    pixels = np.random.default_rng(0).random(sizes, dtype=np.float32)
    inputs = {str(image.name): pixels}
    try:
        runtime.run(to_bytes(model), inputs)
    except OnnxMTLError:
        return []
    return [NumericGuard(inputs)]
