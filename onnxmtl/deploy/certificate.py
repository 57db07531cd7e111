"""The certificate of an emitted model: two files beside ``model.onnx`` that say what it is and what it computes.

    certificate.npz    inputs, and what the model should compute for them
    certificate.json   hash of each weight, operators, a digest per output

Of a float model the outputs are those that torch computed. What an int8 model computes depends a little on the kernels,
which round after different sums; its outputs are those of ONNX Runtime when the tasks' metrics were measured, with its
optimizations off and on.
"""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxmtl.deploy.structure import operator_list, output_digests, weight_hashes
from onnxmtl.errors import ModelError, OnnxMTLError, VerificationError
from onnxmtl.frontends.onnx import load
from onnxmtl.passes.finalize.half import FLOAT16, PRECISION_KEY
from onnxmtl.runs import atomic_write, file_sha256, read_json, write_json

MODEL_FILE = "model.onnx"
ARRAYS_FILE = "certificate.npz"
RECORD_FILE = "certificate.json"
FORMAT = 1
EXACT = 1e-5
FOLDED = 1e-4
HALF = 1e-2  # of a float16 model, for both
EIGHT = 5e-2  # of an int8 model, for both
SINGLE, INT8 = "float32", "int8"
_OTHERS = {FLOAT16: HALF, INT8: EIGHT}

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A certificate as it was read.

    Attributes:
        record: ``certificate.json``.
        inputs: Name of the model's input -> images.
        outputs: Task -> what the model should compute, with the runtime's optimizations off.
        optimized: Task -> the same with them on.
    """

    record: Mapping[str, Any]
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    optimized: Mapping[str, Array]

    @property
    def precision(self) -> str:
        """What the model computes in: float32, float16 or int8."""
        return str(self.record.get("precision", SINGLE))

    @property
    def tolerances(self) -> tuple[float, float]:
        """With the runtime's optimizations off, and on."""
        return _tolerances(self.record["folded"], self.precision)


def write_certificate(
    folder: str | os.PathLike[str],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    structure: Mapping[str, Any],
    *,
    folded: bool = True,
    optimized: Mapping[str, Array] | None = None,
) -> None:
    """Write the certificate of ``folder/model.onnx`` beside it. Equal arguments give equal bytes.

    Args:
        folder: Holds ``model.onnx``.
        inputs: Name of the model's input -> images, two or more.
        outputs: Task -> what torch computes for `inputs`, after the output contract's last step; of an int8 model what
            ONNX Runtime computes with its optimizations off.
        structure: What the model should be, for people and later tools (JSON values); kept as it is.
        folded: Whether normalizations were folded in the model.
        optimized: What is expected with the runtime's optimizations on, if that is not `outputs`.

    Raises:
        ModelError: There is no readable model.
        RunError: The disk refuses.
    """
    place = Path(folder)
    model = load_model(place / MODEL_FILE)
    arrays = {
        f"{kind}:{name}": np.ascontiguousarray(array)
        for kind, found in (("input", inputs), ("output", outputs), ("optimized", optimized or {}))
        for name, array in found.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    atomic_write(place / ARRAYS_FILE, buffer.getvalue())
    precision = model.metadata_props.get(PRECISION_KEY, SINGLE)
    record = {
        "format": FORMAT,
        "model": file_sha256(place / MODEL_FILE),
        "arrays": file_sha256(place / ARRAYS_FILE),
        "folded": folded,
        **({} if precision == SINGLE else {"precision": precision}),
        "tolerances": dict(zip(("plain", "optimized"), _tolerances(folded, precision), strict=True)),
        "weights": weight_hashes(model),
        "operators": operator_list(model),
        "outputs": output_digests(model),
        "structure": dict(structure),
    }
    write_json(place / RECORD_FILE, record)


def read_certificate(folder: Path) -> Certificate:
    """Read the certificate of ``folder/model.onnx``.

    Raises:
        VerificationError: There is none, or it is damaged.
    """
    for name in (RECORD_FILE, ARRAYS_FILE):
        if not (folder / name).is_file():
            msg = f"{folder} has no {name}: only models that onnxmtl emitted can be verified, in their directory"
            raise VerificationError(msg)
    try:
        record = read_json(folder / RECORD_FILE)
        if record["format"] != FORMAT or record["arrays"] != file_sha256(folder / ARRAYS_FILE):
            msg = f"{folder}: {RECORD_FILE} and {ARRAYS_FILE} do not belong together; emit the model again"
            raise VerificationError(msg)
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        for key in ("folded", "weights", "operators", "outputs", "model"):
            record[key]
    except (OnnxMTLError, ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, VerificationError):
            raise
        msg = f"{folder}: the certificate is damaged ({error}); emit the model again"
        raise VerificationError(msg) from error
    kinds: dict[str, dict[str, Array]] = {"input": {}, "output": {}, "optimized": {}}
    for full, array in found.items():
        kind, _, name = full.partition(":")
        kinds.get(kind, {})[name] = array
    return Certificate(record, kinds["input"], kinds["output"], {**kinds["output"], **kinds["optimized"]})


def load_model(file: Path) -> ir.Model:
    """The model that is certified.

    Raises:
        ModelError: There is none, or no readable one.
    """
    if not file.exists():
        msg = f"{file}: no such model file; give the directory that compile wrote, or the model.onnx in it"
        raise ModelError(msg)
    return load(file)


def _tolerances(folded: bool, precision: str) -> tuple[float, float]:
    """For a model as it is, and with the runtime's optimizations."""
    other = _OTHERS.get(precision)
    return (other, other) if other else ((FOLDED if folded else EXACT), FOLDED)
