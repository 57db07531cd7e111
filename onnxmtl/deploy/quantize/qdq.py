"""onnxruntime's static quantization (QDQ, int8 weights per channel), with some nodes kept in floating point.

The ranges of the activations are measured once; every mixture of int8 and float blocks is then made from them.
Weights are int8 and symmetric, per output channel; activations uint8, as onnxruntime advises for x86; biases int32.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.deploy.certificate import INT8
from onnxmtl.errors import MissingDependencyError, ModelError
from onnxmtl.ir.io import EXTERNAL_DATA_BYTES, to_bytes, weight_bytes
from onnxmtl.passes.finalize import RemoveUnused
from onnxmtl.passes.finalize.half import FLOAT16, PRECISION_KEY

QUANTIZATION_KEY = "onnxmtl.quantization"

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A float model and the ranges of its activations.

    Attributes:
        source: The float model, serialised; its nodes have names of their own.
        ranges: What onnxruntime's calibration returned.
        reduce_range: Weights take 7 bits: for CPUs without VNNI, where sums of 8-bit products overflow.
    """

    source: bytes
    ranges: Any
    reduce_range: bool = False


def check_quantizable(model: ir.Model, where: str) -> None:
    """Refuse what cannot be quantized.

    Raises:
        ModelError: It is quantized already or of float16, its image is not float32, or it is too large for one message.
    """
    if model.metadata_props.get(PRECISION_KEY) == FLOAT16:
        msg = f"{where} computes in float16; give the float32 model (onnxmtl specialize RUN --no-float16)"
        raise ModelError(msg)
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.op_type.startswith("QLinear"):
            msg = f"{where} is quantized already (node {node.name!r} is a {node.op_type}); give the float model"
            raise ModelError(msg)
    if len(model.graph.inputs) != 1 or model.graph.inputs[0].dtype is not ir.DataType.FLOAT:
        found = ", ".join(f"{value.name}: {value.dtype}" for value in model.graph.inputs) or "none"
        msg = f"{where}: a model with one float32 image input is needed, its inputs are: {found}"
        raise ModelError(msg)
    if weight_bytes(model) > EXTERNAL_DATA_BYTES:
        msg = f"{where}: its weights take {weight_bytes(model) / 1e9:.1f} GB, more than can be quantized in memory"
        raise ModelError(msg)


