"""The whole line on one backbone, without data: heads, space, one step of training, selection, emission."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import InputSpec
from onnxmtl.deploy.verify import VerifyReport
from onnxmtl.ir import Role
from onnxmtl.ir.passes import InPlacePass
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import LoweredModule, to_torch, write_back
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import Vcn
from onnxmtl.policy import Architecture
from onnxmtl.workflows.emit import emit

TASKS = TaskSet.parse("seg=segmentation:3,depth")


@dataclasses.dataclass(frozen=True)
class Line:
    """What came out at each end: the trained supermodel, the selected model, the emitted one, what verify measured."""

    supermodel: ir.Model
    selected: ir.Model
    emitted: ir.Model
    report: VerifyReport


def whole_line(
    backbone: ir.Model, folder: Path, *, seed: int = 0, fold: bool = True, space: InPlacePass | None = None
) -> Line:
    """Backbone to emitted model, checked at every step; `emit` raises if ONNX Runtime computes something else.

    The supermodel takes one step of gradient descent at batch 2, all options mixed, in train mode; every weight must
    get a gradient. The architecture is drawn at random.
    """
    height, width = (int(d) for d in list(backbone.graph.inputs[0].shape or ())[2:])
    images = np.random.default_rng(seed).random((3, 3, height, width), dtype=np.float32)
    supermodel = Pipeline([AttachHeads(TASKS, seed=seed), space or Vcn()], instruments=[CheckInvariants()])(
        backbone
    ).model
    module = to_torch(supermodel).train()
    step(module, torch.from_numpy(images[:2]), seed)
    write_back(module, supermodel)

    table = site_table(supermodel)
    rng = random.Random(seed)
    choices = {s.id: {t: rng.choice(s.option_names) for t in table.tasks_at(s)} for s in table.sites}
    passes = select_passes(Architecture(choices).validate(table))
    selected = Pipeline(passes, instruments=[CheckInvariants()])(supermodel.clone()).model
    folder.mkdir(parents=True, exist_ok=True)
    spec = InputSpec(height=height, width=width)
    emitted, report = emit(folder, selected, TASKS, spec, images, supermodel=supermodel, fold=fold)
    return Line(supermodel, selected, emitted, report)


def step(module: LoweredModule, images: torch.Tensor, seed: int = 0, rate: float = 1e-3) -> None:
    """One step down a random linear function of the outputs; fails if a weight gets no gradient.

    Own copies are moved first: while they equal what they were copied from, a choice between the two changes nothing.
    A normalization fresh from its initialization (scales 1, shifts 0) is moved too: its numbers have no spread.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters_with(Role.OWN).values():
            size = next((x for x in (parameter.std(correction=0), parameter.abs().mean()) if x > 0), 1.0)
            parameter += 0.1 * size * torch.randn(parameter.shape, generator=generator)
    module.zero_grad()
    loss = sum((out * torch.randn(out.shape, generator=generator)).mean() for out in module(images).values())
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    missing = without_gradient(module)
    assert not missing, missing
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            norm = parameter.grad.norm()
            parameter -= rate * parameter.grad / norm * (parameter.norm() + rate)


def without_gradient(module: LoweredModule) -> list[str]:
    """Weights that no gradient reaches: none at all, nothing but zeros, or numbers that are no numbers."""
    return [
        name
        for name, parameter in module.parameters_with().items()
        if parameter.grad is None or not bool(parameter.grad.any()) or not bool(parameter.grad.isfinite().all())
    ]
