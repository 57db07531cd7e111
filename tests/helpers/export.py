"""Models from a line of text, and the way to a prototxt and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf import text_format

from onnxmtl import runtime
from onnxmtl.deploy.exporting import export_prototxt
from onnxmtl.frontends import prototxt
from onnxmtl.frontends.prototxt.schema import message
from onnxmtl.ir import to_bytes


def model_of(body: str, weights: dict[str, np.ndarray] | None = None, *, opset: int = 21, **inputs) -> onnx.ModelProto:
    """``y = Relu (x)`` as a model: outputs are what nobody reads; inputs by name, x of [2, 4, 6, 8] by default."""
    shapes = inputs or {"x": (2, 4, 6, 8)}
    given = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in shapes.items())
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> net ({given}) => (float y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    read = {name for node in proto.graph.node for name in node.input}
    made = [name for node in proto.graph.node for name in node.output if name]
    del proto.graph.output[:]
    for name in made:
        if name not in read:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    for i, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type.lower()}{i}"
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    proto = onnx.shape_inference.infer_shapes(proto)
    return proto


def written(path: Path) -> Any:
    """The file as protobuf reads it by itself."""
    return text_format.Parse(path.read_text(), message("NetParameter"))


def layer_types(path: Path) -> list[str]:
    return [layer.type for layer in written(path).layer if layer.type != "Input"]


def structure(model: ir.Model) -> list[tuple]:
    """What a model is made of: operators, attributes, wires by name, shapes of weights."""
    return [
        (
            node.op_type,
            node.name,
            sorted((key, str(attr.value)) for key, attr in node.attributes.items()),
            [None if v is None else (v.name, v.is_initializer() and v.const_value.shape) for v in node.inputs],
            [v.name for v in node.outputs],
        )
        for node in model.graph
    ]


def feeds_of(model: ir.Model, seed: int = 0, batch: int = 1) -> dict[str, np.ndarray]:
    """Random images for all inputs."""
    rng = np.random.default_rng(seed)
    return {
        str(value.name): rng.standard_normal([d if isinstance(d, int) else batch for d in value.shape]).astype(
            np.float32
        )
        for value in model.graph.inputs
    }


def outputs_of(model: ir.Model | onnx.ModelProto | bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs, by onnxruntime without its optimizations."""
    if isinstance(model, ir.Model):
        content = to_bytes(model)
    else:
        content = model if isinstance(model, bytes) else model.SerializeToString()
    return runtime.run(runtime.session(content, optimize=False, threads=1), feeds)


def there_and_back(model: Any, folder: Path, *, tolerance: float = 1e-5, **options: Any) -> ir.Model:
    """Export `model`, read it again, and insist on the same outputs under the same names; returns what was read."""
    target, weights = folder / "net.prototxt", folder / "net.caffemodel"
    weights.unlink(missing_ok=True)
    export_prototxt(model, target, weights, **options)
    back = prototxt.load(target, weights=weights if weights.exists() else None)
    assert_same(model, back, tolerance)
    return back


def assert_same(model: ir.Model | onnx.ModelProto | bytes, back: ir.Model, tolerance: float = 1e-5) -> None:
    """Both compute the same, relative to the largest number; indices may have become floats."""
    proto = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
    if isinstance(proto, onnx.ModelProto):
        weights = {tensor.name for tensor in proto.graph.initializer}
        images = [value for value in proto.graph.input if value.name not in weights]
        names = [value.name for value in images]
        batch = images[0].type.tensor_type.shape.dim[0].dim_value or 1
    else:
        images = [value for value in proto.graph.inputs if not value.is_initializer()]
        names = [str(value.name) for value in images]
        batch = images[0].shape[0]
        batch = batch if isinstance(batch, int) else 1
    feeds = feeds_of(back, batch=batch)
    want = outputs_of(model, dict(zip(names, feeds.values(), strict=True)))
    got = outputs_of(back, feeds)
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, rtol=0, atol=tolerance * max(1.0, float(np.abs(array).max())))