def calibrate(model: ir.Model, batches: Iterable[Array], *, reduce_range: bool = False) -> Calibrated:
    """Measure the smallest and largest value of every activation.

    Args:
        model: A float model with one image input, nodes named.
        batches: Float32 [n, C, H, W] each.
        reduce_range: See :class:`Calibrated`.

    Raises:
        MissingDependencyError: No onnxruntime, or one without its quantization tools.
        ModelError: onnxruntime cannot calibrate the model, or there is no batch.
    """
    library = _library()
    source = to_bytes(model)
    name = str(model.graph.inputs[0].name)
    feeds = iter([{name: np.ascontiguousarray(batch)} for batch in batches])

    class Reader(library.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def get_next(self) -> Mapping[str, Array] | None:
            return next(feeds, None)

    with tempfile.TemporaryDirectory(prefix="onnxmtl-") as folder, _quiet(), _told("calibrate"):
        file = Path(folder, "model.onnx")
        file.write_bytes(source)
        # Its own default, all operators, is what quantization asks for too; intermediate maxima are merged each batch.
        calibrator = library.create_calibrator(
            file, [], augmented_model_path=str(Path(folder, "augmented.onnx")), extra_options={}
        )
        calibrator.collect_data(Reader())
        ranges = calibrator.compute_data()
        del calibrator
    return Calibrated(source, ranges, reduce_range)


def quantized(calibrated: Calibrated, keep: Collection[str] = ()) -> bytes:
    """The int8 model, serialised; metadata, names and shapes of the float one.

    Tensors that are new, between a QuantizeLinear and its DequantizeLinear, have no ``value_info``: any tool infers it,
    and in a small model it would take a tenth of the bytes.

    Args:
        calibrated: The float model and its ranges.
        keep: Names of nodes that stay in floating point.

    Raises:
        ModelError: onnxruntime cannot quantize it.
    """
    library = _library()
    registry = importlib.import_module("onnxruntime.quantization.registry")
    tools = importlib.import_module("onnxruntime.quantization.quant_utils")
    operators = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
    plain = onnx.load_model_from_string(calibrated.source)
    with tempfile.TemporaryDirectory(prefix="onnxmtl-") as folder, _quiet(), _told("quantize"):
        file = Path(folder, "model.onnx")
        file.write_bytes(calibrated.source)
        inferred = tools.load_model_with_shape_infer(file)
        ranges = copy.deepcopy(calibrated.ranges)  # the quantizer writes into them
        quantizer = library.QDQQuantizer(
            inferred,
            True,  # per channel
            calibrated.reduce_range,
            library.QuantType.QInt8,
            library.QuantType.QUInt8,
            ranges,
            [],
            sorted(keep),
            operators,
            {},
        )
        quantizer.quantize_model()
        made: onnx.ModelProto = quantizer.model.model
    _read_unrounded(made, plain, {node.name for node in plain.graph.node if node.op_type not in operators} | set(keep))
    _as_ours(made, plain)
    model = ir.from_proto(made)
    model.graph.sort()  # the new nodes stand at the end
    RemoveUnused()(model)
    proto = onnx.load_model_from_string(to_bytes(model))
    known = {value.name: value for value in plain.graph.value_info}
    made_names = [name for node in proto.graph.node for name in node.output if name in known]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(known[name] for name in made_names)
    return bytes(proto.SerializeToString(deterministic=True))


def weight_bytes_of(model: bytes, groups: Sequence[Collection[str]]) -> list[int]:
    """Of each group of nodes, by name: bytes of the weights that they read, each once.

    A quantized weight counts with its scales and zero points, which the DequantizeLinear before the node reads.
    """
    graph = onnx.load_model_from_string(model).graph
    sizes = {tensor.name: _bytes(tensor) for tensor in graph.initializer}
    unpacked = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    read: list[set[str]] = [set() for _ in groups]
    for node in graph.node:
        for found in (found for group, found in zip(groups, read, strict=True) if node.name in group):
            for name in node.input:
                source = unpacked.get(name)
                # An activation is unpacked too; its numbers are no initializer.
                found |= {name} if source is None else set(source.input) if source.input[0] in sizes else set()
    return [sum(sizes.get(name, 0) for name in found) for found in read]


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _read_unrounded(made: onnx.ModelProto, plain: onnx.ModelProto, kept: Collection[str]) -> None:
    """Let float nodes read weights, and what other float nodes made, as they are.

    onnxruntime's quantizer rounds a tensor for all its readers once one of them is quantized; a task that is wholly in
    floating point would change with the blocks of another one.
    """
    graph = made.graph
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    exact = {value.name for value in graph.input}
    exact |= {name for node in graph.node if node.name in kept for name in node.output}
    before = {node.name: list(node.input) for node in plain.graph.node}
    present = {tensor.name: tensor.name for tensor in graph.initializer}
    taken = {name for node in graph.node for name in node.output} | set(present)
    for node in graph.node:
        if node.name not in kept:
            continue
        for index, name in enumerate(before[node.name]):
            if name in weights and name not in present:  # only its integers are left, under other names
                present[name] = copied = _unused(f"{name}/float", taken)
                graph.initializer.append(weights[name])
                graph.initializer[-1].name = copied
            if name in exact or name in weights:
                node.input[index] = present.get(name, name)


def _unused(name: str, taken: set[str]) -> str:
    """`name`, or the first ``name_1``, … that is free; it is taken then."""
    found, number = name, 0
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def _as_ours(made: onnx.ModelProto, plain: onnx.ModelProto) -> None:
    """Put back what is the user's, and drop what onnxruntime's tools leave."""
    del made.metadata_props[:]
    made.metadata_props.extend(plain.metadata_props)
    made.metadata_props.add(key=QUANTIZATION_KEY, value="int8 QDQ per channel")
    made.metadata_props.add(key=PRECISION_KEY, value=INT8)
    made.producer_name, made.producer_version = plain.producer_name, plain.producer_version


def _library() -> Any:
    runtime.onnxruntime()
    try:
        return importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        msg = f"onnxruntime's quantization tools need {error.name or error}: pip install {error.name or 'sympy'}"
        raise MissingDependencyError(msg) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its tools advise through the root logger, once for every model that is made."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's tools raise whatever comes up
        msg = f"onnxruntime cannot {what} the model: {' '.join(str(error).split())}"
        raise ModelError(msg) from error
