"""Training state on disk: weights and optimizer state in safetensors, the rest in JSON. No pickle."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from onnxmtl.errors import RunError
from onnxmtl.lowering import LoweredModule
from onnxmtl.runs import read_json, write_json

_WEIGHTS, _OPTIMIZERS, _META = "weights.safetensors", "optimizers.safetensors", "state.json"
_EXTRA = "extra.safetensors"


def save_weights(path: Path, module: LoweredModule) -> None:
    """Write all floating-point tensors of the module, by initializer name."""
    tensors = {n: t.detach().cpu().contiguous() for n, t in module.tensors().items() if t.is_floating_point()}
    _write(path, tensors)


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file; what the disk says comes as an OSError, which runs turn into one line."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


def load_weights(path: Path, module: LoweredModule) -> None:
    """Read what :func:`save_weights` wrote into the module, in place.

    Raises:
        RunError: The file holds other weights than the module.
    """
    try:
        found = load_file(path)
    except Exception as error:  # safetensors raises its own error type, which is not public
        msg = f"{path}: cannot be read as a checkpoint ({error}); delete the phase's checkpoints and resume"
        raise RunError(msg) from error
    wanted = {n: t for n, t in module.tensors().items() if t.is_floating_point()}
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())
        msg = f"{path}: belongs to another model (weight {odd[0]!r} is in one of them only)"
        raise RunError(msg)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def save_state(
    folder: Path,
    module: LoweredModule,
    optimizers: Mapping[str, torch.optim.Optimizer],
    meta: Mapping[str, Any],
    extra: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the whole state of a training into an existing, empty folder.

    Args:
        folder: Where to.
        module: Its weights and statistics are written.
        optimizers: By name.
        meta: JSON values.
        extra: Further tensors, see :func:`load_extra`.
    """
    save_weights(folder / _WEIGHTS, module)
    tensors: dict[str, torch.Tensor] = {}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"{name}/{index}/{key}"] = torch.as_tensor(value).detach().cpu().clone()
    _write(folder / _OPTIMIZERS, tensors)
    if extra:
        _write(folder / _EXTRA, {name: tensor.detach().cpu().contiguous() for name, tensor in extra.items()})
    write_json(folder / _META, dict(meta))


def load_state(folder: Path, module: LoweredModule, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Any]:
    """Read a state back, bit for bit, and return its `meta`."""
    load_weights(folder / _WEIGHTS, module)
    states: dict[str, dict[int, dict[str, torch.Tensor]]] = {name: {} for name in optimizers}
    for key, value in load_file(folder / _OPTIMIZERS).items():
        name, index, field = key.split("/")
        states[name].setdefault(int(index), {})[field] = value
    for name, optimizer in optimizers.items():
        whole = optimizer.state_dict()
        whole["state"] = states[name]
        optimizer.load_state_dict(whole)
    return dict(read_json(folder / _META))


def load_extra(folder: Path) -> dict[str, torch.Tensor]:
    """The further tensors of a state; empty if it was written without."""
    file = folder / _EXTRA
    return dict(load_file(file)) if file.exists() else {}
