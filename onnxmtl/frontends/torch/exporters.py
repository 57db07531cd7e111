"""torch's two exporters, the newer first, and whether what they wrote computes what the module does."""

from __future__ import annotations

import importlib.util
import inspect
import io
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.errors import MissingDependencyError, ModelError, OnnxMTLError
from onnxmtl.frontends.torch.arguments import map_tensors, tensors_in
from onnxmtl.frontends.torch.reasons import first_line, reason_of
from onnxmtl.frontends.torch.tidy import BATCH, tidy
from onnxmtl.ir import to_bytes
from onnxmtl.ir.io import EXTERNAL_DATA_BYTES, weight_bytes
from onnxmtl.ops import mark_tied

TRACED_OPSET = 18  # what the older exporter writes
TOLERANCE = 1e-3  # of an export against the module: float32 in two orders of summation, not a wrong operator


def capture(module: Any, args: tuple[Any, ...], expected: list[Any]) -> tuple[ir.Model, str]:
    """The model, and why torch.export could not do it ("" if it could)."""
    if importlib.util.find_spec("onnxscript") is None:
        msg = "exporting a torch module needs onnxscript; install it: pip install 'onnxmtl[train]'"
        raise MissingDependencyError(msg)
    reasons: list[str] = []
    for number, exporter in enumerate((_export_open, _export_fixed, _trace, _trace_as_it_is)):
        try:
            model = exporter(module, args)
        except Exception as error:  # exporters meet arbitrary code; whatever they trip over is in the user's module
            reasons.append(reason_of(error))
            continue
        tidy(model)
        problem = _difference(model, args, expected)
        if not problem:
            return model, reasons[0] if number > 1 else ""
        reasons.append(problem)
    msg = (
        f"{type(module).__name__}: torch cannot export it: {reasons[0]}; tracing it fails too: {reasons[-1]}; write "
        "that part of forward with plain tensor operators, or export the part before it"
    )
    raise ModelError(msg)


def _export_open(module: Any, args: tuple[Any, ...]) -> ir.Model:
    """torch.export with an open batch."""
    import torch

    return _export(module, args, map_tensors(lambda t: {0: torch.export.Dim.AUTO} if t.dim() > 1 else {}, args, None))


def _export_fixed(module: Any, args: tuple[Any, ...]) -> ir.Model:
    """torch.export with the batch of the example; normalization opens it later."""
    return _export(module, args, None)


def _export(module: Any, args: tuple[Any, ...], shapes: Any) -> ir.Model:
    import torch

    program = torch.onnx.export(module, args, dynamo=True, optimize=False, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    for value in program.model.graph.initializers.values():
        if len(value.uses()) > 1:
            mark_tied(value)  # nothing was merged by value
    return program.model


def _trace(module: Any, args: tuple[Any, ...]) -> ir.Model:
    """The older exporter. It ties weights of equal value, so each has random values of its own meanwhile."""
    import torch

    values = {name: t for name, t in module.state_dict(keep_vars=True).items() if t.is_floating_point()}
    kept = {id(t): (t, t.data) for t in values.values()}
    generator = torch.Generator().manual_seed(0)
    try:
        for tensor, data in kept.values():
            tensor.data = torch.rand(data.shape, generator=generator).to(data)
        model = _trace_as_it_is(module, args)
    finally:
        for tensor, data in kept.values():
            tensor.data = data
    for name, value in model.graph.initializers.items():
        if name in values:
            value.const_value = ir.tensor(values[name].detach().cpu().numpy().copy(), name=name)
    return model


def _trace_as_it_is(module: Any, args: tuple[Any, ...]) -> ir.Model:
    """The older exporter, as it comes."""
    import torch

    buffer: Any = io.BytesIO()  # the older exporter writes to streams
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    names = list(inspect.signature(module.forward).parameters)[: len(args)]
    names = [name for name, value in zip(names, args, strict=False) if isinstance(value, torch.Tensor)]
    names = names if len(names) == len(tensors) else [f"input_{i}" for i in range(len(tensors))]
    torch.onnx.export(
        module,
        args,
        buffer,
        dynamo=False,
        opset_version=TRACED_OPSET,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        verbose=False,
        input_names=names,
        dynamic_axes={name: {0: BATCH} for name, t in zip(names, tensors, strict=True) if t.dim() > 1},
    )
    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(buffer.getvalue()))
    return model


def _difference(model: ir.Model, args: tuple[Any, ...], expected: list[Any]) -> str:
    """What ONNX Runtime computes differently from the module; "" if nothing, or if it cannot be asked."""
    if weight_bytes(model) > EXTERNAL_DATA_BYTES:
        return ""  # too large for one message, and so for a quick check
    tensors = tensors_in(args)
    if len(tensors) != len(model.graph.inputs) or len(expected) != len(model.graph.outputs):
        return f"it has {len(model.graph.inputs)} inputs and {len(model.graph.outputs)} outputs"
    inputs = {str(v.name): t.cpu().numpy() for v, t in zip(model.graph.inputs, tensors, strict=True)}
    try:
        found = runtime.run(to_bytes(model), inputs)
    except MissingDependencyError:
        return ""
    except OnnxMTLError as error:
        # It has no float64 convolution, for one; whether such a model is right, it cannot tell.
        return "" if "NOT_IMPLEMENTED" in str(error) else first_line(error)
    for value, reference in zip(model.graph.outputs, expected, strict=True):
        right, wrong = reference.cpu().numpy(), found[str(value.name)]
        if right.shape != wrong.shape:
            return f"its output {value.name!r} has the shape {list(wrong.shape)}, the module's {list(right.shape)}"
        largest = float(np.abs(right).max(initial=0.0))
        distance = float(np.abs(wrong - right).max(initial=0.0)) / max(largest, 1e-6) if right.dtype != bool else 0.0
        if not distance < TOLERANCE:
            return f"its output {value.name!r} differs from the module's by {distance:.1e} of the largest value"
    return ""
