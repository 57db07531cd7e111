"""The whole of finalize: from a multi-task model to the emitted one."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.cost.count import count
from onnxmtl.cost.sharing import sharing
from onnxmtl.errors import ModelError
from onnxmtl.ir import to_bytes
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import CheckFinal, finalize_passes
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline

SPEC = {"layout": "NCHW", "range": [0.0, 1.0]}


def raw_tasks(model: ir.Model) -> TaskSet:
    """Tasks that leave the outputs as they are."""
    return TaskSet.parse(",".join(f"{value.name}=regression:{value.shape[1]}" for value in model.graph.outputs))


def finalize(model: ir.Model, tasks: TaskSet | None = None) -> ir.Model:
    passes = finalize_passes(tasks or raw_tasks(model), SPEC)
    return Pipeline(passes, instruments=[CheckInvariants()])(model).model


def images(model: ir.Model, batch: int = 3) -> dict[str, np.ndarray]:
    shape = [int(d) for d in model.graph.inputs[0].shape[1:]]
    return {"image": np.random.default_rng(1).normal(size=(batch, *shape)).astype(np.float32)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_numbers_names_and_bytes(seed, tasks):
    model = random_model(seed, tasks=tasks)
    feeds = images(model)
    before = runtime.run(runtime.session(to_bytes(model), optimize=False), feeds)
    structure = [(row.layer, row.op, row.runs, {t: str(u) for t, u in row.uses.items()}) for row in sharing(model)]
    work = count(model)
    final = to_bytes(finalize(model))
    after = runtime.run(final, feeds)
    assert list(after) == list(before)
    for name, wanted in before.items():
        np.testing.assert_allclose(after[name], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    assert final == to_bytes(finalize(random_model(seed, tasks=tasks)))
    # What is shared and what runs is what was selected; normalizations have become part of their operators.
    emitted = count(model)
    assert emitted.multiply_adds == work.multiply_adds and emitted.executed_once == work.executed_once
    assert emitted.parameters_paper == work.parameters_paper
    found = [(row.layer, row.op, row.runs, {t: str(u) for t, u in row.uses.items()}) for row in sharing(model)]
    assert sorted(map(str, found)) == sorted(map(str, structure)) and found


def test_dynamic_batch_and_readable_metadata():
    model = finalize(small_resnet(size=8))
    final = to_bytes(model)
    for batch in (1, 5):
        assert runtime.run(final, images(model, batch))["seg"].shape[0] == batch
    metadata = model.metadata_props
    assert metadata["onnxmtl.kind"] == "final" and list(metadata) == sorted(metadata)
    assert json.loads(metadata["onnxmtl.contract"])["input"]["layout"] == "NCHW"
    (trunk,) = json.loads(metadata["onnxmtl.parts"])
    assert trunk["tasks"] == ["seg", "depth"] and {"stem", "bn3"} <= set(trunk["layers"])
    assert {node.op_type for node in model.graph} == {"Conv", "Relu", "Add"}


def test_outputs_follow_the_contract():
    tasks = TaskSet.parse("seg=segmentation:3,depth=regression:1")
    model = finalize(small_resnet(), tasks)
    assert [value.name for value in model.graph.outputs] == ["seg", "depth"]


def test_outputs_that_are_not_the_tasks_are_refused():
    with pytest.raises(ModelError, match="the tasks are"):
        finalize(small_resnet(), TaskSet.parse("depth=regression:1"))


def test_the_check_names_what_is_wrong():
    model = small_resnet()
    CheckFinal()(model)
    model.graph[0].attributes["strides"] = ir.AttrInt64s("strides", [0, 0, 0])
    with pytest.raises(ModelError, match="not valid ONNX") as caught:
        CheckFinal()(model)
    assert "\n" not in str(caught.value)


def test_the_check_refuses_training_and_untyped_outputs():
    model = small_resnet()
    norm = next(node for node in model.graph if node.op_type == "BatchNormalization")
    norm.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    with pytest.raises(ModelError, match=rf"'{norm.name}' is there for training only"):
        CheckFinal()(model)
    norm.attributes.pop("training_mode")
    model.graph.outputs[0].shape = None
    with pytest.raises(ModelError, match="output 'seg' is unknown"):
        CheckFinal()(model)
