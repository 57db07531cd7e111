"""From a module to a model: the module is made ready, exported, and left as it was."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.frontends.torch.arguments import arguments, at_least_two, map_tensors
from onnxmtl.frontends.torch.buffers import mark_buffers
from onnxmtl.frontends.torch.exporters import capture
from onnxmtl.frontends.torch.reasons import first_line
from onnxmtl.frontends.torch.tidy import rename_outputs
from onnxmtl.ir import Diagnostic, listed, report

if TYPE_CHECKING:
    import torch

_TALKATIVE = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "onnxscript", "onnx_ir")


def export(module: torch.nn.Module, example_input: Any) -> ir.Model:
    """Export a module.

    Args:
        module: In any mode, on any device; left exactly as it is.
        example_input: What its forward takes: a tensor, a tuple of them, or a dict of keyword arguments. Images are
            float[N, C, H, W]; N may be 1, and the exported batch is open where the module allows it.

    Returns:
        A raw model with copies of all weights. Outputs are called as in a dict that the module returns, ``output_0``,
        ``output_1``, … for a tuple, ``output`` for one tensor. Nodes are called after the module that they come from.

    Raises:
        ModelError: torch cannot export it; says which part, and what to do.
        MissingDependencyError: onnxscript is not installed.
    """
    import torch

    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        msg = f"{name}: is compiled TorchScript, which the exporter cannot follow; give the module that it was made of"
        raise ModelError(msg)
    args = arguments(module, example_input)
    device = next((p.device for p in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    args = map_tensors(lambda t: at_least_two(t).to(device), args)
    flat = _Flat()
    with _quiet(), torch.no_grad():
        expected = _reference(module, args, flat)
        with _prepared(module) as left_out:
            handle = module.register_forward_hook(flat)
            try:
                model, traced = capture(module, args, expected)
            finally:
                handle.remove()
    rename_outputs(model, flat.names)
    if traced:
        mark_buffers(model, module)
        message = f"torch.export could not capture {name} ({traced}); it was traced instead"
        report(model, Diagnostic("torch-traced", message, hint="branches that depend on data are fixed as traced"))
    if left_out:
        message = f"random layers without an ONNX operator are left out: {listed(left_out)}"
        report(model, Diagnostic("dropout-left-out", message, hint="training goes on without them"))
    return model


class _Flat:
    """A forward hook: whatever the module returns becomes a flat tuple of distinct tensors; their names are kept."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, module: Any, args: Any, result: Any) -> tuple[Any, ...]:
        import torch
        from torch.utils import _pytree as trees

        leaves = [(p, t) for p, t in trees.tree_flatten_with_path(result)[0] if isinstance(t, torch.Tensor)]
        self.names = _unique([_path_name(path) for path, _ in leaves])
        seen = {id(t) for t in trees.tree_leaves(args)}
        found = []
        for _, tensor in leaves:
            found.append(tensor.clone() if id(tensor) in seen else tensor)
            seen.add(id(tensor))
        return tuple(found)


def _path_name(path: tuple[Any, ...]) -> str:
    """``("aux", 1)`` -> ``aux_1``; a bare position has the prefix ``output``."""
    attributes = ("key", "idx", "name")
    parts = [str(getattr(key, name)) for key in path for name in attributes if hasattr(key, name)]
    if not parts or parts[0].isdigit():
        parts.insert(0, "output")
    return "_".join(parts)


def _unique(names: list[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        candidate, count = name, 0
        while candidate in found:
            count += 1
            candidate = f"{name}_{count}"
        found.append(candidate)
    return found


@contextlib.contextmanager
def _prepared(module: torch.nn.Module) -> Iterator[list[str]]:
    """The module in the mode that is exported; every flag is put back. Yields the random layers that get lost."""
    import torch

    flags = [(part, part.training) for part in module.modules()]
    lost = []
    try:
        module.eval()
        for name, part in module.named_modules():
            random = type(part).__name__.lower()
            if type(part) is torch.nn.Dropout and part.p > 0:
                part.training = True
            elif ("dropout" in random or "stochasticdepth" in random or "droppath" in random) and _rate(part) > 0:
                lost.append(name)
        yield lost
    finally:
        for part, flag in flags:
            part.training = flag


def _rate(part: Any) -> float:
    rate = getattr(part, "p", getattr(part, "drop_prob", 0))
    return float(rate) if isinstance(rate, (int, float)) else 0.0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on the terminal: the exporters warn about everything, and we say what matters ourselves."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reference(module: Any, args: tuple[Any, ...], flat: _Flat) -> list[Any]:
    """What the module answers in evaluation mode."""
    name = type(module).__name__
    flags = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        result = flat(module, args, module(*args))
    except Exception as error:  # the user's code
        msg = f"{name}: does not run on the example input ({first_line(error)}); check its shape and type"
        raise ModelError(msg) from error
    finally:
        for part, flag in flags:
            part.training = flag
    if not result:
        msg = f"{name}: returns no tensor, so there is nothing to export"
        raise ModelError(msg)
    return [tensor.detach().clone() for tensor in result]
