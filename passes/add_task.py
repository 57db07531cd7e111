"""A branch for a new task: built from a finished multi-task model, finalized by itself, put into models by name.

    with_head     the path of a task, with the new task's head on what that task's head reads
    cut_branch    of it what lies behind a place, as a model of its own: a branch
    graft         a branch in a model that computes what it reads

A branch reads its inputs by the names that they have in the model it was made from. So it fits that model and the one
that was emitted of it, in which normalizations are folded, but tensors have their names; and the nodes that were there
before are never touched: whatever the emitted model computed, it goes on computing by the same operators.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.features import write_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import Namer, Role, carry, clone, copy_initializer, copy_nodes, role_of, set_role
from onnxmtl.ir.copying import copy_shape
from onnxmtl.ir.passes import RemoveUnusedNodesPass
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes.finalize import (
    CheckFinal,
    DedupInitializers,
    DropTrainingOnly,
    FoldBatchNorm,
    OrderByLevel,
    RemoveUnused,
    WriteMetadata,
    finalize_passes,
)
from onnxmtl.passes.finalize.contract import CONTRACT_KEY
from onnxmtl.passes.heads import TASKS_KEY, AttachHeads, portable
from onnxmtl.passes.pipelines import Pipeline

ADDED_KEY = "onnxmtl.added"
"""JSON: [{"task": …, "at": …, "like": …}, …], the tasks that were added, in order."""


def with_head(model: ir.Model, features: Sequence[str], task: Task, seed: int) -> ir.Model:
    """What computes some tensors of a multi-task model, with a head for a new task on them.

    Args:
        model: With the weights that the branch begins with; not changed.
        features: Names of the tensors that the head may read, from the image on; maps [N, C, H, W].
        task: The new task; the features it names are among them. Its channels are known.
        seed: Of the head's weights.

    Raises:
        ModelError: The tensors are no feature maps, or the task does not fit them.
    """
    made = clone(model)
    values = {str(value.name): value for node in made.graph for value in node.outputs}
    made.graph.outputs[:] = [values[name] for name in features]
    RemoveUnusedNodesPass()(made)
    write_features(made)
    AttachHeads(TaskSet((task,)), seed)(made)
    return made


def cut_branch(
    model: ir.Model, kept: Collection[str], task: str, taken: Iterable[str], *, network: str = ""
) -> ir.Model:
    """What a model computes behind some tensors, as a model of its own.

    Its weights are new initializers with the same values, and train by themselves: the trunk's have the role ``own``.

    Args:
        model: Of :func:`with_head`; not changed.
        kept: Names of the tensors that are not computed again: the branch reads those that it needs.
        task: The new task; everything but its head gets a name that ends with it.
        taken: Names that nothing in the branch may have, of the models that it is for.
        network: The task whose own network is copied, if tasks have such: what is called ``{network}/…`` there is
            called ``{task}/…`` in the copy.

    Returns:
        A model with one output, called as the task. Its inputs are called as in `model`; the image is the first one
        that has no producer there.
    """
    graph = model.graph
    nodes = [node for node in graph if str(node.outputs[0].name) not in kept]
    inside = {value for node in nodes for value in node.outputs}
    inputs: dict[ir.Value, ir.Value] = {}
    values: dict[ir.Value, ir.Value] = {}
    names = _Names(taken, task, network)
    weights = [v for node in nodes for v in node.inputs if v is not None and v.is_initializer()]
    for node in nodes:
        for value in node.inputs:
            if value is not None and not value.is_initializer() and value not in inside and value not in inputs:
                inputs[value] = ir.Value(name=value.name, type=value.type, shape=copy_shape(value))
    values.update(inputs)
    made = ir.Graph(list(inputs.values()), [], nodes=[], opset_imports=graph.opset_imports, name=f"{task} branch")
    for value in dict.fromkeys(weights):
        values[value] = copy_initializer(made, value, names.new(str(value.name)))
        if role_of(value) is Role.BACKBONE:
            set_role(values[value], Role.OWN)
    made.extend(copy_nodes(nodes, values, names.new))
    output = values[graph.outputs[0]]
    output.name = task
    made.outputs.append(output)
    branch = ir.Model(made, ir_version=model.ir_version)
    carry(model, branch)
    return branch


def graft(host: ir.Model, branch: ir.Model, *, alone: bool = False) -> ir.Model:
    """A copy of a model with a branch in it; the branch's output is its last one.

    Args:
        host: Computes all that the branch reads, under the same names, and has nothing that is called as the task
            (:func:`make_room`); not changed. What was there stays as it is.
        branch: Of :func:`cut_branch`; not changed.
        alone: Whether the branch's output becomes the only one, and what it does not need is left out.

    Raises:
        ModelError: The model lacks a tensor that the branch reads, or has it in another type.
    """
    made = clone(host)
    graph = made.graph
    (task,) = (str(value.name) for value in branch.graph.outputs)
    namer = Namer(graph)
    known = {str(value.name): value for value in graph.inputs}
    known |= {str(value.name): value for node in graph for value in node.outputs}
    values: dict[ir.Value, ir.Value] = {}
    for value in branch.graph.inputs:
        found = known.get(str(value.name))
        if found is None or (found.dtype is not None and found.dtype != value.dtype):
            what = f"{value.name!r}, which task {task!r} would read"
            msg = (
                f"the emitted model has no tensor {what}: choose another place (--at)"
                if found is None
                else f"the emitted model has the tensor {what}, as {found.dtype}, not {value.dtype}: emit it in float32"
            )
            raise ModelError(msg)
        values[value] = found
    for domain, version in branch.graph.opset_imports.items():
        if graph.opset_imports.setdefault(domain, version) != version:
            has, where = graph.opset_imports[domain], f" of {domain!r}" if domain else ""
            msg = f"the emitted model has opset {has}{where}, what was trained has {version}: compile it again"
            raise ModelError(msg)
    for name, value in branch.graph.initializers.items():
        values[value] = copy_initializer(graph, value, namer.unique(name))
    last = branch.graph.outputs[0]
    graph.extend(copy_nodes(branch.graph, values, lambda name: name if name == task else namer.unique(name)))
    graph.outputs.append(values[last])
    if alone:
        del graph.outputs[:-1]
        RemoveUnusedNodesPass()(made)
    carry(host, made)
    return made


def frozen(emitted: ir.Model, names: Collection[str]) -> ir.Model:
    """What computes some tensors of an emitted model, for training what reads them: no weight of it is trained.

    Normalizations are folded or spelled out: none is left that would look at the batch.
    """
    made = clone(emitted)
    values = {str(value.name): value for node in made.graph for value in node.outputs}
    made.graph.outputs[:] = [values[name] for name in sorted(names) if name in values]
    RemoveUnusedNodesPass()(made)
    Pipeline([DropTrainingOnly(), FoldBatchNorm()], name="freeze")(made)
    for value in made.graph.initializers.values():
        ops.freeze(value)
    return made


def finalize_branch(branch: ir.Model, task: Task, input_spec: Mapping[str, Any], *, fold: bool) -> ir.Model:
    """A copy of a trained branch as it is handed over: folded, in the form of its output contract."""
    passes = finalize_passes(TaskSet((task,)), input_spec, fold=fold)
    return Pipeline(passes, name="finalize the branch")(clone(branch)).model


def finish(emitted: ir.Model, branch: ir.Model, tasks: TaskSet, added: Mapping[str, str]) -> ir.Model:
    """The emitted model with a finalized branch, and what it says about itself.

    Args:
        emitted: As it was emitted; not changed.
        branch: Of :func:`finalize_branch`; not changed.
        tasks: All tasks, the new one last.
        added: What ``onnxmtl.added`` says of the new task.

    Raises:
        ModelError: The two do not fit, or the result is no valid model.
    """
    made = graft(emitted, branch)
    name = tasks.names[-1]
    try:
        contract = json.loads(emitted.metadata_props[CONTRACT_KEY])
        contract["outputs"][name] = json.loads(branch.metadata_props[CONTRACT_KEY])["outputs"][name]
    except (KeyError, TypeError, ValueError) as error:
        msg = "the emitted model's contract is damaged: emit it again"
        raise ModelError(msg) from error
    made.metadata_props[CONTRACT_KEY] = json.dumps(contract, ensure_ascii=False)
    say(made, tasks, added)
    passes = [DedupInitializers(), RemoveUnused(), OrderByLevel(), WriteMetadata(), CheckFinal()]
    return Pipeline(passes, name="finalize")(made).model


def say(model: ir.Model, tasks: TaskSet, added: Mapping[str, str]) -> None:
    """Write a model's tasks, and what was added, into its metadata."""
    before = json.loads(model.metadata_props.get(ADDED_KEY, "[]"))
    model.metadata_props[TASKS_KEY] = portable(tasks).to_json()
    model.metadata_props[ADDED_KEY] = json.dumps([*before, dict(added)], ensure_ascii=False)


