"""Several networks, one per task, in the place of one backbone: :class:`BackboneSet`.

Each is imported by itself, with its own opset, form and head; all of them then read the same images
(:mod:`onnxmtl.passes.networks`), prepared for each as it was trained: by the ``mean`` and ``std`` of the task, or by
the contract that an emitted model of ours carries, or else as the data set gives them. Images have one size: that of
``--input-size``, or of the first network; a network for another size is brought to it as ``--input-size`` does, and is
refused if that size is baked in.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import onnx_ir as ir

from onnxmtl.data import InputSpec
from onnxmtl.errors import ModelError, OnnxMTLError, RunError, TaskError
from onnxmtl.frontends.source import Dialect, kind_of
from onnxmtl.ir import Diagnostic, carry, counted, report
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.lowering.ops import check_supported
from onnxmtl.passes.finalize.contract import CONTRACT_KEY
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import Instrument
from onnxmtl.passes.keep_head import NEW_HEADS, network_pipeline
from onnxmtl.passes.networks import Preprocessing, TaskNetwork, join_networks, without_heads
from onnxmtl.passes.normalize.reseed import ReseedConstantWeights
from onnxmtl.search.recipe import Recipe
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.data import open_data
from onnxmtl.workflows.digest import round_attributes
from onnxmtl.workflows.importing import imported
from onnxmtl.workflows.preparation import Prepared, assemble, import_backbone, rewritten
from onnxmtl.workflows.source import Source

SPACES = ("cross_stitch", "fusion", "sluice")
"""Search spaces that start from separate networks."""
RECIPES = "mtlnas, cross-stitch, sluice, nddr"


@dataclasses.dataclass(frozen=True)
class BackboneSet:
    """One network per task, in the tasks' order.

    Attributes:
        networks: Where each comes from. Anything else than a :class:`Source` is taken for its model.

    Raises:
        ModelError: There are no two of them.
    """

    networks: tuple[Source, ...]

    def __init__(self, networks: Iterable[Any]) -> None:
        found = tuple(one if isinstance(one, Source) else Source(one) for one in networks)
        if len(found) < 2:
            msg = f"a set of networks has two or more, one per task, not {len(found)}; one alone is given by itself"
            raise ModelError(msg)
        for one in found:
            kind_of(one.model)  # refuses what is none
        object.__setattr__(self, "networks", found)

    @classmethod
    def of(
        cls,
        models: Sequence[Any],
        example_input: Any = None,
        weights: Any = None,
        dialect: Dialect = "auto",
    ) -> BackboneSet:
        """The set of several models.

        Args:
            models: As :func:`onnxmtl.load` takes them, in the tasks' order.
            example_input: Of the torch modules among them: one for all, or a list with one for each model.
            weights: The ``.caffemodel`` files of the prototxts among them, in their order; or a list with one, or None,
                for each model.
            dialect: Of the prototxts among them.

        Raises:
            ModelError: There are no two models, or not as many of the rest as they need.
        """
        kinds = [kind_of(model) for model in models]
        needing = [i for i, kind in enumerate(kinds) if kind == "prototxt"]
        if weights is None or isinstance(weights, str | os.PathLike):
            weights = [] if weights is None else [weights]
        files: list[Any] = list(weights)
        if len(files) != len(models):
            if len(files) not in (0, len(needing)):
                shown = ", ".join(str(file) for file in files)
                msg = f"{len(needing)} of the networks are .prototxt and {len(files)} have weights ({shown}): give each"
                raise ModelError(msg)
            pairs = dict(zip(needing, files, strict=False))
            files = [pairs.get(i) for i in range(len(models))]
        examples = example_input if isinstance(example_input, list) else [example_input] * len(models)
        if len(examples) != len(models):
            msg = f"{len(examples)} example inputs for {len(models)} networks: give one for all, or one for each"
            raise ModelError(msg)
        return cls(
            Source(
                model,
                example if kind == "torch" else None,
                file,
                dialect if kind == "prototxt" else "auto",
            )
            for model, kind, example, file in zip(models, kinds, examples, files, strict=True)
        )

    @property
    def title(self) -> str:
        """What reports call them: their names, those that follow each other once."""
        names = [one.title for one in self.networks]
        return " + ".join(name for i, name in enumerate(names) if not i or name != names[i - 1])

    def digests(self, joined: str) -> dict[str, Any]:
        """SHA-256 of each network (`joined`, that of all of them, for an object) and of the weights beside it."""
        found = {str(i): one.digests(joined) for i, one in enumerate(self.networks, start=1)}
        return {part: {i: digests[part] for i, digests in found.items()} for part in ("model", "weights")}

    def describe(self) -> dict[str, Any]:
        """Kinds and paths, for people."""
        each = [one.describe() for one in self.networks]
        return {"kind": "set", "path": None, "weights": None, "name": self.title, "networks": each}


def source_of(
    model: Any, example_input: Any = None, weights: Any = None, dialect: Dialect = "auto"
) -> Source | BackboneSet:
    """One backbone, or a set of networks if `model` is a list of several or a :class:`BackboneSet`."""
    if isinstance(model, BackboneSet):
        return model
    if isinstance(model, list | tuple):
        if len(model) != 1:
            return BackboneSet.of(model, example_input, weights, dialect)
        (model,) = model
    if isinstance(weights, list | tuple):
        if len(weights) > 1:
            msg = f"{len(weights)} files of weights for one model: give one"
            raise ModelError(msg)
        weights = weights[0] if weights else None
    return model if isinstance(model, Source) else Source(model, example_input, weights, dialect)


def for_networks(recipe: Recipe, config: CompileConfig) -> Recipe:
    """The recipe for networks that are given: where they keep their heads they are trained already, and the stage that
    would train them one by one gives its steps to the others.

    Raises:
        RunError: The recipe, or an option, is for one backbone.
    """
    if recipe.space not in SPACES:
        msg = f"recipe {recipe.title!r} takes one backbone; several networks, one per task, are for {RECIPES}"
        raise RunError(msg)
    if config.features:
        msg = (
            "--features is for one backbone; of several networks each task names its own: features = [...] in its table"
        )
        raise RunError(msg)
    if any(config.search_input_size):
        msg = "--search-input-size is for one backbone; give the networks at the size that is to be searched"
        raise RunError(msg)
    if config.heads != "new" and config.output_stride:
        msg = f"--output-stride {config.output_stride} would change what the networks' own heads see; {NEW_HEADS}"
        raise RunError(msg)
    if config.heads == "new":
        return recipe
    kept = [stage for stage in recipe.stages if stage.relaxation != "separate"]
    share, whole = (sum(stage.share for stage in stages) for stages in (kept, recipe.stages))
    stages = tuple(dataclasses.replace(stage, share=stage.share * whole / share) for stage in kept)
    return dataclasses.replace(recipe, stages=stages)


def prepare_networks(
    source: BackboneSet,
    tasks: TaskSet,
    config: CompileConfig,
    recipe: Recipe,
    instruments: Sequence[Instrument] = (),
) -> Prepared:
    """Import the networks, open the data, join them and build the search space. Writes nothing.

    Raises:
        OnnxMTLError: A network, the tasks, the data or the options cannot be used; one clear line.
    """
    own = config.heads != "new"
    if len(source.networks) != len(tasks):
        listed = ", ".join(tasks.names)
        wanted = counted(len(tasks), "task")
        msg = f"{len(source.networks)} networks for {wanted} ({listed}): give one network per task, in their order"
        raise ModelError(msg)
    models: list[ir.Model] = []
    for one, task in zip(source.networks, tasks, strict=True):
        size = _size(models[0]) if models else config.input_size
        models.append(_import(one, task, config, size, own=own, instruments=instruments))
    try:
        data, tasks = open_data(models[0], tasks, config)
    except TaskError:  # perhaps a number of classes is missing, that the networks know
        if not own:
            raise
        data, tasks = open_data(models[0], _with_channels(tasks, models), config)
    if not own:
        models = [
            rewritten(model, [AttachHeads(TaskSet((task,)), config.seed)], "heads", instruments)
            for model, task in zip(models, tasks, strict=True)
        ]
        for model in models:
            check_supported(model.graph)  # the user's heads
    networks = [
        TaskNetwork(task, model, preprocessing(model, task, data.input))
        for model, task in zip(models, tasks, strict=True)
    ]
    for network, one in zip(networks, source.networks, strict=True):
        _check_channels(network, one.title)
    multitask = join_networks(networks)
    round_attributes(multitask)
    backbone = without_heads(multitask)
    if own:
        message = (
            "every task has its own network, given with its head: they are not trained one by one before the search"
        )
        report(backbone, Diagnostic("networks-given", message, hint="--heads new for networks without trained heads"))
    return assemble(backbone, multitask, data, tasks, config, recipe, instruments, fresh=not own)


def _import(
    source: Source,
    task: Task,
    config: CompileConfig,
    size: tuple[int, int],
    *,
    own: bool,
    instruments: Sequence[Instrument],
) -> ir.Model:
    """One network, for images of `size` (0, 0: its own); with its head, or a backbone."""

    def at(size: tuple[int, int]) -> ir.Model:
        if not own:
            asked = dataclasses.replace(config, features=task.features, input_size=size)
            return import_backbone(source, TaskSet((task,)), asked, instruments)
        model = imported(
            lambda loaded, watching: _normalize(loaded, task, config.batchnorm, size, [*watching, *instruments]),
            source.model,
            source.example_input,
            weights=source.weights,
            dialect=source.dialect,
            guard=not all(size),
        )
        check_supported(model.graph)  # here nodes still have the user's names, one each
        ReseedConstantWeights(config.seed)(model)
        return model

    try:
        try:
            model = at((0, 0))  # at its own size all passes can be guarded
            return model if not any(size) or _size(model) == size else at(size)
        except ModelError:
            if not any(size):
                raise
            return at(size)  # the file may leave its size open
    except OnnxMTLError as error:
        if source.title in str(error) or repr(task.name) in str(error):
            raise
        msg = f"{source.title}, the network of task {task.name!r}: {error}"
        raise type(error)(msg) from error


def _normalize(
    model: ir.Model,
    task: Task,
    batchnorm: Literal["keep", "insert"],
    size: tuple[int, int],
    instruments: Sequence[Instrument],
) -> ir.Model:
    pipeline = network_pipeline(
        task, batchnorm=batchnorm, input_size=size if all(size) else None, instruments=instruments
    )
    made = pipeline(model).model
    carry(model, made)
    return made


def _size(model: ir.Model) -> tuple[int, int]:
    shape = model.graph.inputs[0].shape
    assert shape is not None, "a normalized network knows the shape of its image"
    return int(str(shape[2])), int(str(shape[3]))


def _with_channels(tasks: TaskSet, models: Sequence[ir.Model]) -> TaskSet:
    """The tasks with the networks' number of classes where the user gave none."""
    found = []
    for task, model in zip(tasks, models, strict=True):
        channels = TaskNetwork(task, model).channels
        try:
            found.append(task if task.channels else task.replace(channels=channels))
        except TaskError as error:  # such as one class
            msg = (
                f"the network of task {task.name!r} gives {channels} channels, which does not do: {error}; {NEW_HEADS}"
            )
            raise ModelError(msg) from error
    return TaskSet(tuple(found))


