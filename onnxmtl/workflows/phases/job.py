"""What every part of a run needs to know."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl.cost.count import Costs, count
from onnxmtl.data import InputSpec
from onnxmtl.deploy.explain import write_diagnostics
from onnxmtl.ir.passes import PassBase
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import finalize_passes, half_passes, separated
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import Instrument
from onnxmtl.passes.networks import given_networks, restricted
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.policy import Architecture, Layout
from onnxmtl.policy.latency import Times
from onnxmtl.runs import atomic_write, write_json
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.digest import round_attributes
from onnxmtl.workflows.selecting import selection

if TYPE_CHECKING:  # the graphs are for commands without torch, too
    from onnxmtl.search.recipe import Recipe
    from onnxmtl.workflows.session import Session
    from onnxmtl.workflows.smaller import Smaller

DATA_FILE = "data.json"
_KERNEL = 4  # axes of a convolution's weight
_GRAPHS = ("backbone", "multitask", "separate", "supermodel")


@dataclasses.dataclass(frozen=True)
class Graphs:
    """What a search starts from, never changed afterwards; and what can be made of it without training.

    Attributes:
        backbone: The normalized backbone.
        multitask: The backbone with a head per task.
        supermodel: The search space made of it.
        tasks: The tasks.
        input: What the images are.
        config: The options.
        instruments: Watch every graph pass.
        layout: The tree that `supermodel` is, if that is given.
        separate: A network of its own for every task, if the recipe trains those before the supermodel.
        counted: What :meth:`costs_of` has counted so far.
        clock: What has been measured of it (:mod:`onnxmtl.workflows.phases.times`): nothing, or one entry.
    """

    backbone: ir.Model
    multitask: ir.Model
    supermodel: ir.Model
    tasks: TaskSet
    input: InputSpec
    config: CompileConfig
    instruments: Sequence[Instrument]
    layout: Layout | None = None
    separate: ir.Model | None = None
    counted: dict[Architecture, Costs] = dataclasses.field(default_factory=dict, compare=False)
    clock: list[Times] = dataclasses.field(default_factory=list, compare=False)

    def rewrite(self, model: ir.Model, passes: Sequence[PassBase], name: str) -> ir.Model:
        """A copy of `model` after `passes`."""
        return Pipeline(passes, instruments=self.instruments, name=name)(graphs.clone(model)).model

    def select(self, supermodel: ir.Model, architecture: Architecture) -> ir.Model:
        """The multi-task model of an architecture, with the weights of `supermodel`; still trainable."""
        return self.rewrite(supermodel, selection(architecture), "select")

    def finalize(self, trained: ir.Model, tasks: TaskSet | None = None) -> ir.Model:
        """The model as it would be emitted."""
        contract, config = dataclasses.asdict(self.input), self.config
        passes = finalize_passes(tasks or self.tasks, contract, fold=config.fold, siblings=config.fuse_siblings)
        return self.rewrite(trained, [*passes, *(half_passes() if config.float16 else [])], "finalize")

    def with_heads(self, tasks: TaskSet) -> ir.Model:
        """The backbone with heads for some of the tasks; of networks that were given one per task, those of theirs."""
        if given_networks(self.multitask):
            return restricted(self.multitask, tasks)
        made = self.rewrite(self.backbone, [AttachHeads(tasks, self.config.seed)], "heads")
        round_attributes(made)
        return made

    def costs(self, trained: ir.Model, tasks: TaskSet | None = None) -> Costs:
        """What a model costs once it is emitted."""
        final = self.finalize(trained, tasks)
        file_bytes = len(graphs.to_bytes(final))
        return count(separated(final), file_bytes=file_bytes)

    def costs_of(self, architecture: Architecture) -> Costs:
        """What the model of an architecture costs once it is emitted; the same for all weights."""
        if architecture not in self.counted:
            self.counted[architecture] = count(separated(self.as_emitted(architecture)))
        return self.counted[architecture]

    def as_emitted(self, architecture: Architecture) -> ir.Model:
        """The model of an architecture as it would be emitted, with some weights; no smaller with others."""
        return self.finalize(self.select(self._trained, architecture))

    @functools.cached_property
    def _trained(self) -> ir.Model:
        """The supermodel with weights between networks that are no identity: one that is folds into its neighbours."""
        made = graphs.clone(self.supermodel)
        for name, value in made.graph.initializers.items():
            tensor = value.const_value
            if graphs.role_of(value) is graphs.Role.FUSION and tensor is not None and len(tensor.shape) == _KERNEL:
                value.const_value = ir.tensor(np.full_like(tensor.numpy(), -1.0), name=name)
        return made

    def separate_costs(self) -> Costs:
        """Of a model per task, all of them together."""
        parts = [TaskSet((task,)) for task in self.tasks]
        return total([self.costs(self.with_heads(part), part) for part in parts])


@dataclasses.dataclass(frozen=True)
class Job:
    """A run and what it works on.

    Attributes:
        session: The run's directory, data and options.
        title: What reports call the backbone.
        recipe: The search method, with the user's changes.
        graphs: The untrained graphs.
        data: Fingerprint of the data set.
        smaller: What is searched in the place of the supermodel, at a lower resolution; None: the supermodel itself.
    """

    session: Session
    title: str
    recipe: Recipe
    graphs: Graphs
    data: str
    smaller: Smaller | None = None

    def write_graphs(self, digest: str, tasks: TaskSet | None = None) -> None:
        """The phase ``import``: the graphs, the tasks, and what was noticed about them.

        Args:
            digest: Of the supermodel.
            tasks: Of the graphs, where the run trains some of them only.
        """

        def write(folder: Path) -> None:
            made = self.graphs
            for name in _GRAPHS:
                if (model := getattr(made, name)) is not None:
                    graphs.save(model, folder / f"{name}.onnx")
            atomic_write(folder / "tasks.json", (tasks or self.session.tasks).to_json().encode())
            write_json(folder / DATA_FILE, {"fingerprint": self.data})
            # Before anything is trained: the search hands its supermodel on without them.
            found = {"import": made.backbone, "heads": made.multitask, "space": made.supermodel}
            write_diagnostics(folder, **found)

        self.session.phase("import", write, graph=digest, data=self.data)


def total(costs: Sequence[Costs]) -> Costs:
    """Several models side by side: nothing is executed once for two of them."""
    sums = {
        field.name: sum(getattr(c, field.name) or 0 for c in costs)
        for field in dataclasses.fields(Costs)
        if field.name != "executed_once"
    }
    return Costs(**sums, executed_once=0.0)