def make_room(models: Sequence[ir.Model], task: str) -> None:
    """Rename what is called like the new task in any of the models, alike in all of them, in place.

    Output names are the contract, so the task keeps its own.

    Raises:
        ModelError: It is an input or an output.
    """
    taken = set().union(*map(names_of, models))
    free = _Names(taken, "before").new(task)
    for model in models:
        graph = model.graph
        if any(value.name == task for value in (*graph.inputs, *graph.outputs)):
            msg = f"the model has an input or output {task!r} already: give the new task another name"
            raise ModelError(msg)
        for value in (*graph.initializers.values(), *(value for node in graph for value in node.outputs)):
            if value.name == task:
                value.name = free


def names_of(model: ir.Model) -> set[str]:
    """All names in a model."""
    found = {str(value.name) for value in model.graph.inputs} | set(model.graph.initializers)
    for node in model.graph:
        found |= {str(node.name), *(str(value.name) for value in node.outputs)}
    return found


class _Names:
    """Names for the copies: those of the new head as they are, all others with the task behind or before them."""

    def __init__(self, taken: Iterable[str], task: str, network: str = "") -> None:
        self._taken = {*taken, task}
        self._task, self._network = task, network

    def new(self, name: str) -> str:
        base = name
        if self._network and name.startswith(f"{self._network}/"):
            base = f"{self._task}/{name.removeprefix(f'{self._network}/')}"
        elif not name.startswith(f"{self._task}_head/"):
            base = f"{name}/{self._task}"
        found, count = base, 0
        while found in self._taken:
            count += 1
            found = f"{base}_{count}"
        self._taken.add(found)
        return found