def _check_channels(network: TaskNetwork, title: str) -> None:
    task = network.task
    if network.channels != task.channels:
        word = "classes" if task.spec.categorical else "channels"
        msg = f"{title} gives {network.channels} channels, task {task.name!r} has {task.channels} {word}; {NEW_HEADS}"
        raise ModelError(msg)


# What a network does to images


def preprocessing(model: ir.Model, task: Task, images: InputSpec) -> Preprocessing | None:
    """From a data set's images x = (v - mean)·scale to those that a network was trained on.

    The network's own are (v' - m)·s, where v' is v in the range that the network has them in: ``mean`` and ``std`` of
    the task (s = 1 / std, the data set's range), or what the contract of a model of ours says.

    Args:
        model: The network, with its metadata.
        task: Its task.
        images: What the data set's images are.

    Returns:
        None if neither says anything: the network takes the images as they are.

    Raises:
        TaskError: The task has another number of means than the images have channels.
        ModelError: The contract cannot be read, or is of images with another number of channels.
    """
    order = list(range(images.channels))
    if task.mean:
        if len(task.mean) != images.channels:
            msg = f"task {task.name!r}: {len(task.mean)} means for images of {images.channels} channels"
            raise TaskError(msg)
        own = InputSpec(images.channels, range=images.range, mean=task.mean, scale=tuple(1 / std for std in task.std))
        reverse = False
    else:
        contract = _contract(model, task)
        if contract is None:
            return None
        own = contract
        if own.channels != images.channels:
            msg = f"the network of task {task.name!r} takes {own.channels} channels, the images have {images.channels}"
            raise ModelError(msg)
        reverse = own.colour != images.colour and own.colour == images.colour[::-1]
        order = order[::-1] if reverse else order
    low, high = images.range
    stretch = (own.range[1] - own.range[0]) / (high - low)
    scale, shift = [], []
    for i, k in enumerate(order):  # v' = (v - low)·stretch + own low, v = x / scale + mean
        factor = own.scale[i] * stretch
        scale.append(factor / images.scale[k])
        shift.append(factor * (images.mean[k] - low) + own.scale[i] * (own.range[0] - own.mean[i]))
    return Preprocessing(tuple(map(_single, scale)), tuple(map(_single, shift)), reverse)


def _single(number: float) -> float:
    """What is 0 or 1 but for rounding, as that."""
    return float(round(number)) if abs(number - round(number)) < 1e-9 and round(number) in (0, 1) else number


def _contract(model: ir.Model, task: Task) -> InputSpec | None:
    """The images of a model that onnxmtl emitted; None for any other."""
    text = model.metadata_props.get(CONTRACT_KEY)
    if not text:
        return None
    try:
        said: Mapping[str, Any] = json.loads(text)["input"]
        low, high = said["range"]
        spec = InputSpec(
            int(said["channels"]),
            range=(float(low), float(high)),
            mean=tuple(map(float, said["mean"])),
            scale=tuple(map(float, said["scale"])),
            colour=str(said["colour"]),
        )
    except (ValueError, KeyError, TypeError, OnnxMTLError) as error:
        msg = (
            f"the network of task {task.name!r}: its metadata {CONTRACT_KEY!r} is damaged; emit the model again, or "
            "remove it and give mean and std in the task's table"
        )
        raise ModelError(msg) from error
    return spec
