"""Elementwise arithmetic, comparison and logic, with numpy's broadcasting."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch

from onnxmtl.lowering.ops.reading import constant
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers

_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """True division of floats; integers are rounded towards zero."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


# The plain operators take one Python call less than torch.add and the like.
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divide,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


@lowers(*_UNARY)
def unary(node: ir.Node) -> Kernel:
    """Functions of one tensor."""
    function = _UNARY[node.op_type]
    return lambda xs, ctx: function(xs[0])


@lowers(*_BINARY)
def binary(node: ir.Node) -> Kernel:
    """Functions of two tensors."""
    function = _BINARY[node.op_type]
    return lambda xs, ctx: function(xs[0], xs[1])


@lowers("Mod")
def modulo(node: ir.Node) -> Kernel:
    """The remainder: with the divisor's sign, or the dividend's under ``fmod``."""
    function = torch.fmod if node.attributes.get_int("fmod", 0) else torch.remainder
    return lambda xs, ctx: function(xs[0], xs[1])


@lowers("IsInf")
def is_inf(node: ir.Node) -> Kernel:
    """Infinite elements, of one sign or both."""
    negative = bool(node.attributes.get_int("detect_negative", 1))
    positive = bool(node.attributes.get_int("detect_positive", 1))
    if negative and positive:
        return lambda xs, ctx: torch.isinf(xs[0])
    if positive:
        return lambda xs, ctx: torch.isposinf(xs[0])
    if negative:
        return lambda xs, ctx: torch.isneginf(xs[0])
    return lambda xs, ctx: torch.zeros_like(xs[0], dtype=torch.bool)


@lowers("Pow")
def power(node: ir.Node) -> Kernel:
    """x to the power y, in x's type. A constant scalar exponent is passed as a number: x² is cheaper then."""
    known = constant(node, 1)
    if known is not None and known.size == 1 and known.ndim == 0:
        exponent = known.item()
        if float(exponent).is_integer():
            exponent = int(exponent)

        def by_number(xs: Inputs, ctx: Context) -> torch.Tensor:
            return torch.pow(xs[0], exponent).to(xs[0].dtype)

        return by_number

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        return torch.pow(xs[0], xs[1]).to(xs[0].dtype)

    return kernel


def _sum(xs: Sequence[torch.Tensor]) -> torch.Tensor:
    return functools.reduce(operator.add, xs)


def _mean(xs: Sequence[torch.Tensor]) -> torch.Tensor:
    return _sum(xs) / len(xs)


def _maximum(xs: Sequence[torch.Tensor]) -> torch.Tensor:
    return functools.reduce(torch.maximum, xs)


def _minimum(xs: Sequence[torch.Tensor]) -> torch.Tensor:
    return functools.reduce(torch.minimum, xs)


_VARIADIC: dict[str, Callable[[Sequence[torch.Tensor]], torch.Tensor]] = {
    "Max": _maximum,
    "Mean": _mean,
    "Min": _minimum,
    "Sum": _sum,
}


@lowers(*_VARIADIC)
def variadic(node: ir.Node) -> Kernel:
    """Functions of any number of tensors."""
    function = _VARIADIC[node.op_type]
    return lambda xs, ctx: function(xs)


@lowers("Where")
def where(node: ir.Node) -> Kernel:
    """The second input where the first is true, the third elsewhere."""
    return lambda xs, ctx: torch.where(xs[0], xs[1], xs[2])
