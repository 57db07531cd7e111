"""A branch is trained, and where it branches off is chosen by trials. Nothing but the branch changes.

The layers before the branch come from the emitted model, their normalizations folded: none of their weights gets a
gradient, and no running statistic of theirs moves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl.data import Dataset, limited, split
from onnxmtl.deploy.added import Trial
from onnxmtl.lowering import write_back
from onnxmtl.lowering.agreement import from_first
from onnxmtl.passes.add_task import frozen, graft
from onnxmtl.policy.budget import Absolute
from onnxmtl.runs import Checkpoints
from onnxmtl.search.recipe import Stage
from onnxmtl.search.setting import JUDGED
from onnxmtl.search.training import train_weights
from onnxmtl.train.metrics import higher_is_better
from onnxmtl.workflows.adding.asking import Asked
from onnxmtl.workflows.adding.base import BRANCH
from onnxmtl.workflows.adding.options import Option, Options, over_budget, spread, within
from onnxmtl.workflows.digest import graph_digest
from onnxmtl.workflows.session import Session, read_metrics, write_history, write_metrics

BRANCH_FILE = "branch.onnx"
HELD = 0.2  # of the training samples: what trials are judged on
ALIKE = 0.01  # relative: of places that are as good as the best one, the cheapest is taken
TRIAL_SHARE = 4  # a trial has a quarter of the steps


@dataclasses.dataclass(frozen=True)
class Training:
    """What trains a branch.

    Attributes:
        session: The run; its only task is the new one.
        options: The places.
        stage: The optimizer.
        steps: Updates.
    """

    session: Session
    options: Options
    stage: Stage
    steps: int

    def train(self, option: Option, name: str, steps: int, held: tuple[Dataset, Dataset] | None = None) -> Path:
        """The phase that trains a branch; its folder has the branch and its metrics.

        Args:
            option: Where it branches off.
            name: Of the phase.
            steps: Updates.
            held: What it is trained and judged on; None: the training and the validation set.
        """
        session, stage = self.session, self.stage
        branch = graphs.clone(option.branch)
        setting = session.setting
        if held is not None:
            setting = dataclasses.replace(setting, data=dataclasses.replace(setting.data, train=held[0]))
        assert stage.weights is not None, "the stage of a branch trains weights"
        spec = stage.weights

        def work(checkpoints: Checkpoints, folder: Path) -> None:
            model = self.model(branch)
            module = session.module(model)
            session.recalibrate(module, model)  # as every model before its training
            history = train_weights(
                module,
                setting,
                spec,
                steps,
                name=name,
                reference=stage.reference,
                checkpoints=checkpoints,
                listener=session.listener(name, steps, checkpoints),
            )
            write_back(module, branch)

            def write() -> None:
                graphs.save(branch, folder / BRANCH_FILE)
                write_metrics(folder, session.evaluate(module, dataset=None if held is None else held[1]))
                write_history(folder, history)

            from_first(write)

        return session.training(
            name, work, branch=graph_digest(branch), stage=dataclasses.asdict(stage), steps=steps, held=held is not None
        )

    def model(self, branch: ir.Model) -> ir.Model:
        """The branch and all before it, which is frozen."""
        read = [str(value.name) for value in branch.graph.inputs]
        return graft(frozen(self.options.base.emitted, read), branch, alone=True)


def choose(
    training: Training, asked: Asked, limits: Sequence[Absolute], first: Sequence[Option]
) -> tuple[Option, tuple[Trial, ...]]:
    """Where the new task branches off.

    A place that the user names is taken; if it lies on several paths that differ behind it, each of them is tried.
    Otherwise a head alone is tried on every path. On the path where it does best, places further back are tried, as far
    as the budget goes. Of the best ones, which differ by a hundredth, the cheapest is taken.

    Args:
        training: What trains a branch.
        asked: The user's words.
        limits: The budget.
        first: What the choice begins with, see :func:`first_options`.

    Raises:
        BudgetError: No place keeps the budget.
    """
    trials = _Trials(training, asked, limits)
    first = trials.possible(first)
    if asked.at or asked.candidates == 1:
        return trials.best(first)
    path = trials.best(first)[0].path
    along = trials.possible(training.options.along(path))
    return trials.best(spread(along, asked.candidates))


def first_options(options: Options, asked: Asked) -> list[Option]:
    """The options among which the choice begins: those at the place that is named, or a head alone on every path.

    Raises:
        OnnxMTLError: There is no such place, no such task, or no branch fits there.
    """
    if asked.like:
        path = options.path(asked.like)
        return [options.at(path, path.named(asked.at) if asked.at else path.places[-1])]
    return options.named(asked.at) if asked.at else options.heads()


class _Trials:
    def __init__(self, training: Training, asked: Asked, limits: Sequence[Absolute]) -> None:
        self._training, self._asked, self._limits = training, asked, limits
        self._values: dict[tuple[tuple[str, ...], ...], tuple[Option, float]] = {}

    def possible(self, options: Sequence[Option]) -> list[Option]:
        """Those within the budget."""
        found = within(options, self._limits, self._training.options.measure)
        if not found:
            raise over_budget(options, self._limits, self._training.options.before)
        return found

    def best(self, options: Sequence[Option]) -> tuple[Option, tuple[Trial, ...]]:
        """The one to take, after trials if there are several; and all trials so far."""
        if len(options) > 1:
            for option in options:
                self._try(option)
        taken = self._pick(options)
        return taken, tuple(
            Trial(
                like=option.path.task,
                at=option.place.name,
                multiply_adds=option.costs.multiply_adds,
                parameters=option.costs.parameters,
                value=value,
                taken=option.key == taken.key,
            )
            for option, value in self._values.values()
        )

    def _try(self, option: Option) -> None:
        if option.key in self._values:
            return
        training, task = self._training, self._training.options.task
        steps = self._asked.trial_steps or max(1, training.steps // TRIAL_SHARE)
        setting = training.session.setting
        rest, held = split(setting.data.train, 1.0 - HELD, setting.seed)
        name = f"trial-{len(self._values) + 1}"
        folder = training.train(option, name, steps, (rest, limited(held, JUDGED)))
        self._values[option.key] = (option, read_metrics(folder)[task.name][task.primary])

    def _pick(self, options: Sequence[Option]) -> Option:
        if len(options) == 1:
            return options[0]
        up = higher_is_better(self._training.options.task.primary)
        values = {option: self._values[option.key][1] for option in options}
        known = [value for value in values.values() if math.isfinite(value)]
        if known:
            best = max(known) if up else min(known)
            options = [option for option in options if abs(values[option] - best) <= ALIKE * abs(best)]
        return min(options, key=lambda option: option.costs.multiply_adds)


def train(training: Training, option: Option) -> tuple[ir.Model, dict[str, dict[str, float]]]:
    """The branch, trained; and the new task's metrics on the validation set."""
    folder = training.train(option, BRANCH, training.steps)
    return graphs.load(folder / BRANCH_FILE), read_metrics(folder)
