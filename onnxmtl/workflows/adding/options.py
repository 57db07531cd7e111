"""Where a new task could branch off, and what the model costs then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl import ir as graphs
from onnxmtl import runtime
from onnxmtl.analysis.features import read_features
from onnxmtl.analysis.paths import Place, TaskPath, task_path
from onnxmtl.cost.count import Costs, count
from onnxmtl.data import InputSpec
from onnxmtl.deploy.report import amount
from onnxmtl.errors import BudgetError, ModelError, OnnxMTLError, TaskError
from onnxmtl.kinds import Task, TaskSet, close_match
from onnxmtl.lowering.ops import check_supported
from onnxmtl.passes.add_task import cut_branch, finalize_branch, finish, graft, make_room, names_of, with_head
from onnxmtl.passes.finalize import separated
from onnxmtl.passes.heads import features_of
from onnxmtl.policy.budget import Absolute
from onnxmtl.train.priors import start_from
from onnxmtl.workflows.adding.base import Base
from onnxmtl.workflows.digest import round_attributes


@dataclasses.dataclass(frozen=True, eq=False)
class Option:
    """A place to branch off.

    Attributes:
        path: The path that is left.
        place: Where.
        branch: What the new task has of its own, untrained, its trunk with the weights of the path.
        copied: Names of the path's tensors that the branch computes for itself.
        costs: Parameters and multiply-adds of the emitted model with it.
    """

    path: TaskPath
    place: Place
    branch: ir.Model
    copied: tuple[str, ...]
    costs: Costs

    @property
    def head_only(self) -> bool:
        """Whether the new task has a head and no layers of its own."""
        return not self.copied

    @property
    def key(self) -> tuple[tuple[str, ...], ...]:
        """Equal for options that are the same model."""
        return self.copied, tuple(sorted(str(value.name) for value in self.branch.graph.inputs))


class Options:
    """All places of a run's model, for one task.

    Args:
        base: The run. Tensors and weights that are called like the new task are renamed in its models.
        task: The new task, with its classes.
        priors: What its head begins with, see :func:`onnxmtl.train.priors.label_priors`.
        spec: What the images are.
        seed: Of the head's weights.
        fold: Whether normalizations are folded in the emitted model.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        priors: Mapping[str, torch.Tensor],
        spec: InputSpec,
        *,
        seed: int,
        fold: bool,
    ) -> None:
        make_room([base.trained, base.emitted], task.name)
        make_room([base.multitask], task.name)
        self.base, self.task, self._priors, self._spec = base, task, priors, spec
        self._seed, self._fold = seed, fold
        self.before = count(separated(base.emitted))
        self._taken = names_of(base.trained) | names_of(base.emitted)
        self._with_head: dict[str, ir.Model] = {}
        self._made: dict[tuple[str, int], Option] = {}
        self._measured: dict[tuple[tuple[str, ...], ...], float] = {}
        self.paths, self._refused = self._all_paths()

    def _all_paths(self) -> tuple[tuple[TaskPath, ...], dict[str, OnnxMTLError]]:
        """The paths that the new head can follow, and why it cannot follow the others."""
        found: list[TaskPath] = []
        refused: dict[str, OnnxMTLError] = {}
        for name in self.base.tasks.names:
            try:
                path = task_path(self.base.trained.graph, name, self.base.backbone.graph, others=self.base.others(name))
                self._with_head[name] = self._headed(self.base.trained, path)
                found.append(path)
            except (ModelError, TaskError) as error:
                refused[name] = error
        if not found:
            raise next(iter(refused.values()))
        return tuple(found), refused

    def _headed(self, model: ir.Model, path: TaskPath) -> ir.Model:
        names = [str(value.name) for value in path.features]
        called = self._called(path)
        task = self.task.replace(features=tuple(self._feature(name, called, path) for name in self.task.features))
        made = with_head(model, names, task, self._seed)
        check_supported(made.graph)  # the user's head
        round_attributes(made)
        start_from(made, self._priors)
        return made

    def _called(self, path: TaskPath) -> dict[str, str]:
        """Name of a feature of the backbone -> the tensor that the path has in its place."""
        features = [feature.name for feature in read_features(self.base.backbone)]
        read = features_of(self.base.tasks[path.task], features)
        own = {str(value.name): str(value.name) for value in path.features}
        if len(read) == len(path.features):
            own |= {name: str(value.name) for name, value in zip(read, path.features, strict=True)}
        return own

    def _feature(self, name: str, called: Mapping[str, str], path: TaskPath) -> str:
        if name not in called:
            msg = (
                f"task {self.task.name!r}: the head of {path.task!r} reads no feature {name!r}"
                f"{close_match(name, list(called))}; a new head reads what that one reads: {', '.join(called)}"
            )
            raise TaskError(msg)
        return called[name]

    def path(self, like: str) -> TaskPath:
        """The path of a task.

        Raises:
            OnnxMTLError: There is no such task, or the new head cannot follow it.
        """
        self.base.tasks[like]  # refuses an unknown one
        if like in self._refused:
            raise self._refused[like]
        return next(path for path in self.paths if path.task == like)

    def at(self, path: TaskPath, place: Place) -> Option:
        """One option.

        Raises:
            ModelError: The emitted model lacks a tensor that the branch would read.
        """
        where = (path.task, place.position)
        if where not in self._made:
            self._made[where] = self._make(path, place)
        return self._made[where]

    def _make(self, path: TaskPath, place: Place) -> Option:
        headed = self._with_head[path.task]
        behind = {str(value.name) for node in path.behind(place) for value in node.outputs}
        trunk = _of_trunk(headed)
        copied = tuple(name for name in trunk if name in behind)
        network = path.task if self.base.separate else ""
        branch = cut_branch(headed, set(trunk) - behind, self.task.name, self._taken, network=network)
        graft(self.base.emitted, branch)  # refuses what does not fit
        return Option(path, place, branch, copied, _sum(self.before, count(self.finalized(branch))))

    def finalized(self, branch: ir.Model) -> ir.Model:
        """A branch as it is handed over."""
        return finalize_branch(branch, self.task, dataclasses.asdict(self._spec), fold=self._fold)

    def emitted(self, branch: ir.Model, tasks: TaskSet, added: Mapping[str, str]) -> ir.Model:
        """The emitted model with a branch in it."""
        return finish(self.base.emitted, self.finalized(branch), tasks, added)

    def measure(self, option: Option) -> float:
        """Milliseconds of one image through the emitted model with a branch, in ONNX Runtime on this machine; once."""
        if option.key not in self._measured:
            self._measured[option.key] = self._latency(option)
        return self._measured[option.key]

    def _latency(self, option: Option) -> float:
        image = np.zeros((1, self._spec.channels, self._spec.height, self._spec.width), np.float32)
        model = self.emitted(option.branch, TaskSet((*self.base.tasks, self.task)), {})
        return runtime.latency(graphs.to_bytes(model), image)

    def multitask(self) -> ir.Model:
        """The run's untrained graph with the new head on it."""
        path = self.paths[0]
        if self.base.given:  # nobody knows an untrained network for the task
            return graft(self.base.trained, self.at(path, path.places[-1]).branch)
        graph = self.base.multitask
        own = task_path(graph.graph, path.task, self.base.backbone.graph)
        headed = self._headed(graph, own)
        return graft(graph, cut_branch(headed, _of_trunk(headed), self.task.name, names_of(graph)))

    # Choosing

    def heads(self) -> list[Option]:
        """A head alone, on every path on which that is another model."""
        return self._possible((path, path.places[-1]) for path in self.paths)

    def named(self, name: str) -> list[Option]:
        """The options at a place, on every path that has it.

        Raises:
            ModelError: No path has it, or no branch fits there.
        """
        pairs, errors = [], []
        for path in self.paths:
            try:
                pairs.append((path, path.named(name)))
            except ModelError as error:
                errors.append(error)
        if not pairs:
            raise errors[0]
        return self._possible(pairs)

    def along(self, path: TaskPath) -> list[Option]:
        """All places between blocks of one path, the cheapest first."""
        found = self._possible((path, place) for place in path.places if place.block)
        return sorted(found, key=lambda option: option.costs.multiply_adds)

    def _possible(self, pairs: Any) -> list[Option]:
        """The options that fit the emitted model, each once.

        Raises:
            ModelError: None fits.
        """
        found: dict[tuple[tuple[str, ...], ...], Option] = {}
        error: ModelError | None = None
        for path, place in pairs:
            try:
                option = self.at(path, place)
            except ModelError as refused:
                error = refused
                continue
            found.setdefault(option.key, option)
        if not found:
            assert error is not None
            raise error
        return list(found.values())


