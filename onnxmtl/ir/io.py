"""Writing and reading models of ours: deterministic bytes, function bodies attached, no half-written file."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxmtl.ir.choice import attach_functions

# Protobuf refuses messages of 2 GiB; above this many bytes of weights they go to a file beside the model.
EXTERNAL_DATA_BYTES = 1_500_000_000


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers of the main graph."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def to_bytes(model: ir.Model) -> bytes:
    """Serialise with Choice bodies attached; equal models give equal bytes."""
    attach_functions(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    return bytes(proto.SerializeToString(deterministic=True))


def save(model: ir.Model, path: str | os.PathLike[str]) -> Path:
    """Write `model` to `path`: beside it first, then renamed.

    Weights beyond protobuf's limit go to ``<path>.data``; to keep such a pair atomic, write into a fresh
    directory and rename that (:func:`onnxmtl.runs.atomic_directory`).
    """
    target = Path(path)
    if weight_bytes(model) > EXTERNAL_DATA_BYTES:
        attach_functions(model)
        ir.save(model, target, external_data=f"{target.name}.data")
        return target
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(to_bytes(model))
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model written by :func:`save`. For files of users see :mod:`onnxmtl.frontends.onnx`."""
    return ir.load(path)
