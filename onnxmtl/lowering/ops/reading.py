"""Reading a node: constant inputs once, at build time; computed ones from the tensor, at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl.errors import ModelError
from onnxmtl.lowering.ops.registry import Inputs

IntsReader: TypeAlias = Callable[[Inputs], "tuple[int, ...] | None"]
NumberReader: TypeAlias = Callable[[Inputs], "int | float | torch.Tensor | None"]

_TORCH_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
}


def torch_dtype(dtype: ir.DataType) -> torch.dtype:
    """The torch dtype of an ONNX one.

    Raises:
        ModelError: Strings, complex numbers, 4-bit and 8-bit floats.
    """
    found = _TORCH_DTYPES.get(dtype)
    if found is None:
        msg = f"a tensor of the model has element type {dtype.name}, which cannot be trained; export it in float32"
        raise ModelError(msg)
    return found


def torch_tensor(tensor: ir.TensorProtocol) -> torch.Tensor:
    """A torch tensor (on the CPU, its own memory) with the data of an ONNX one."""
    dtype = torch_dtype(tensor.dtype)
    array = tensor.numpy()
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(dtype)
    return torch.from_numpy(np.array(array, order="C"))


def real(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, rounded to float32 as ONNX stores it: a saved model computes the same in float64."""
    return float(np.float32(node.attributes.get_float(name, default)))


def has_input(node: ir.Node, index: int) -> bool:
    """Whether the optional input is given."""
    return index < len(node.inputs) and node.inputs[index] is not None


def has_output(node: ir.Node, index: int) -> bool:
    """Whether the optional output is asked for (used, or an output of the graph)."""
    if index >= len(node.outputs):
        return False
    value = node.outputs[index]
    return value.name != "" and (bool(value.uses()) or value.is_graph_output())


def constant(node: ir.Node, index: int) -> np.ndarray[Any, Any] | None:
    """The input's data if it is an initializer or a Constant; None if it is computed or absent."""
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def ints(node: ir.Node, index: int) -> IntsReader:
    """A reader of an input that holds a list of integers; it gives None if the input is absent."""
    if not has_input(node, index):
        return lambda _: None
    known = constant(node, index)
    if known is not None:
        values = tuple(int(v) for v in known.reshape(-1))
        return lambda _: values
    return lambda inputs: tuple(inputs[index].reshape(-1).tolist())


def floats(node: ir.Node, index: int) -> Callable[[Inputs], tuple[float, ...] | None]:
    """A reader of an input that holds a list of numbers; it gives None if the input is absent or empty."""
    if not has_input(node, index):
        return lambda _: None
    known = constant(node, index)
    if known is not None:
        values = tuple(float(v) for v in known.reshape(-1)) or None
        return lambda _: values
    return lambda inputs: tuple(inputs[index].reshape(-1).tolist()) or None


def number(node: ir.Node, index: int) -> NumberReader:
    """A reader of a scalar input: a Python number if constant, the tensor if computed, None if absent."""
    if not has_input(node, index):
        return lambda _: None
    known = constant(node, index)
    if known is not None:
        value = known.reshape(-1)[0].item()
        return lambda _: value
    return lambda inputs: inputs[index].reshape(())


def axes_reader(node: ir.Node, index: int) -> IntsReader:
    """Axes from the attribute ``axes`` (older opsets) or from an input; None if neither is given."""
    if "axes" in node.attributes:
        values = tuple(node.attributes["axes"].as_ints())
        return lambda _: values
    return ints(node, index)
