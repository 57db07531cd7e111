"""From what the user has to a backbone in canonical form."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.errors import ModelError, OnnxMTLError
from onnxmtl.frontends.source import Dialect, read
from onnxmtl.frontends.validity import blamed
from onnxmtl.ir import EXTERNAL_DATA_BYTES, Diagnostic, report, to_bytes, weight_bytes
from onnxmtl.ir.passes import PassError
from onnxmtl.ops import refusal_message, refusals_in
from onnxmtl.passes.instruments import Instrument, NumericGuard
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.inputs import channels_last

# More values in an image than any camera gives are a mistake in the file.
_GUARD_PIXELS = 3 * 2**26


def load(
    model: Any,
    example_input: Any = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    features: Sequence[str] = (),
    output_stride: int = 0,
    batchnorm: Literal["keep", "insert"] = "keep",
    input_size: tuple[int, int] = (0, 0),
    guard: bool = True,
    instruments: Sequence[Instrument] = (),
) -> ir.Model:
    """Read a backbone and normalize it.

    Args:
        model: Path of an ONNX file, of a ``.prototxt`` or of a directory with ``model.onnx``; or a ``torch.nn.Module``,
            an ``onnx_graphsurgeon.Graph``, an ``onnx.ModelProto``, an ``onnx_ir.Model``. It is left unchanged.
        example_input: What a torch module's forward takes: a tensor, or a tuple of them.
        weights: The ``.caffemodel`` of a prototxt.
        dialect: Of a prototxt; ``auto`` tells by the fields in it.
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

    def run(loaded: ir.Model, watching: Sequence[Instrument]) -> ir.Model:
        return normalize(
            loaded,
            features=list(features) or None,
            output_stride=output_stride or None,
            batchnorm=batchnorm,
            input_size=input_size if all(input_size) else None,
            instruments=[*watching, *instruments],
        )

    return imported(run, model, example_input, weights=weights, dialect=dialect, guard=guard and not all(input_size))


def imported(
    run: Callable[[ir.Model, Sequence[Instrument]], ir.Model],
    model: Any,
    example_input: Any = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    guard: bool = True,
) -> ir.Model:
    """Read a network and let ``run(network, instruments)`` normalize it; for the other arguments see :func:`load`.

    Raises:
        ModelError: The file or the network cannot be used; one line that says why and what to do.
    """
    loaded = read(model, example_input, weights=weights, dialect=dialect)
    watching = _guard(loaded) if guard else []
    refused = refusals_in(loaded)
    try:
        return run(loaded, watching)
    except ModelError as error:
        # They may well stand behind the features, where they do no harm; here they are the likelier cause.
        if not refused:
            raise
        msg = f"{refusal_message(refused)} ({error})"
        raise ModelError(msg) from error
    except PassError as error:
        where = str(model) if isinstance(model, str | os.PathLike) else f"the {type(model).__name__}"
        raise blamed(error, lambda: read(model, example_input, weights=weights, dialect=dialect), where) from error


def _guard(model: ir.Model) -> list[Instrument]:
    """A numeric guard on one seeded image; none for a network that ONNX Runtime cannot run as it came."""
    images = [v for v in model.graph.inputs if not v.is_initializer() and v.shape is not None and len(v.shape) == 4]
    if len(images) != 1 or images[0].dtype is not ir.DataType.FLOAT or channels_last(images[0]):
        return []
    image, shape = images[0], ir.Shape(images[0].shape or ())
    sizes = [1, *(d if isinstance(d, int) else usual for d, usual in zip(shape[1:], (3, 64, 64), strict=True))]
    if min(sizes) < 1 or math.prod(sizes) > _GUARD_PIXELS:
        return []
    if (size := weight_bytes(model)) > EXTERNAL_DATA_BYTES:  # they stay on disk
        message = f"its weights take {size / 1e9:.1f} GB: the network is not run before and after every pass"
        report(model, Diagnostic("not-guarded", message))
        return []
    pixels = np.random.default_rng(0).random(sizes, dtype=np.float32)
    inputs = {str(image.name): pixels}
    try:
        runtime.run(to_bytes(model), inputs)
    except OnnxMTLError:
        return []
    return [NumericGuard(inputs)]
