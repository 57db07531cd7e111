"""The nine light models of the onnx wheel: opset 9, weights computed by nodes, listed as inputs, batch 1 baked in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl.frontends.onnx import load

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# Input sizes: as small as the network's pools allow, so that all of it runs in minutes.
SIZES = {
    "bvlc_alexnet": 64,
    "densenet121": 64,
    "inception_v1": 64,
    "inception_v2": 64,
    "resnet50": 64,
    "shufflenet": 32,
    "squeezenet": 32,
    "vgg19": 32,
    "zfnet512": 64,
}
_CLASSIFIER = 4_000_000  # weights larger than this stand behind the features


def light(name: str) -> ir.Model:
    """The model as it is in the wheel."""
    return load(FOLDER / f"light_{name}.onnx")


def reseeded(name: str, seed: int = 0) -> ir.Model:
    """The model with random weights in the places of its constant ones (but for the huge ones of the classifier).

    Most are made by ConstantOfShape nodes; small ones (scales of 1, shifts of 0) are stored.
    """
    model = light(name)
    rng = np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype == np.float32 and array.size > 1 and np.ptp(array) == 0:
            drawn = rng.uniform(0.5, 1.0, array.shape).astype(np.float32)
            value.const_value = ir.tensor(drawn, name=value.name)
    for node in list(model.graph):
        if node.op_type != "ConstantOfShape":
            continue
        shape = tuple(int(dim) for dim in node.inputs[0].const_value.numpy())
        if np.prod(shape) > _CLASSIFIER:
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
