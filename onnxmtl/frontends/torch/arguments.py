"""What a module's forward takes, as the exporters want it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmtl.errors import ModelError
from onnxmtl.frontends.torch.reasons import first_line

if TYPE_CHECKING:
    import torch


def arguments(module: torch.nn.Module, example: Any) -> tuple[Any, ...]:
    """The positional arguments of forward."""
    import torch

    name = type(module).__name__
    if isinstance(example, torch.Tensor):
        return (example,)
    if isinstance(example, np.ndarray):
        return (torch.from_numpy(example.copy()),)
    if isinstance(example, (tuple, list)) and any(isinstance(value, torch.Tensor) for value in example):
        return tuple(example)
    if isinstance(example, Mapping) and any(isinstance(value, torch.Tensor) for value in example.values()):
        try:
            bound = inspect.signature(module.forward).bind(**example)
        except TypeError as error:
            msg = f"{name}: the example input does not fit its forward ({first_line(error)})"
            raise ModelError(msg) from error
        bound.apply_defaults()
        if bound.kwargs:
            msg = f"{name}: forward takes {', '.join(bound.kwargs)} by keyword only, which ONNX has no word for"
            raise ModelError(msg)
        return bound.args
    msg = (
        f"{name}: the example input is a {type(example).__name__}; give a tensor as torch.zeros(1, 3, 224, 224), a "
        "tuple of tensors, or a dict of keyword arguments"
    )
    raise ModelError(msg)


def map_tensors(function: Any, tree: Any, other: Any = ...) -> Any:
    """`function` of every tensor in nested containers; `other` for everything else, if given."""
    import torch
    from torch.utils import _pytree as trees

    def one(leaf: Any) -> Any:
        return function(leaf) if isinstance(leaf, torch.Tensor) else leaf if other is ... else other

    return trees.tree_map(one, tree)


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """The tensors in nested containers, in order."""
    import torch
    from torch.utils import _pytree as trees

    return [leaf for leaf in trees.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def at_least_two(tensor: torch.Tensor) -> torch.Tensor:
    """At least two images: torch takes a dimension of size one for a constant."""
    import torch

    return torch.cat([tensor, tensor]) if tensor.dim() > 1 and tensor.shape[0] == 1 else tensor
