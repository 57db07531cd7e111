"""The stages that train the supermodel, a phase each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import SiteTable
from onnxmtl.ir import clone
from onnxmtl.lowering import LoweredModule, write_back
from onnxmtl.lowering.agreement import from_first
from onnxmtl.policy.budget import Absolute
from onnxmtl.runs import Checkpoints
from onnxmtl.search.engine import SearchStage
from onnxmtl.search.recipe import Stage
from onnxmtl.train.checkpoint import load_weights, save_weights
from onnxmtl.workflows.phases.job import Job
from onnxmtl.workflows.phases.times import timed
from onnxmtl.workflows.session import WEIGHTS_FILE, write_history
from onnxmtl.workflows.smaller import carry_over


def search(job: Job, limits: Sequence[Absolute] = ()) -> ir.Model:
    """The supermodel with the weights and logits of the last search stage."""
    supermodel, smaller = clone(job.graphs.supermodel), job.smaller
    module = job.session.module(supermodel if smaller is None else clone(smaller.supermodel))
    table = site_table(supermodel)
    times = timed(job, table)
    for stage in job.recipe.search_stages:
        folder = _stage(job, stage, module, table, limits, times)
        load_weights(folder / WEIGHTS_FILE, module)
    if smaller is None:
        write_back(module, supermodel)
    else:
        carry_over(module, supermodel)
    return supermodel


def _stage(
    job: Job,
    stage: Stage,
    module: LoweredModule,
    table: SiteTable,
    limits: Sequence[Absolute],
    times: SiteTable | None,
) -> Path:
    session, setting = job.session, job.session.setting
    if job.smaller is not None:
        setting = dataclasses.replace(setting, data=job.smaller.data)
    steps = stage.steps(session.config.steps)

    def train(checkpoints: Checkpoints, folder: Path) -> None:
        work = SearchStage(module, table, job.recipe, stage, setting, steps, limits, session.config.weighting, times)
        history = work.run(checkpoints, session.listener(stage.name, steps, checkpoints))

        def write() -> None:
            save_weights(folder / WEIGHTS_FILE, module)
            write_history(folder, history)

        from_first(write)

    return session.training(stage.name, train, stage=dataclasses.asdict(stage))
