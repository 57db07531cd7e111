"""The stages before the architecture is decided, a phase each: separate networks, and the supermodel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir
import torch

from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import SiteTable
from onnxmtl.errors import RunError
from onnxmtl.ir import clone
from onnxmtl.lowering import LoweredModule, write_back
from onnxmtl.lowering.agreement import from_first
from onnxmtl.policy.budget import Absolute
from onnxmtl.runs import Checkpoints
from onnxmtl.search.engine import SearchStage
from onnxmtl.search.recipe import Stage
from onnxmtl.search.setting import Setting
from onnxmtl.search.training import train_weights
from onnxmtl.train.checkpoint import load_weights, save_weights
from onnxmtl.train.history import History
from onnxmtl.train.loop import Listener
from onnxmtl.workflows.phases.job import Job
from onnxmtl.workflows.phases.times import timed
from onnxmtl.workflows.session import WEIGHTS_FILE, write_history
from onnxmtl.workflows.smaller import carry_over

_Train = Callable[[Checkpoints, Listener], History]


@dataclasses.dataclass(frozen=True)
class Searched:
    """What the stages before the architecture is decided leave.

    Attributes:
        supermodel: With the weights and logits of the last of them.
        start: The supermodel as the search found it: after the stages of separate networks that come first; None where
            there are none, and it is the untrained one.
        updates: Of weights, behind `start`.
    """

    supermodel: ir.Model
    start: ir.Model | None = None
    updates: int = 0


def search(job: Job, limits: Sequence[Absolute] = ()) -> Searched:
    """Run all stages but the one that trains the selected model."""
    supermodel, smaller = clone(job.graphs.supermodel), job.smaller
    module = job.session.module(supermodel if smaller is None else clone(smaller.supermodel))
    table = site_table(supermodel)
    times = timed(job, table, limits)
    start, updates = None, 0
    for i, stage in enumerate(stages := job.recipe.early_stages):
        if stage.relaxation == "separate":
            train = _networks(job, stage, module)
        else:
            train = _supermodel(job, stage, module, table, limits, times)
        load_weights(_phase(job, stage, module, train) / WEIGHTS_FILE, module)
        if all(one.relaxation == "separate" for one in stages[: i + 1]):
            start, updates = _written(job, module), updates + _steps(job, stage)
    return Searched(_written(job, module), start, updates)


def _written(job: Job, module: LoweredModule) -> ir.Model:
    """The supermodel with the weights of `module`."""
    supermodel = clone(job.graphs.supermodel)
    if job.smaller is None:
        write_back(module, supermodel)
    else:
        carry_over(module, supermodel)
    return supermodel


def _phase(job: Job, stage: Stage, module: LoweredModule, train: _Train) -> Path:
    """The folder of a stage that leaves its weights in the supermodel."""
    session, steps = job.session, _steps(job, stage)

    def work(checkpoints: Checkpoints, folder: Path) -> None:
        history = train(checkpoints, session.listener(stage.name, steps, checkpoints))

        def write() -> None:
            save_weights(folder / WEIGHTS_FILE, module)
            write_history(folder, history)

        from_first(write)

    return session.training(stage.name, work, stage=dataclasses.asdict(stage))


def _supermodel(
    job: Job,
    stage: Stage,
    module: LoweredModule,
    table: SiteTable,
    limits: Sequence[Absolute],
    times: SiteTable | None,
) -> _Train:
    """A stage of the search."""
    weighting, setting, steps = job.session.config.weighting, _setting(job), _steps(job, stage)

    def train(checkpoints: Checkpoints, listener: Listener) -> History:
        work = SearchStage(module, table, job.recipe, stage, setting, steps, limits, weighting, times)
        return work.run(checkpoints, listener)

    return train


def _networks(job: Job, stage: Stage, module: LoweredModule) -> _Train:
    """A stage that trains every task's own network and puts it into the supermodel.

    All of them are trained in one step, on the images that single-task models see: nothing is shared, so that this is
    as if each were trained alone.
    """
    assert stage.weights is not None, "a stage without a policy has weights"
    spec, setting, steps = stage.weights, _setting(job), _steps(job, stage)

    def train(checkpoints: Checkpoints, listener: Listener) -> History:
        smaller = job.smaller
        model = job.graphs.separate if smaller is None else smaller.separate
        assert model is not None, "the recipe has a stage for it"
        networks = job.session.module(clone(model))
        copy_tensors(module, networks)  # another stage may have trained them before
        history = train_weights(
            networks,
            setting,
            spec,
            steps,
            name=stage.name,
            checkpoints=checkpoints,
            listener=listener,
            sequential=bool(stage.sequential),
            reference=stage.reference,
            weighting=job.session.config.weighting,
        )
        copy_tensors(networks, module)
        return history

    return train


def copy_tensors(source: LoweredModule, target: LoweredModule) -> None:
    """Copy weights and running statistics by name, from separate networks into a supermodel of them or back.

    Raises:
        RunError: The separate networks have a weight that the supermodel does not have, or of another form.
    """
    given, wanted = source.tensors(), target.tensors()
    common = [name for name, tensor in given.items() if name in wanted and tensor.is_floating_point()]
    networks = min((source, target), key=lambda module: len(module.tensors()))
    odd = sorted(networks.parameters_with().keys() - set(common))
    odd += [name for name in common if given[name].shape != wanted[name].shape]
    if odd:
        msg = (
            f"weight {odd[0]!r} of the tasks' own networks is not in the supermodel as it is: the space does not keep "
            "separate networks; leave out the stage that trains them (--without networks)"
        )
        raise RunError(msg)
    with torch.no_grad():
        for name in common:
            wanted[name].copy_(given[name])


def _setting(job: Job) -> Setting:
    setting = job.session.setting
    return setting if job.smaller is None else dataclasses.replace(setting, data=job.smaller.data)


def _steps(job: Job, stage: Stage) -> int:
    return stage.steps(job.session.config.steps)
