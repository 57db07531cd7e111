"""Networks beside each other in one graph: each computes what it computes alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.graphs import random_model, small_resnet
from helpers.networks import Network, run, small_network
from helpers.zoo import export

from onnxmtl import ops
from onnxmtl.analysis.features import read_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, clone, diagnostics, head_of, role_of, skeleton, sources, tasks_of_nodes
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.keep_head import network_pipeline
from onnxmtl.passes.networks import (
    Preprocessing,
    TaskNetwork,
    given_networks,
    join_networks,
    restricted,
    without_heads,
)
from onnxmtl.passes.normalize import normalize

ROOM = Task("room", "classification", 5)
HALL = ROOM.replace(name="hall")


def images(size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 3, size, size)).astype(np.float32)


def network(task: Task, model: ir.Model, preprocessing: Preprocessing | None = None) -> TaskNetwork:
    return TaskNetwork(task, network_pipeline(task)(clone(model)).model, preprocessing)


def random_network(name: str, seed: int, size: int) -> tuple[TaskNetwork, ir.Model]:
    """A network at random for a dense task, and the file that it was."""
    model = random_model(seed, tasks=1, size=size)
    channels = int(model.graph.outputs[0].shape[1])
    task = Task(name, "segmentation", max(2, channels), resolution="native")
    return network(task, model), model


def valid(model: ir.Model) -> ir.Model:
    onnx.checker.check_model(skeleton(model), full_check=True)
    return model


@pytest.mark.parametrize("seed", range(8))
def test_every_output_is_what_its_network_computes_alone(seed):
    """Bit for bit, for networks at random, of several tasks, all with the same names inside."""
    parts = [random_network(name, 10 * seed + i, size=8) for i, name in enumerate(("a", "b", "c"))]
    joined = valid(join_networks([part for part, _ in parts]))
    found = run(joined, images(8))
    assert [value.name for value in joined.graph.outputs] == ["a", "b", "c"]
    for (_, alone), values in zip(parts, found, strict=True):
        np.testing.assert_array_equal(values, run(alone, images(8))[0])


def test_one_network_twice_and_another_kind():
    seg = Task("seg", "segmentation", 3, resolution="native")
    nets = [small_resnet({"out": 3}, size=16), small_network(), small_resnet({"out": 3}, size=16)]
    tasks = (seg, ROOM, seg.replace(name="again"))
    joined = valid(join_networks([network(task, net) for task, net in zip(tasks, nets, strict=True)]))
    a, room, b = run(joined, images())
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, run(nets[0], images())[0])
    np.testing.assert_array_equal(room[:1], run(nets[1], images()[:1])[0])


def test_exported_networks_of_different_opsets():
    protos = {name: export(name, "legacy") for name in ("resnet18", "mobilenet_v2")}
    raised = onnx.version_converter.convert_version(protos["mobilenet_v2"], 22)
    tasks = (ROOM.replace(name="one", channels=10), ROOM.replace(name="two", channels=10))
    models = [ir.from_proto(protos["resnet18"]), ir.from_proto(raised)]
    joined = valid(join_networks([network(task, model) for task, model in zip(tasks, models, strict=True)]))
    assert joined.graph.opset_imports[""] == 22
    for found, model in zip(run(joined, images(64)), models, strict=True):
        np.testing.assert_allclose(found[:1], run(model, images(64)[:1])[0], rtol=1e-5, atol=1e-6)


# Names, roles, provenance


def test_names_and_roles():
    joined = join_networks([network(ROOM, small_network()), network(HALL, small_network())])
    values = [value for node in joined.graph for value in node.outputs if not value.is_graph_output()]
    names = [*joined.graph.initializers, *(value.name for value in values), *(node.name for node in joined.graph)]
    assert all(str(name).startswith(("room/", "hall/")) for name in names)
    assert joined.graph.inputs[0].name == "image"
    initializers = joined.graph.initializers
    assert role_of(initializers["room/fc.w"]) is Role.HEAD and role_of(initializers["hall/stem.w"]) is Role.BACKBONE
    assert role_of(initializers["hall/stem_bn.var"]) is Role.STATISTIC
    for node, tasks in tasks_of_nodes(joined.graph).items():
        (task,) = tasks
        assert head_of(node) in (None, task) and sources(node) == (node.name,)
    assert given_networks(joined) == ("room", "hall") and given_networks(small_network()) == ()
    remarks = [remark for remark in diagnostics(joined) if remark.code == "head-kept"]
    assert [remark.node for remark in remarks] == ["room/pool", "hall/pool"] and remarks[0].message.startswith("room: ")


def test_new_heads_keep_the_names_that_they_have_on_one_backbone():
    parts = []
    for name in ("seg", "depth"):
        task = Task(name, "depth", head="light")
        model = normalize(small_network())
        AttachHeads(TaskSet((task,)), 3)(model)
        parts.append(TaskNetwork(task, model))
    shared = normalize(small_network())
    AttachHeads(TaskSet(tuple(part.task for part in parts)), 3)(shared)
    weights = {name: value for name, value in shared.graph.initializers.items() if role_of(value) is Role.HEAD}
    joined = join_networks(parts)
    for name, value in weights.items():
        np.testing.assert_array_equal(joined.graph.initializers[name].const_value.numpy(), value.const_value.numpy())
    for found, expected in zip(run(joined, images()), run(shared, images()), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_task_may_be_called_like_the_image():
    joined = valid(
        join_networks([network(ROOM.replace(name="image"), small_network()), network(ROOM, small_network())])
    )
    assert [value.name for value in (*joined.graph.inputs, *joined.graph.outputs)] == ["image_1", "image", "room"]


# Preprocessing


@pytest.mark.parametrize("reverse", [False, True])
def test_each_network_prepares_the_images_in_its_own_way(reverse):
    own = Preprocessing((2.0, 0.5, 1.0), (0.25, -1.0, 0.0), reverse)
    joined = join_networks([network(ROOM, small_network(), own), network(HALL, small_network())])
    prepared = images()[:, ::-1] if reverse else images()
    prepared = prepared * np.float32(own.scale).reshape(1, 3, 1, 1) + np.float32(own.shift).reshape(1, 3, 1, 1)
    for i in range(2):
        found = run(valid(joined), images()[i : i + 1])
        np.testing.assert_allclose(found[0], run(small_network(), prepared[i : i + 1])[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found[1], run(small_network(), images()[i : i + 1])[0])


def test_preprocessing_is_not_trained_and_left_out_where_it_changes_nothing():
    own = Preprocessing((2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    neutral = Preprocessing((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    plain = join_networks([network(ROOM, small_network()), network(HALL, small_network())])
    joined = join_networks([network(ROOM, small_network(), own), network(HALL, small_network(), neutral)])
    assert len(joined.graph) == len(plain.graph) + 2
    trained = {str(value.name) for value in ops.trainable_values(joined.graph)}
    assert trained == {str(value.name) for value in ops.trainable_values(plain.graph)}


# Parts of it


def test_restricted_to_some_tasks():
    seg = Task("seg", "segmentation", 3, resolution="native")
    joined = join_networks([network(seg, small_resnet({"out": 3}, size=16)), network(ROOM, small_network())])
    found = valid(restricted(joined, TaskSet((ROOM,))))
    assert [value.name for value in found.graph.outputs] == ["room"] and given_networks(found)
    assert not any(name.startswith("seg/") for name in found.graph.initializers)
    np.testing.assert_array_equal(run(found, images())[0], run(joined, images())[1])
    assert [value.name for value in joined.graph.outputs] == ["seg", "room"]  # untouched


def test_without_heads_the_outputs_are_the_features():
    seg = Task("seg", "segmentation", 3)
    joined = join_networks([network(seg, small_resnet({"out": 3}, size=16)), network(ROOM, small_network())])
    trunks = valid(without_heads(joined))
    found = [(feature.name, feature.channels, feature.stride) for feature in read_features(trunks)]
    assert [name.partition("/")[0] for name, _, _ in found] == ["seg", "room"]
    assert [rest for _, *rest in found] == [[8, 2], [6, 4]]
    assert not any(head_of(node) for node in trunks.graph)
    assert len(joined.graph.outputs) == 2 and any(head_of(node) for node in joined.graph)


# Refused


def test_images_of_another_size_or_with_other_channels():
    with pytest.raises(ModelError, match="'hall' takes images of 3 channels, 32x32, that of task 'room'"):
        join_networks([network(ROOM, small_network()), network(HALL, small_network((1, 3, 32, 32)))])
    grey = Network((1, 1, 16, 16))
    x = grey.add("Relu", [grey.conv(grey.image, 1, 4)])
    with pytest.raises(ModelError, match="export them for one size"):
        join_networks([network(ROOM, small_network()), network(HALL, grey.model(grey.classifier(x, 4)))])


def test_two_versions_of_a_library_of_operators():
    def library(version: int) -> ir.Model:
        model = network_pipeline(ROOM)(small_network()).model
        model.graph.opset_imports["some.library"] = version
        return model

    parts = [TaskNetwork(ROOM, library(1)), TaskNetwork(HALL, library(2))]
    with pytest.raises(ModelError, match=r"version 2 of the operators 'some.library', another one 1"):
        join_networks(parts)
