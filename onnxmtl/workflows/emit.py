"""From a trained multi-task model to the files a user ships: finalize, certify, verify."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl import ir as graphs
from onnxmtl.data import InputSpec
from onnxmtl.deploy.ranges import largest_activations
from onnxmtl.deploy.structure import compare_structures
from onnxmtl.deploy.verify import MODEL_FILE, VerifyReport, verify, write_certificate
from onnxmtl.errors import VerificationError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.finalize import (
    ApplyOutputContract,
    DropTrainingOnly,
    finalize_passes,
    half_passes,
    separated,
)
from onnxmtl.passes.instruments import Instrument
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces.tree import LAYOUT_KEY
from onnxmtl.policy import Architecture, Layout
from onnxmtl.workflows.selecting import selection


def emit(
    folder: Path,
    trained: ir.Model,
    tasks: TaskSet,
    spec: InputSpec,
    images: np.ndarray[Any, np.dtype[np.float32]],
    *,
    supermodel: ir.Model | None = None,
    layout: Layout | None = None,
    fold: bool = True,
    siblings: bool = False,
    half: bool = False,
    instruments: Sequence[Instrument] = (),
    final: ir.Model | None = None,
) -> tuple[ir.Model, VerifyReport]:
    """Write ``model.onnx`` and its certificate into `folder` and replay it in ONNX Runtime.

    Args:
        folder: An existing, empty folder.
        trained: The trained multi-task model (raw outputs, named after the tasks); not changed.
        tasks: Its tasks.
        spec: What its images are; becomes the input contract.
        images: Float32 [N, C, H, W], two or more, to certify the model on.
        supermodel: Where it was selected from: the structural proof compares with what its architecture selects.
        layout: The tree that it is, for its metadata.
        fold: Whether BatchNormalization is folded.
        siblings: Whether convolutions of different tasks on one input are fused.
        half: Whether it computes in float16 where that is safe, judged on `images` too.
        instruments: Watch the passes of finalize.
        final: The model that is handed over, where finalize is not to make it of `trained`; not changed.

    Returns:
        The emitted model and what verification found (all well).

    Raises:
        VerificationError: The emitted model is not what was selected, or computes something else.
    """
    contract = dataclasses.asdict(spec)
    if final is None:
        passes = finalize_passes(tasks, contract, fold=fold, siblings=siblings)
        finalize = Pipeline(passes, instruments=instruments, name="finalize")
        copy = graphs.clone(trained)
        if layout is not None:
            copy.metadata_props[LAYOUT_KEY] = layout.to_json()
        final = finalize(copy).model
        if half:
            passes = half_passes(largest_activations(final, images))
            final = Pipeline(passes, instruments=instruments, name="finalize")(final).model
    structure = _prove(trained, final, supermodel)
    graphs.save(final, folder / MODEL_FILE)
    # Torch computes the certificate on the unfolded model: folding is part of what is verified.
    plain = Pipeline([DropTrainingOnly(), ApplyOutputContract(tasks, contract)], name="contract")(
        graphs.clone(trained)
    ).model
    module = to_torch(plain).eval()
    with torch.no_grad():
        outputs = {name: value.numpy() for name, value in module(torch.from_numpy(images)).items()}
    name = str(final.graph.inputs[0].name)
    write_certificate(folder, {name: images}, outputs, structure, folded=fold)
    return final, verify(folder).check()


def _prove(trained: ir.Model, final: ir.Model, supermodel: ir.Model | None) -> dict[str, Any]:
    """Show that the emitted operators are those that were selected; returns what was compared, for the certificate."""
    differences = compare_structures(trained, separated(final))
    proof: dict[str, Any] = {"architecture": trained.metadata_props.get("onnxmtl.architecture", "")}
    if supermodel is not None and proof["architecture"]:
        architecture = Architecture.from_json(proof["architecture"])
        again = Pipeline(selection(architecture), name="select")(graphs.clone(supermodel)).model
        differences += compare_structures(again, trained)
        proof["compared_with"] = "the selection from the supermodel"
    if differences:
        msg = f"the emitted model is not what was selected: {differences[0]} ({len(differences)} differences)"
        raise VerificationError(msg)
    return proof
