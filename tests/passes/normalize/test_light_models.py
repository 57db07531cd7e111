"""The nine light models of the onnx wheel: opset 9, weights computed by nodes, listed as inputs, batch 1 baked in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.light import light, parameters_before, reseeded
from helpers.networks import run

from onnxmtl.analysis.features import read_features
from onnxmtl.ir import diagnostics, sources
from onnxmtl.ops import trainable_values
from onnxmtl.passes.instruments import CheckInvariants, relative_error
from onnxmtl.passes.normalize import normalize
from onnxmtl.runtime import session

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


# Deep ones for `make test-all`: others here, and the DenseNet of the zoo, have their layers and joins.
DEEP = ("densenet121", "inception_v2", "resnet50", "vgg19")


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


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in EXPECTED])
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
    model = normalize(light("shufflenet"))
    (remark,) = [d for d in diagnostics(model) if d.code == "batch-opened"]
    assert "32 nodes" in remark.message


def test_unused_inputs_and_weights_leave_the_inputs():
    model = normalize(light("bvlc_alexnet"))
    assert [value.name for value in model.graph.inputs] == ["data_0"]


def test_every_node_has_a_unique_name_and_its_source():
    model = normalize(light("squeezenet"))
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert all(sources(node) == (node.name,) for node in model.graph)


def test_same_input_same_bytes():
    first, second = (ir.to_proto(normalize(light("resnet50"))).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
