"""A branch: cut out of a trained model, put into the emitted one, which goes on computing what it did."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import ops, runtime
from onnxmtl.analysis.paths import task_path
from onnxmtl.deploy.parity import same_bits
from onnxmtl.deploy.structure import output_digests
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, clone, head_of, role_of, to_bytes
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes.add_task import (
    ADDED_KEY,
    cut_branch,
    finalize_branch,
    finish,
    frozen,
    graft,
    make_room,
    names_of,
    with_head,
)
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.finalize.contract import CONTRACT_KEY
from onnxmtl.passes.instruments import relative_error
from onnxmtl.passes.pipelines import Pipeline

NEW = Task("rooms", "segmentation", 4, head="light", output="probabilities", resolution="native")
SPEC = {"layout": "NCHW"}


def old_tasks(model: ir.Model) -> TaskSet:
    channels = {str(value.name): int(value.shape[1]) for value in model.graph.outputs}
    kinds = {name: "depth" if n == 1 else "segmentation" for name, n in channels.items()}
    return TaskSet(tuple(Task(name, kinds[name], n, resolution="native") for name, n in channels.items()))


def emitted_of(model: ir.Model, *, fold: bool = True) -> ir.Model:
    return Pipeline(finalize_passes(old_tasks(model), SPEC, fold=fold))(clone(model)).model


def branch_at(trained: ir.Model, task: str, position: int, *hosts: ir.Model) -> tuple[ir.Model, ir.Model]:
    """The branch that leaves the path of a task at the place with this number, and the model it was cut out of."""
    path = task_path(trained.graph, task, trained.graph)
    place = path.places[position]
    headed = with_head(trained, [str(value.name) for value in path.features], NEW, seed=0)
    behind = {str(value.name) for node in path.behind(place) for value in node.outputs}
    trunk = {str(value.name) for node in headed.graph if head_of(node) is None for value in node.outputs}
    taken = set().union(names_of(trained), *map(names_of, hosts))
    return cut_branch(headed, trunk - behind, NEW.name, taken), headed


def computed(model: ir.Model, size: int) -> dict[str, np.ndarray]:
    image = np.random.default_rng(1).random((2, 3, size, size)).astype(np.float32)
    return runtime.run(runtime.session(to_bytes(model), optimize=False), {"image": image})


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from(["seg", "depth"]), st.floats(0, 1), st.booleans())
def test_old_outputs_keep_their_bits_and_the_branch_computes_what_its_path_did(seed, task, share, fold):
    """Wherever it leaves: untrained, the new task is the new head on what the old head reads."""
    trained = random_model(seed, layers=3)
    emitted = emitted_of(trained, fold=fold)
    places = task_path(trained.graph, task, trained.graph).places
    there = [i for i, place in enumerate(places) if place.block or place.name in names_of(emitted)]  # not folded away
    branch, headed = branch_at(trained, task, there[min(int(share * len(there)), len(there) - 1)], emitted)
    joint = graft(trained, branch)
    tasks = TaskSet((*old_tasks(trained), NEW))
    final = finish(emitted, finalize_branch(branch, NEW, SPEC, fold=fold), tasks, {"task": "rooms"})
    before, after = (computed(model, 6) for model in (emitted, final))
    assert [*after] == ["seg", "depth", "rooms"]
    for name in before:
        assert same_bits(before[name], after[name])
    assert {k: output_digests(final)[k] for k in before} == output_digests(emitted)
    raw = computed(joint, 6)["rooms"]
    assert relative_error(raw, computed(headed, 6)["rooms"]) == 0
    softmax = np.exp(raw - raw.max(1, keepdims=True))
    assert relative_error(after["rooms"], softmax / softmax.sum(1, keepdims=True)) < 1e-4
    own = {value for node in branch.graph for _, value in ops.weight_slots(node)}
    assert {role_of(value) for value in own} <= {Role.OWN, Role.HEAD, Role.STATISTIC}
    assert not {value.name for value in own} & names_of(trained)


def test_what_is_trained_is_the_branch_alone():
    trained = small_resnet(size=16)
    emitted = emitted_of(trained, fold=False)
    branch, _ = branch_at(trained, "seg", 3, emitted)
    model = graft(frozen(emitted, [str(value.name) for value in branch.graph.inputs]), branch, alone=True)
    assert [value.name for value in model.graph.outputs] == ["rooms"]
    free = {value.name for value in ops.trainable_values(model.graph) if not ops.is_frozen(value)}
    assert free and free == {value.name for value in ops.trainable_values(branch.graph)}
    norms = [node for node in model.graph if node.op_type == "BatchNormalization"]
    assert norms and {node.inputs[3].name for node in norms} <= set(branch.graph.initializers)


def test_what_it_says_about_itself():
    trained = small_resnet(size=16)
    emitted = emitted_of(trained)
    branch, _ = branch_at(trained, "depth", -1, emitted)
    said = {"task": "rooms", "at": "relu18_out", "like": "depth"}
    tasks = TaskSet((*old_tasks(trained), NEW))
    final = finish(emitted, finalize_branch(branch, NEW, SPEC, fold=True), tasks, said)
    old, new = (json.loads(model.metadata_props[CONTRACT_KEY]) for model in (emitted, final))
    assert {**new, "outputs": {k: v for k, v in new["outputs"].items() if k != "rooms"}} == old
    assert new["outputs"]["rooms"]["output"] == "probabilities" and new["outputs"]["rooms"]["classes"] == 4
    assert TaskSet.from_json(final.metadata_props["onnxmtl.tasks"]).names == ("seg", "depth", "rooms")
    assert json.loads(final.metadata_props[ADDED_KEY]) == [said]
    assert [node.name for node in final.graph if node.name in names_of(emitted)] == [n.name for n in emitted.graph]


def test_a_tensor_that_is_called_like_the_task_makes_room():
    trained = small_resnet(size=16)
    emitted = emitted_of(trained)
    places = task_path(trained.graph, "seg", trained.graph).places
    number, place = next((i, place) for i, place in enumerate(places) if i and place.block)
    for model in (trained, emitted):
        next(value for node in model.graph for value in node.outputs if value.name == place.name).name = "rooms"
    make_room([trained, emitted], "rooms")
    branch, _ = branch_at(trained, "seg", number, emitted)
    for host in (trained, emitted):
        assert [value.name for value in graft(host, branch).graph.outputs] == ["seg", "depth", "rooms"]
    with pytest.raises(ModelError, match="has an input or output 'seg' already"):
        make_room([trained, emitted], "seg")


def test_models_that_a_branch_does_not_fit():
    trained = small_resnet(size=16)
    branch, _ = branch_at(trained, "seg", 3)
    (read,) = (str(value.name) for value in branch.graph.inputs)
    host = emitted_of(trained)
    value = next(value for node in host.graph for value in node.outputs if value.name == read)
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    with pytest.raises(ModelError, match=f"has the tensor {read!r}.*as FLOAT16, not FLOAT: emit it in float32"):
        graft(host, branch)
    value.name = "other"
    with pytest.raises(ModelError, match=f"has no tensor {read!r}.*choose another place"):
        graft(host, branch)
    host = emitted_of(trained)
    host.graph.opset_imports[""] = 22
    with pytest.raises(ModelError, match="has opset 22, what was trained has 21"):
        graft(host, branch)
    host.metadata_props[CONTRACT_KEY] = "{"
    host.graph.opset_imports[""] = 21
    with pytest.raises(ModelError, match="contract is damaged"):
        finish(host, finalize_branch(branch, NEW, SPEC, fold=True), TaskSet((*old_tasks(trained), NEW)), {})
