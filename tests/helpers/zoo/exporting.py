"""torch's exporters, as people call them."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import logging
import os
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
import torch
from torch import nn

from helpers.zoo.networks import NETWORKS, SIZE

Exporter = Literal["dynamo", "dynamo-raw", "legacy", "legacy-train"]
EXPORTERS: tuple[Exporter, ...] = get_args(Exporter)
# An export by dynamo takes two to five seconds: the sessions and workers of a machine share what they exported.
_CACHE = Path(__file__).parents[3] / ".pytest_cache" / "zoo"


def export(
    name: str,
    exporter: Exporter = "dynamo",
    *,
    batch: int | None = 1,
    size: tuple[int, int] = (SIZE, SIZE),
    opset: int | None = None,
) -> onnx.ModelProto:
    """The network `name` of the zoo as an exporter writes it; a copy of its own for every caller.

    Args:
        name: A key of NETWORKS.
        exporter: ``dynamo`` (torch's default), ``dynamo-raw`` (``optimize=False``), ``legacy`` (TorchScript),
            ``legacy-train`` (TorchScript, ``training=PRESERVE`` of a module in train mode, nothing folded).
        batch: Baked in by the example image; None leaves it free. ``legacy-train`` needs 2 at least, and takes 2 for 1:
            BatchNorm in training has nothing to average over a pooled map of one image.
        size: Height and width of the example image.
        opset: None: the exporter's own choice (opset 18 and 17).
    """
    model = onnx.ModelProto()
    model.ParseFromString(_bytes(name, exporter, batch, size, opset))
    return model


@functools.cache
def _bytes(name: str, exporter: Exporter, batch: int | None, size: tuple[int, int], opset: int | None) -> bytes:
    key = hashlib.sha256(repr((_version(), name, exporter, batch, size, opset)).encode()).hexdigest()[:16]
    file = _CACHE / f"{name}-{exporter}-{key}.onnx"
    if file.exists():
        return file.read_bytes()
    written = write(NETWORKS[name](), exporter, batch=batch, size=size, opset=opset)
    _CACHE.mkdir(parents=True, exist_ok=True)
    own = file.with_suffix(f".{os.getpid()}")
    own.write_bytes(written)
    own.replace(file)
    return written


@functools.cache
def _version() -> str:
    """Of the exporters and of the networks."""
    others = ("__init__.py", "importing.py")
    files = (file for file in sorted(Path(__file__).parent.glob("*.py")) if file.name not in others)
    sources = b"".join(file.read_bytes() for file in files)
    versions = [importlib.metadata.version(package) for package in ("torch", "onnxscript", "onnx")]
    return f"{versions} {hashlib.sha256(sources).hexdigest()}"


def write(
    module: nn.Module,
    exporter: Exporter,
    *,
    batch: int | None = 1,
    size: tuple[int, int] = (SIZE, SIZE),
    opset: int | None = None,
) -> bytes:
    """Export any module; see :func:`export`."""
    if exporter == "legacy-train" and batch == 1:
        batch = 2
    image = torch.zeros(batch or 2, 3, *size)
    options: dict[str, Any] = {"verbose": False, "input_names": ["image"]}
    if exporter.startswith("dynamo"):
        options |= {"dynamo": True, "optimize": exporter == "dynamo", "opset_version": opset}
        if batch is None:
            options["dynamic_shapes"] = ({0: torch.export.Dim.DYNAMIC},)
    else:
        options |= {"dynamo": False, "opset_version": opset or 17}
        if batch is None:
            options["dynamic_axes"] = {"image": {0: "N"}}
        if exporter == "legacy-train":
            options |= {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    state = {key: value.clone() for key, value in module.state_dict().items()}
    module.train(exporter == "legacy-train")
    buffer = io.BytesIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (image,), buffer, **options)
    finally:
        logging.disable(logging.NOTSET)
        module.eval()
        module.load_state_dict(state)  # tracing in train mode moves the running statistics
    return buffer.getvalue() if exporter != "legacy-train" else _with_statistics(buffer.getvalue(), state)


def _with_statistics(model: bytes, state: dict[str, torch.Tensor]) -> bytes:
    """The statistics as they were before tracing moved them."""
    proto = onnx.ModelProto.FromString(model)
    for tensor in proto.graph.initializer:
        if tensor.name.endswith(("running_mean", "running_var")):
            tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
    return proto.SerializeToString()
