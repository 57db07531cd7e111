"""The nine light models of the onnx wheel: opset 9, weights computed by nodes, listed as inputs, batch 1 baked in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.networks import run

from onnxmtl.analysis.features import read_features
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import diagnostics, sources
from onnxmtl.ops import trainable_values
from onnxmtl.passes.instruments import CheckInvariants, relative_error
from onnxmtl.passes.normalize import normalize
from onnxmtl.runtime import session

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# name: feature tensor, stride, channels
EXPECTED = {
    "bvlc_alexnet": ("r14", 32, 256),
    "densenet121": ("r907", 32, 1024),
    "inception_v1": ("r137", 32, 1024),
    "inception_v2": ("r504", 32, 1024),
    "resnet50": ("r171", 32, 2048),
    "shufflenet": ("r198", 32, 544),
    "squeezenet": ("r60", 16, 512),
    "vgg19": ("r36", 32, 512),
    "zfnet512": ("r14", 32, 512),
}


def reseeded(name: str) -> ir.Model:
    """The model with random weights in the places of its constant ones (but for the huge ones of the classifier)."""
    model = load(LIGHT / f"light_{name}.onnx")
    rng = np.random.default_rng(0)
    for node in list(model.graph):
        if node.op_type != "ConstantOfShape":
            continue
        shape = tuple(int(dim) for dim in node.inputs[0].const_value.numpy())
        if np.prod(shape) > 4_000_000:
            continue
        if len(shape) > 1:
            array = rng.normal(0, (1.0 / np.prod(shape[1:])) ** 0.5, shape)
        else:
            array = rng.uniform(0.5, 1.0, shape)
        old = node.outputs[0]
        value = ir.Value(name=old.name, const_value=ir.tensor(array.astype(np.float32), name=old.name))
        old.name = f"{old.name}.constant"
        old.replace_all_uses_with(value)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(value)
    return model


def feature_of_original(model: ir.Model, name: str, image: np.ndarray) -> np.ndarray:
    """What the untouched graph computes at the tensor `name`, one image at a time."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.ValueInfoProto(name=name))
    runner = session(proto.SerializeToString(), optimize=False)
    source = next(value.name for value in model.graph.inputs if len(value.shape) == 4 and not value.is_initializer())
    rest = {v.name: np.zeros([int(d) for d in v.shape], np.float32) for v in model.graph.inputs if v.name != source}
    feeds = {entry.name: rest.get(entry.name) for entry in runner.get_inputs()}
    return np.concatenate([runner.run(None, {**feeds, source: image[i : i + 1]})[0] for i in range(len(image))])


def parameters_before(model: ir.Model, feature: str) -> int:
    """Trainable numbers up to `feature`, counted on the raw graph (Unsqueeze feeds scales and shifts there)."""
    needed, weights = {feature}, {}
    for node in reversed(model.graph):
        if any(value.name in needed for value in node.outputs):
            needed.update(value.name for value in node.inputs)
            slots = {"Conv": (1, 2), "BatchNormalization": (1, 2), "Unsqueeze": (0,)}.get(node.op_type, ())
            for i in slots:
                if i < len(node.inputs) and node.inputs[i].is_initializer():
                    weights[node.inputs[i].name] = node.inputs[i].const_value.size
    return sum(weights.values())


@pytest.mark.parametrize("name", EXPECTED)
def test_normalized_computes_the_same(name):
    feature, stride, channels = EXPECTED[name]
    image = np.random.default_rng(1).normal(size=(2, 3, 224, 224)).astype(np.float32)
    expected = feature_of_original(reseeded(name), feature, image)

    model = normalize(reseeded(name), instruments=[CheckInvariants()])

    assert [(f.name, f.stride, f.channels) for f in read_features(model)] == [(feature, stride, channels)]
    assert [value.name for value in model.graph.outputs] == [feature]
    assert model.graph.opset_imports == {"": 21}
    assert sum(value.const_value.size for value in trainable_values(model.graph)) == parameters_before(
        reseeded(name), feature
    )
    # Batch 2 at once is what the original computes one by one.
    assert relative_error(run(model, image)[0], expected) <= 1e-5
    assert expected.std() > 0


def test_the_baked_batch_is_reported():
    model = normalize(load(LIGHT / "light_shufflenet.onnx"))
    (remark,) = [d for d in diagnostics(model) if d.code == "batch-opened"]
    assert "32 nodes" in remark.message


def test_unused_inputs_and_weights_leave_the_inputs():
    model = normalize(load(LIGHT / "light_bvlc_alexnet.onnx"))
    assert [value.name for value in model.graph.inputs] == ["data_0"]


def test_every_node_has_a_unique_name_and_its_source():
    model = normalize(load(LIGHT / "light_squeezenet.onnx"))
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert all(sources(node) == (node.name,) for node in model.graph)


def test_same_input_same_bytes():
    first, second = (
        ir.to_proto(normalize(load(LIGHT / "light_resnet50.onnx"))).SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second
