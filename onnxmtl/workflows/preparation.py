"""All that comes before the first training step; whatever is wrong with the input is found here."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import Dataset, DataSource, Subset, fingerprint, iterate, parts_of
from onnxmtl.errors import DataError
from onnxmtl.ir import clone
from onnxmtl.ir.passes import PassBase
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.lowering.ops import check_supported
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants, Instrument
from onnxmtl.passes.normalize.reseed import ReseedConstantWeights
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import space
from onnxmtl.search.recipe import Recipe
from onnxmtl.search.regularizers import regularizer
from onnxmtl.train.labels import valid_mask
from onnxmtl.train.priors import label_priors, start_from
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.data import open_data
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
    """

    backbone: ir.Model
    multitask: ir.Model
    supermodel: ir.Model
    tasks: TaskSet
    data: DataSource
    fingerprint: str

    def digest(self) -> str:
        """Of the supermodel: its nodes, the weights of backbone and heads, the label priors in them.

        Covers what a configuration only names: external weights, heads and data of the user.
        """
        return graph_digest(self.supermodel)


def graph_digest(model: ir.Model) -> str:
    """Of a model's nodes and weights, wherever the weights lie."""
    found = hashlib.sha256()
    for node in model.graph:
        names = [[value and value.name for value in values] for values in (node.inputs, node.outputs)]
        found.update(repr((node.domain, node.op_type, *names)).encode())
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            found.update(name.encode() + value.const_value.tobytes())
    return found.hexdigest()


def round_attributes(model: ir.Model) -> None:
    """Give float attributes the values that a file can hold, in place.

    A momentum of 0.9 that a pass wrote is another number than the float32 that is read back: what is trained in this
    process would differ in its last bits from what is trained after reading the graph.
    """
    for node in model.graph:
        for name, attribute in list(node.attributes.items()):
            if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.FLOAT:
                node.attributes[name] = ir.AttrFloat32(name, float(np.float32(attribute.as_float())))
            elif isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.FLOATS:
                node.attributes[name] = ir.AttrFloat32s(name, [float(np.float32(v)) for v in attribute.as_floats()])


def prepare(
    source: Source,
    tasks: TaskSet,
    config: CompileConfig,
    recipe: Recipe,
    instruments: Sequence[Instrument] = (),
) -> Prepared:
    """Import the backbone, open the data, attach the heads and build the search space. Writes nothing.

    Raises:
        OnnxMTLError: The model, the tasks, the data or the options cannot be used; one clear line.
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
    data, tasks = open_data(backbone, tasks, config)

    def rewrite(model: ir.Model, passes: Sequence[PassBase], name: str) -> ir.Model:
        made = Pipeline(passes, instruments=(CheckInvariants(), *instruments), name=name)(clone(model)).model
        round_attributes(made)
        return made

    multitask = rewrite(backbone, [AttachHeads(tasks, config.seed)], "heads")
    check_supported(multitask.graph)  # the user's heads
    supermodel = rewrite(multitask, [space(recipe.space, **recipe.space_options)], "space")
    table = site_table(supermodel)
    for name in recipe.regularizers:
        regularizer(name, table, recipe.regularizer_options.get(name))  # refuses an unknown one
    for part, dataset in (("training", data.train), ("validation", data.val)):
        _require_labels(tasks, dataset, f"data {config.data!r}: the {part} set")
    priors = label_priors(tasks, data.train)
    for graph in (multitask, supermodel):
        start_from(graph, priors)
    return Prepared(backbone, multitask, supermodel, tasks, data, fingerprint(data, FINGERPRINTED))


def _require_labels(tasks: TaskSet, dataset: Dataset, where: str) -> None:
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
