from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmtl import runtime
from onnxmtl.deploy.verify import verify, write_certificate
from onnxmtl.errors import ModelError, VerificationError
from onnxmtl.ir import new_initializer, save, set_sources
from onnxmtl.kinds import TaskSet


def value(name, shape):
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))


def conv(name, x, weight, out, channels):
    attributes = [ir.AttrInt64s("pads", [1, 1, 1, 1]), ir.AttrInt64s("kernel_shape", [3, 3])]
    node = ir.Node("", "Conv", [x, weight], attributes, outputs=[value(out, ["N", channels, 8, 8])], name=name)
    set_sources(node, [name])
    return node


@pytest.fixture
def model():
    """x -> conv1 -> relu -> {seg: conv, depth: conv}, 5 classes, shared trunk."""
    rng = np.random.default_rng(0)
    x = value("x", ["N", 3, 8, 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="g")

    def weight(name, out, channels):
        array = (rng.standard_normal((out, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)
        return new_initializer(graph, name, array)

    first = conv("conv1", x, weight("w1", 4, 3), "h", 4)
    relu = ir.Node("", "Relu", [first.outputs[0]], outputs=[value("r", ["N", 4, 8, 8])], name="relu1")
    seg = conv("seg_conv", relu.outputs[0], weight("w_seg", 5, 4), "seg", 5)
    depth = conv("depth_conv", relu.outputs[0], weight("w_depth", 1, 4), "depth", 1)
    graph.extend([first, relu, seg, depth])
    graph.outputs.extend([seg.outputs[0], depth.outputs[0]])
    made = ir.Model(graph, ir_version=10, producer_name="onnxmtl")
    made.metadata_props["onnxmtl.tasks"] = TaskSet.parse("seg=segmentation:5,depth").to_json()
    return made


@pytest.fixture
def images():
    return {"x": np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)}


@pytest.fixture
def folder(tmp_path, model, images):
    save(model, tmp_path / "model.onnx")
    outputs = runtime.run(tmp_path / "model.onnx", images)
    write_certificate(tmp_path, images, outputs, {"architecture": "all shared"}, folded=False)
    return tmp_path


def rewrite(folder, change):
    """Change the emitted file behind the certificate's back."""
    proto = onnx.load(folder / "model.onnx")
    change(proto)
    onnx.save(proto, folder / "model.onnx")


def test_untouched_model_passes(folder):
    report = verify(folder).check()
    assert report.passed and report.same_file and report.weights == 3 and report.operators == 4
    assert [check.task for check in report.tasks] == ["seg", "depth"]
    seg, depth = report.tasks
    assert seg.agreement == 1.0 and depth.agreement is None
    for check in report.tasks:
        assert check.plain_error <= 1e-6 and check.optimized_error <= 1e-6 and check.batch_error <= 1e-6
    assert report.plain_tolerance == 1e-5 and report.optimized_tolerance == 1e-4
    written = json.loads((folder / "verify.json").read_text())
    assert written == report.to_json() and written["passed"] is True


def test_model_file_can_be_given(folder):
    assert verify(folder / "model.onnx", write_report=False).passed
    assert not (folder / "verify.json").exists()


def test_certificate_is_deterministic(folder, images):
    before = {name: (folder / name).read_bytes() for name in ("certificate.npz", "certificate.json")}
    outputs = runtime.run(folder / "model.onnx", images)
    write_certificate(folder, images, outputs, {"architecture": "all shared"}, folded=False)
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert json.loads(before["certificate.json"])["structure"] == {"architecture": "all shared"}


def test_tampered_weight(folder):
    def change(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == "w1")
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[0, 0, 0, 0] += 1e-3
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w1"))

    rewrite(folder, change)
    report = verify(folder)
    assert not report.passed and not report.same_file
    assert report.problems[0] == "weight 'w1' is not the one that was emitted"
    assert any("computes something else than was trained" in line for line in report.problems)
    with pytest.raises(VerificationError, match=r"^model\.onnx does not verify: weight 'w1' is not .* more, see") as e:
        report.check()
    assert "\n" not in str(e.value)
    assert json.loads((folder / "verify.json").read_text())["passed"] is False


def test_tiny_change_of_a_weight_is_seen_without_numbers(folder):
    def change(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == "w_seg")
        array = onnx.numpy_helper.to_array(tensor).copy()
        array.flat[0] = np.nextafter(array.flat[0], np.float32(9))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w_seg"))

    rewrite(folder, change)
    assert verify(folder).problems == ("weight 'w_seg' is not the one that was emitted",)


def test_renamed_output(folder):
    def change(proto):
        proto.graph.output[0].name = "segmentation"
        proto.graph.node[2].output[0] = "segmentation"

    rewrite(folder, change)
    problems = verify(folder).problems
    assert "there is no output 'seg', only segmentation, depth" in problems
    assert "output 'segmentation' is no task of the certificate" in problems


def test_renamed_weight(folder):
    def change(proto):
        next(t for t in proto.graph.initializer if t.name == "w1").name = "other"
        proto.graph.node[0].input[1] = "other"

    rewrite(folder, change)
    assert set(verify(folder).problems) == {"weight 'w1' is gone", "weight 'other' was not recorded"}


def test_other_attribute(folder):
    def change(proto):
        node = proto.graph.node[0]
        for attribute in node.attribute:
            if attribute.name == "pads":
                attribute.ints[:] = [2, 2, 2, 2]
        node.attribute.append(onnx.helper.make_attribute("dilations", [2, 2]))

    rewrite(folder, change)
    problems = verify(folder).problems
    assert problems[0] == "operator Conv [conv1] of depth, seg has other attributes"
    assert any("relative error" in line for line in problems)


def test_other_operator_of_almost_equal_result(folder):
    def change(proto):
        proto.graph.node[1].op_type = "LeakyRelu"
        proto.graph.node[1].attribute.append(onnx.helper.make_attribute("alpha", 1e-9))

    rewrite(folder, change)
    problems = verify(folder).problems
    assert problems == (
        "operator Relu [ours] of depth, seg is gone",
        "operator LeakyRelu [ours] of depth, seg was not recorded",
    )


def test_other_wiring(folder):
    """Two more Relus change nothing in number; only the digest tells that depth runs through another one."""

    def add_twin(proto):
        twin = onnx.NodeProto()
        twin.CopyFrom(proto.graph.node[1])
        twin.name, twin.output[0] = "relu2", "r2"
        proto.graph.node.insert(2, twin)

    rewrite(folder, add_twin)
    assert verify(folder).passed  # dead code is no difference of what is computed

    def swap(proto):
        depth = next(node for node in proto.graph.node if node.name == "depth_conv")
        depth.input[0] = "r2"

    rewrite(folder, swap)
    assert any("was not recorded" in line for line in verify(folder).problems)


def test_swapped_operands_are_seen(tmp_path, images):
    x = value("x", ["N", 3, 8, 8])
    relu = ir.Node("", "Relu", [x], outputs=[value("r", ["N", 3, 8, 8])], name="relu")
    sub = ir.Node("", "Sub", [x, relu.outputs[0]], outputs=[value("y", ["N", 3, 8, 8])], name="sub")
    graph = ir.Graph([x], [sub.outputs[0]], nodes=[relu, sub], opset_imports={"": 21}, name="g")
    save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    outputs = runtime.run(tmp_path / "model.onnx", images)
    write_certificate(tmp_path, images, outputs, {})

    def swap(proto):
        proto.graph.node[1].input[:] = ["r", "x"]

    assert verify(tmp_path).passed
    rewrite(tmp_path, swap)
    assert verify(tmp_path).problems[0] == "what computes 'y' is wired otherwise"


def test_other_outputs_than_torch_computed(folder, images):
    outputs = runtime.run(folder / "model.onnx", images)
    outputs["depth"] = outputs["depth"] * np.float32(1 + 3e-5)
    write_certificate(folder, images, outputs, {}, folded=False)
    problems = verify(folder).problems
    assert len(problems) == 1 and problems[0].startswith("'depth' computes something else than was trained")
    assert "allowed 1e-05" in problems[0]
    write_certificate(folder, images, outputs, {}, folded=True)
    assert verify(folder).passed  # within the tolerance of folded models


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_value_that_is_no_number_fails(folder, images, bad):
    outputs = runtime.run(folder / "model.onnx", images)
    outputs["depth"][0, 0, 0, 0] = bad
    write_certificate(folder, images, outputs, {})
    report = verify(folder)
    assert not report.passed
    json.loads((folder / "verify.json").read_text(), parse_constant=lambda text: pytest.fail(text))


def test_fixed_batch_fails(tmp_path, images):
    """Reshape with the certificate's batch baked in: it runs on that batch and no other."""
    x = value("x", ["N", 3, 8, 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="g")
    shape = new_initializer(graph, "shape", np.array([3, 192], dtype=np.int64))
    node = ir.Node("", "Reshape", [x, shape], outputs=[value("y", [3, 192])], name="reshape")
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    write_certificate(tmp_path, images, {"y": images["x"].reshape(3, 192)}, {})
    problems = verify(tmp_path).problems
    assert len(problems) == 1 and "ONNX Runtime cannot run the model" in problems[0]


def test_output_that_depends_on_the_batch_fails(tmp_path, images):
    x = value("x", ["N", 3, 8, 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="g")
    axes = new_initializer(graph, "axes", np.array([0], dtype=np.int64))
    mean = ir.Node("", "ReduceMean", [x, axes], outputs=[value("m", [1, 3, 8, 8])], name="mean")
    sub = ir.Node("", "Sub", [x, mean.outputs[0]], outputs=[value("y", ["N", 3, 8, 8])], name="sub")
    graph.extend([mean, sub])
    graph.outputs.append(sub.outputs[0])
    save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    write_certificate(tmp_path, images, runtime.run(tmp_path / "model.onnx", images), {})
    problems = verify(tmp_path).problems
    assert len(problems) == 1 and problems[0].startswith("'y' depends on the batch an image is in")


def test_class_numbers(tmp_path, images):
    x = value("x", ["N", 3, 8, 8])
    out = ir.Value(name="seg", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["N", 8, 8]))
    attributes = [ir.AttrInt64("axis", 1), ir.AttrInt64("keepdims", 0)]
    node = ir.Node("", "ArgMax", [x], attributes, outputs=[out], name="argmax")
    graph = ir.Graph([x], [out], nodes=[node], opset_imports={"": 21}, name="g")
    save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    expected = images["x"].argmax(1)
    write_certificate(tmp_path, images, {"seg": expected}, {})
    (check,) = verify(tmp_path).check().tasks
    assert check.integer and check.agreement == 1.0
    expected[0, 0, 0] = (expected[0, 0, 0] + 1) % 3
    write_certificate(tmp_path, images, {"seg": expected}, {})
    assert "'seg' computes something else" in verify(tmp_path).problems[0]


def test_against_a_reference(folder, images):
    def right(file, inputs):
        return runtime.run(file, inputs)

    def wrong(file, inputs):
        return {name: array * 1.001 for name, array in runtime.run(file, inputs).items()}

    report = verify(folder, reference=right)
    assert report.passed and all(check.torch_error == 0 for check in report.tasks)
    assert "than torch does now" in verify(folder, reference=wrong).problems[0]


def test_missing_and_damaged_parts_are_one_line(folder, tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        verify(tmp_path / "nowhere")
    arrays = (folder / "certificate.npz").read_bytes()
    (folder / "certificate.npz").write_bytes(arrays[:-20])
    with pytest.raises(VerificationError, match="do not belong together"):
        verify(folder)
    (folder / "certificate.npz").unlink()
    with pytest.raises(VerificationError, match=r"has no certificate\.npz"):
        verify(folder)
    (folder / "certificate.npz").write_bytes(arrays)
    (folder / "certificate.json").write_text("{")
    with pytest.raises(VerificationError, match="damaged") as caught:
        verify(folder)
    assert "\n" not in str(caught.value)
    (folder / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError):
        verify(folder)
