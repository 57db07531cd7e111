"""All that comes before the first training step; whatever is wrong with the input is found here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import Dataset, DataSource, Subset, fingerprint, iterate, parts_of
from onnxmtl.errors import DataError
from onnxmtl.ir import clone
from onnxmtl.ir.passes import PassBase
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.lowering.ops import check_supported
from onnxmtl.passes.fine_feature import AddFineFeature
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants, Instrument
from onnxmtl.passes.normalize.reseed import ReseedConstantWeights
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import layout_blocks, space
from onnxmtl.passes.spaces.separate import Separate
from onnxmtl.policy import Layout
from onnxmtl.search.penalties import penalties
from onnxmtl.search.recipe import Recipe
from onnxmtl.search.regularizers import TIMED, regularizer
from onnxmtl.train.labels import valid_mask
from onnxmtl.train.priors import label_priors, start_from
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.data import open_data
from onnxmtl.workflows.digest import graph_digest as graph_digest
from onnxmtl.workflows.digest import round_attributes as round_attributes
from onnxmtl.workflows.importing import load
from onnxmtl.workflows.source import Source

# Samples of either set that its fingerprint reads. Labels of all others are in the priors of the heads, too.
FINGERPRINTED = 256


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a search starts from.

    Attributes:
        backbone: The normalized backbone.
        multitask: The backbone with a head per task.
        supermodel: The search space made of it.
        tasks: With the data set's number of classes.
        data: The data set.
        fingerprint: Of the data set.
        layout: The tree that the supermodel is, if one was given; with the names of its blocks.
        separate: A network of its own for every task, if the recipe trains those before the supermodel.
    """

    backbone: ir.Model
    multitask: ir.Model
    supermodel: ir.Model
    tasks: TaskSet
    data: DataSource
    fingerprint: str
    layout: Layout | None = None
    separate: ir.Model | None = None

    def digest(self) -> str:
        """Of the supermodel: its nodes, the weights of backbone and heads, the label priors in them.

        Covers what a configuration only names: external weights, heads and data of the user.
        """
        return graph_digest(self.supermodel)


def import_backbone(
    source: Source, tasks: TaskSet, config: CompileConfig, instruments: Sequence[Instrument] = ()
) -> ir.Model:
    """The normalized backbone, with the features that the heads need.

    Raises:
        ModelError: It cannot be used; one clear line.
    """
    backbone = load(
        source.model,
        source.example_input,
        weights=source.weights,
        dialect=source.dialect,
        features=config.features,
        output_stride=config.output_stride,
        batchnorm=config.batchnorm,
        input_size=config.input_size,
        instruments=instruments,
    )
    check_supported(backbone.graph)  # here nodes still have the user's names, one each
    ReseedConstantWeights(config.seed)(backbone)
    AddFineFeature(tasks)(backbone)
    return backbone


def rewritten(
    model: ir.Model, passes: Sequence[PassBase], name: str, instruments: Sequence[Instrument] = ()
) -> ir.Model:
    """A copy of `model` after `passes`."""
    made = Pipeline(passes, instruments=(CheckInvariants(), *instruments), name=name)(clone(model)).model
    round_attributes(made)
    return made


def prepare(
    source: Source,
    tasks: TaskSet,
    config: CompileConfig,
    recipe: Recipe,
    instruments: Sequence[Instrument] = (),
    layout: Layout | None = None,
) -> Prepared:
    """Import the backbone, open the data, attach the heads and build the search space. Writes nothing.

    With a `layout` the "search space" is its tree, which leaves nothing to choose.

    Raises:
        OnnxMTLError: The model, the tasks, the data or the options cannot be used; one clear line.
    """
    backbone = import_backbone(source, tasks, config, instruments)
    data, tasks = open_data(backbone, tasks, config)
    multitask = rewritten(backbone, [AttachHeads(tasks, config.seed)], "heads", instruments)
    check_supported(multitask.graph)  # the user's heads
    return assemble(backbone, multitask, data, tasks, config, recipe, instruments, layout)


def assemble(
    backbone: ir.Model,
    multitask: ir.Model,
    data: DataSource,
    tasks: TaskSet,
    config: CompileConfig,
    recipe: Recipe,
    instruments: Sequence[Instrument] = (),
    layout: Layout | None = None,
    *,
    fresh: bool = True,
) -> Prepared:
    """Build the search space of a multi-task graph, and let its heads start from the labels if they are `fresh`.

    Raises:
        OnnxMTLError: The space, the regularizers, the penalties or the data cannot be used; one clear line.
    """
    options = {"seed": config.seed, **recipe.space_options}
    if layout is not None:
        blocks = layout_blocks(backbone, layout)
        layout = layout.with_blocks([block.name for block in blocks])
        options |= {"layout": layout, "blocks": blocks}
    supermodel = rewritten(multitask, [space(recipe.space, **options)], "space", instruments)
    table = site_table(supermodel)
    for name in recipe.regularizers:
        settings = dict(recipe.regularizer_options.get(name) or {})
        if name == TIMED:
            settings["times"] = table  # what is measured later has the same sites
        regularizer(name, table, settings)  # refuses an unknown one
    if recipe.penalties:
        penalties(recipe.penalties, to_torch(supermodel))  # likewise, and one of another space
    for part, dataset in (("training", data.train), ("validation", data.val)):
        require_labels(tasks, dataset, f"data {config.data!r}: the {part} set")
    priors = label_priors(tasks, data.train) if fresh else {}
    separate = rewritten(multitask, [Separate()], "separate", instruments) if recipe.separates else None
    for graph in (multitask, supermodel, separate):
        if graph is not None:
            start_from(graph, priors)
    return Prepared(backbone, multitask, supermodel, tasks, data, fingerprint(data, FINGERPRINTED), layout, separate)


def require_labels(tasks: TaskSet, dataset: Dataset, where: str) -> None:
    """Refuse a set without one label that counts for some task: it could be neither learnt nor measured.

    Reads samples until every task has been seen, which is one sample for a data set without gaps.
    """
    missing = [task for part in parts_of(dataset, tasks) for task in _unlabelled(part.tasks, part.dataset)]
    if not missing:
        return
    names = ", ".join(repr(task.name) for task in missing)
    msg = f"{where} has no sample with a valid label for task {names}; add labels or leave the task out"
    raise DataError(msg)


def _unlabelled(tasks: TaskSet, dataset: Dataset) -> list[Task]:
    missing = list(tasks)
    for index in range(len(dataset)):
        batch = next(iterate(Subset(dataset, [index]), tasks, 1))
        missing = [
            task
            for task in missing
            if not bool(valid_mask(task, batch.targets[task.name], batch.labelled[task.name]).any())
        ]
        if not missing:
            break
    return missing
