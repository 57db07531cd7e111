"""From any ONNX backbone to the canonical form that all other passes read: :func:`normalize`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

if TYPE_CHECKING:
    from onnxmtl.passes.instruments import Instrument

__all__ = ["normalize"]


def normalize(
    model: ir.Model,
    *,
    features: Sequence[str] | None = None,
    output_stride: int | None = None,
    batchnorm: Literal["keep", "insert"] = "keep",
    input_size: tuple[int, int] | None = None,
    instruments: Sequence[Instrument] = (),
) -> ir.Model:
    """Bring a backbone into canonical form: opset 21, open batch, features as outputs, one initializer per weight.

    Args:
        model: As :func:`onnxmtl.frontends.onnx.load` returns it; changed in place.
        features: Names of feature tensors or nodes; None finds the one before the classifier.
        output_stride: Turn later strides into dilations so that no feature has a larger stride.
        batchnorm: "insert" puts a normalization behind every convolution that lost it at export.
        input_size: (height, width) of the images, where it is to differ from the exported one.
        instruments: Told about every pass.

    Returns:
        The normalized model; remarks are in :func:`onnxmtl.ir.diagnostics`.

    Raises:
        ModelError: The model cannot be used as asked; one line that says why.
    """
    from onnxmtl.passes.pipelines import import_pipeline  # it lists the passes of this folder

    return import_pipeline(
        features=features,
        output_stride=output_stride,
        batchnorm=batchnorm,
        input_size=input_size,
        instruments=instruments,
    )(model).model
