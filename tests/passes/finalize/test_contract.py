"""ApplyOutputContract: the numbers of each form, by numpy; names, shapes and metadata."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmtl import runtime
from onnxmtl.ir import Role, head_of, role_of, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize.contract import CONTRACT_KEY, ApplyOutputContract

SPEC = {"layout": "NCHW", "range": [0.0, 1.0], "mean": [0.1, 0.2, 0.3], "scale": [1.0, 1.0, 1.0], "size": [2, 4]}


def multitask(names: dict[str, int], dense: bool = True) -> ir.Model:
    """Each output is the image's first channels, or their means over the image."""
    size = ", 2, 4" if dense else ""
    outputs = ", ".join(f"float[N, {c}{size}] {name}" for name, c in names.items())
    body = []
    for name, c in names.items():
        body.append(f"{name}_end = Constant <value_ints = [{c}]> ()")
        body.append(f"{name}_map = Slice (image, start, {name}_end, axis)")
        body.append(f"{name} = Identity ({name}_map)" if dense else f"{name}_mean = GlobalAveragePool ({name}_map)")
        if not dense:
            body.append(f"{name} = Flatten ({name}_mean)")
    text = f"""
    <ir_version: 10, opset_import: ["": 21]>
    g (float[N, 5, 2, 4] image) => ({outputs}) {{
        start = Constant <value_ints = [0]> ()
        axis = Constant <value_ints = [1]> ()
        {chr(10).join(body)}
    }}
    """
    return ir.from_proto(onnx.parser.parse_model(text))


def evaluate(model: ir.Model, image: np.ndarray) -> dict[str, np.ndarray]:
    data = to_bytes(model)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    return runtime.run(data, {"image": image})


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 5, 2, 4)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_every_form_of_the_dense_kinds(image):
    image[0, :3, 0, 0] = 0  # a zero vector has no direction
    task = TaskSet.parse(
        "logits=segmentation:5,probabilities=segmentation:5,argmax=segmentation:5,depth,keys=keypoints"
    )
    normals, edges = TaskSet.parse("unit=normals,raw=normals"), TaskSet.parse("e=edges,e_logits=edges")
    tasks = TaskSet(
        (
            *(t.replace(output=t.name) for t in task if t.kind == "segmentation"),
            task["depth"],
            task["keys"].replace(output="clipped"),
            *(t.replace(output=t.name) for t in normals),
            edges["e"],
            edges["e_logits"].replace(output="logits"),
        )
    )
    model = multitask({t.name: t.channels for t in tasks})
    found = ApplyOutputContract(tasks, SPEC)(model)
    assert found.modified
    y = evaluate(model, image)
    assert list(y) == list(tasks.names)
    normal = image[:, :3]
    length = np.sqrt((normal.astype(np.float64) ** 2).sum(1, keepdims=True))
    expected = {
        "logits": image,
        "probabilities": softmax(image),
        "argmax": image.argmax(1),
        "depth": image[:, :1],
        "keys": image[:, :1].clip(0, 1),
        "unit": normal / np.where(length > 0, length, 1),
        "raw": normal,
        "e": sigmoid(image[:, :1]),
        "e_logits": image[:, :1],
    }
    for name, array in expected.items():
        np.testing.assert_allclose(y[name], array, atol=1e-6, err_msg=name)
        assert y[name].dtype == (np.int64 if name == "argmax" else np.float32)
    assert not y["unit"][0, :, 0, 0].any()


def test_every_form_of_the_image_kinds(image):
    parsed = TaskSet.parse(
        "logits=classification:5,probabilities=classification:5,argmax=classification:5,pose=regression:2"
    )
    tasks = TaskSet(tuple(t.replace(output=t.name) if t.kind == "classification" else t for t in parsed))
    model = multitask({t.name: t.channels for t in tasks}, dense=False)
    ApplyOutputContract(tasks, SPEC)(model)
    y = evaluate(model, image)
    mean = image.mean((2, 3))
    np.testing.assert_allclose(y["logits"], mean, atol=1e-6)
    np.testing.assert_allclose(y["probabilities"], softmax(mean), atol=1e-6)
    np.testing.assert_array_equal(y["argmax"], mean.argmax(1))
    np.testing.assert_allclose(y["pose"], mean[:, :2], atol=1e-6)


def test_the_contract_says_what_goes_in_and_comes_out():
    tasks = TaskSet.parse("seg=segmentation:3,depth,normals")
    seg = tasks["seg"].replace(output="argmax", class_names=("a", "b", "ü"))
    tasks = TaskSet((seg, tasks["depth"].replace(resolution="native"), tasks["normals"]))
    model = multitask({"seg": 3, "depth": 1, "normals": 3})
    ApplyOutputContract(tasks, SPEC)(model)
    assert json.loads(model.metadata_props[CONTRACT_KEY]) == {
        "version": 1,
        "input": {"name": "image", "dtype": "float32", "shape": ["N", 5, 2, 4], **SPEC},
        "outputs": {
            "seg": {
                "kind": "segmentation",
                "output": "argmax",
                "resolution": "input",
                "unit": "class index",
                "classes": 3,
                "class_names": ["a", "b", "ü"],
                "dtype": "int64",
                "shape": ["N", 2, 4],
            },
            "depth": {
                "kind": "depth",
                "output": "raw",
                "resolution": "native",
                "unit": "metres",
                "classes": None,
                "class_names": [],
                "dtype": "float32",
                "shape": ["N", 1, 2, 4],
            },
            "normals": {
                "kind": "normals",
                "output": "unit",
                "resolution": "input",
                "unit": "unit vector",
                "classes": None,
                "class_names": [],
                "dtype": "float32",
                "shape": ["N", 3, 2, 4],
            },
        },
    }


def test_the_unit_is_the_tasks():
    tasks = TaskSet.parse("depth,pose=regression:2,normals,seg=segmentation:3")
    tasks = tasks.with_classes({}, units={"depth": "inverse depth", "pose": "radians", "normals": "feet"})
    model = multitask({"depth": 1, "pose": 2, "normals": 3, "seg": 3})
    ApplyOutputContract(tasks, SPEC)(model)
    outputs = json.loads(model.metadata_props[CONTRACT_KEY])["outputs"]
    found = {name: entry["unit"] for name, entry in outputs.items()}
    assert found == {"depth": "inverse depth", "pose": "radians", "normals": "unit vector", "seg": ""}


def test_new_nodes_belong_to_the_head():
    tasks = TaskSet.parse("normals,depth")
    model = multitask({"normals": 3, "depth": 1})
    before = set(model.graph)
    ApplyOutputContract(tasks, SPEC)(model)
    new = [node for node in model.graph if node not in before]
    assert [n.op_type for n in new] == ["ReduceL2", "Max", "Div"]
    assert all(head_of(n) == "normals" and n.metadata_props["onnxmtl.pass"] == "ApplyOutputContract" for n in new)
    assert all(role_of(v) is Role.HEAD for v in model.graph.initializers.values())


def test_twice_or_other_tasks_are_refused():
    model = multitask({"seg": 3})
    with pytest.raises(Refused, match="the outputs of the model are seg, the tasks are depth"):
        ApplyOutputContract(TaskSet.parse("depth"), SPEC)(model)
    tasks = TaskSet((TaskSet.parse("seg=segmentation:3")["seg"].replace(output="argmax"),))
    ApplyOutputContract(tasks, SPEC)(model)
    with pytest.raises(Refused, match="applied already"):
        ApplyOutputContract(tasks, SPEC)(model)