def _of_trunk(model: ir.Model) -> list[str]:
    """Names of the tensors that no head computes."""
    return [str(v.name) for node in model.graph if graphs.head_of(node) is None for v in node.outputs]


def within(options: Sequence[Option], limits: Collection[Absolute], measure: Callable[[Option], float]) -> list[Option]:
    """The options that keep a budget.

    Args:
        options: Some options.
        limits: The budget.
        measure: Milliseconds of the model with an option, if latency is limited.
    """
    counted = [limit for limit in limits if limit.quantity != "latency"]
    timed = [limit for limit in limits if limit.quantity == "latency"]
    found = [option for option in options if all(limit.allows(limit.of(option.costs)) for limit in counted)]
    if timed:
        tightest = min(limit.bound for limit in timed)
        found = [option for option in found if measure(option) <= tightest]
    return found


def over_budget(options: Sequence[Option], limits: Collection[Absolute], before: Costs) -> BudgetError:
    """That none of the options keeps the budget, with what the cheapest one would need."""
    cheapest = min(options, key=lambda option: option.costs.multiply_adds)
    parts = []
    for limit in limits:
        if limit.quantity != "latency":
            needs, has = limit.of(cheapest.costs), limit.of(before)
            parts.append(f"{amount(needs)} {limit.name}, which is {needs / has:.3f}x of what the model has")
    shown = f" (the cheapest needs {' and '.join(parts)})" if parts else ""
    msg = f'{", ".join(map(str, limits))}: no branch keeps it{shown}; raise it, or take a lighter head (head = "light")'
    return BudgetError(msg)


def spread(options: Sequence[Option], most: int) -> list[Option]:
    """At most so many of the options, the cheapest and the dearest among them, the others evenly between."""
    if len(options) <= most:
        return list(options)
    if most == 1:
        return [options[0]]
    chosen = {round(i * (len(options) - 1) / (most - 1)) for i in range(most)}
    return [options[i] for i in sorted(chosen)]


def _sum(one: Costs, other: Costs) -> Costs:
    """A model with a branch: nothing in the branch serves two tasks."""
    executed = one.multiply_adds + other.multiply_adds
    return Costs(
        parameters_trunk=one.parameters_trunk + other.parameters_trunk,
        parameters=one.parameters + other.parameters,
        multiply_adds=executed,
        multiply_adds_unshared=one.multiply_adds_unshared + other.multiply_adds_unshared,
        executed_once=one.executed_once * one.multiply_adds / executed if executed else 0.0,
        parameters_paper=one.parameters_paper + other.parameters_paper,
        multiply_adds_trunk=one.multiply_adds_trunk + other.multiply_adds_trunk,
    )
