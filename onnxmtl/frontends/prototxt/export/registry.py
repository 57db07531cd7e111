"""The table of operators that a prototxt can say, and the way to say that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from onnxmtl.frontends.prototxt.export.net import Net


class CannotSayError(Exception):
    """A node that no layer of Caffe computes; the message says why, in a few words."""


Sayer = Callable[[ir.Node, "Net"], None]

_SAYERS: dict[str, Sayer] = {}


def says(*op_types: str) -> Callable[[Sayer], Sayer]:
    """Register the function that writes the layers of an operator of the standard domain.

    It appends layers to the net and gives every output of the node that is used a blob, or raises
    :class:`CannotSayError`.
    """

    def register(function: Sayer) -> Sayer:
        for op_type in op_types:
            if op_type in _SAYERS:
                msg = f"two ways to say {op_type}"
                raise ValueError(msg)
            _SAYERS[op_type] = function
        return function

    return register


def sayer(node: ir.Node) -> Sayer:
    """How to say a node.

    Raises:
        CannotSayError: There is no way.
    """
    if node.domain not in ("", "ai.onnx"):
        msg = f"an operator of {node.domain}"
        raise CannotSayError(msg)
    found = _SAYERS.get(node.op_type)
    if found is None:
        msg = "no layer of Caffe computes it"
        raise CannotSayError(msg)
    return found


def operators() -> tuple[str, ...]:
    """All operators that can be said, sorted."""
    return tuple(sorted(_SAYERS))


def require(condition: bool, why_not: str) -> None:
    """Refuse a node.

    Raises:
        CannotSayError: The condition does not hold.
    """
    if not condition:
        raise CannotSayError(why_not)
