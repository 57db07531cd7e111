"""The passes of the import pipeline, one by one; those that set shapes are in test_import_shapes.py."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.networks import Network, codes, image_of, node, ops, parse, run, small_network

from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, diagnostics, make_choice, new_initializer, role_of, sources
from onnxmtl.ops import mark_tied
from onnxmtl.passes.instruments import find_violation, relative_error
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.batchnorm import InsertBatchNorm, ReportFoldedBatchNorm
from onnxmtl.passes.normalize.evaluation import EvaluationForm
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.inline import InlineFunctions
from onnxmtl.passes.normalize.inputs import CleanInputs
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.opset import ConvertOpset
from onnxmtl.passes.normalize.shapes import infer_shapes
from onnxmtl.passes.normalize.untie import UntieWeights


class TestInline:
    TEXT = """
        <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        net (float[1,3,8,8] image) => (float[1,3,8,8] y) { y = local.twice (image) }
        <domain: "local", opset_import: ["" : 21]> twice (x) => (z) { a = Relu (x) z = Add (a, a) }
    """

    def test_functions_are_expanded(self):
        model, x = parse(self.TEXT), np.ones((1, 3, 8, 8), np.float32)
        InlineFunctions()(model)
        assert ops(model) == ["Relu", "Add"]
        assert not model.functions
        assert codes(model) == ["functions-inlined"]
        np.testing.assert_array_equal(run(model, x)[0], 2 * x)

    def test_supermodels_are_refused(self):
        net = Network()
        options = [("shared", net.conv(net.image, 3, 3)), ("own", net.conv(net.image, 3, 3))]
        logits = new_initializer(net.graph, "logits", np.zeros(2, np.float32))
        net.graph.append(make_choice(options, logits, site="s", task="t", name="choice", output="y"))
        model = net.model(net.graph[-1].outputs[0])
        with pytest.raises(ModelError, match=r"supermodel"):
            InlineFunctions()(model)


class TestNames:
    def test_user_names_stay_and_the_others_are_made_up(self):
        model = parse(
            """<ir_version: 10, opset_import: ["" : 21]> net (float[1,3,8,8] x) => (float[1,3,8,8] y)
            { a = Relu (x) b = Relu (a) y = Relu (b) }"""
        )
        model.graph[0].name = model.graph[1].name = "act"
        NameNodes()(model)
        assert [n.name for n in model.graph] == ["act", "act_1", "Relu_y"]
        assert [sources(n) for n in model.graph] == [("act",), ("act_1",), ("Relu_y",)]
        assert not NameNodes()(model).modified


class TestConvertOpset:
    def old(self) -> ir.Model:
        net = Network(("N", 3, 8, 8), opset=9)
        x = net.conv(net.image, 3, 4, name="conv")
        x = net.add("Unsqueeze", [net.add("Squeeze", [x], "squeeze", axes=[0])], "unsqueeze", axes=[0])
        model = net.model(net.add("Dropout", [x], "drop", ratio=0.5))
        NameNodes()(model)
        model.metadata_props["m"] = model.graph.metadata_props["g"] = "kept"
        model.meta["memory"] = "kept"
        node(model, "conv").metadata_props["scope"] = "layer1"
        node(model, "conv").outputs[0].metadata_props["value"] = "kept"
        model.graph.initializers["conv.w"].metadata_props["weight"] = "kept"
        return model

    def test_metadata_survives_on_every_level(self):
        model = self.old()
        weight = model.graph.initializers["conv.w"].const_value
        ConvertOpset(21)(model)
        assert model.graph.opset_imports[""] == 21
        assert model.metadata_props["m"] == model.graph.metadata_props["g"] == model.meta["memory"] == "kept"
        assert node(model, "conv").metadata_props["scope"] == "layer1"
        assert node(model, "conv").outputs[0].metadata_props["value"] == "kept"
        assert model.graph.initializers["conv.w"].metadata_props["weight"] == "kept"
        assert model.graph.initializers["conv.w"].const_value is weight
        assert [value.name for value in model.graph.inputs] == ["image"]

    def test_numbers_and_provenance_of_new_nodes(self):
        model = self.old()
        x = image_of(model, 1)
        expected = run(self.old(), x)[0]
        before = {n.name for n in model.graph}
        ConvertOpset(21)(model)
        np.testing.assert_array_equal(run(model, x)[0], expected)
        added = [n for n in model.graph if n.name not in before]
        assert added
        assert {name for n in added for name in sources(n)} <= before
        assert all(sources(n) for n in added)

    def test_never_down(self):
        net = Network(opset=22)
        model = net.model(net.conv(net.image, 3, 4))
        assert not ConvertOpset(21)(model).modified
        assert model.graph.opset_imports[""] == 22
        assert codes(model) == ["opset-kept"]

    def test_functions_are_refused(self):
        with pytest.raises(ModelError, match=r"InlineFunctions"):
            ConvertOpset()(parse(TestInline.TEXT))


class TestCleanInputs:
    def test_weights_and_unused_values_leave(self):
        model = small_network()
        model.graph.inputs.append(model.graph.initializers["stem.w"])
        model.graph.inputs.append(ir.Value(name="unused", type=ir.TensorType(ir.DataType.FLOAT)))
        CleanInputs()(model)
        assert [value.name for value in model.graph.inputs] == ["image"]
        assert set(codes(model)) == {"weights-in-inputs", "input-removed"}

    def test_a_dynamic_batch_is_called_n(self):
        model = small_network(("batch_size", 3, 16, 16))
        CleanInputs()(model)
        assert list(model.graph.inputs[0].shape) == [ir.SymbolicDim("N"), 3, 16, 16]


class TestFold:
    def fold(self, model: ir.Model, **options) -> ir.Model:
        CleanInputs()(model)
        NameNodes()(model)
        FoldConstants(**options)(model)
        assert find_violation(model.graph) is None
        return model

    def test_computed_weights(self):
        net = Network()
        shape = net.weight("shape", np.array([4, 3, 1, 1]))
        weight = net.add("ConstantOfShape", [shape], "w", value=ir.tensor(np.array([0.5], np.float32)))
        weight = net.add(
            "Mul", [net.add("Transpose", [weight], "t", perm=[0, 1, 3, 2]), net.weight("c", np.float32(2))]
        )
        model = self.fold(net.model(net.add("Conv", [net.image, weight], "conv")))
        assert ops(model) == ["Conv"]
        np.testing.assert_array_equal(node(model, "conv").inputs[1].const_value.numpy(), np.ones((4, 3, 1, 1)))

    def test_large_constants_stay_nodes(self):
        net = Network()
        weight = net.add("ConstantOfShape", [net.weight("shape", np.array([64, 3, 1, 1]))], "w")
        model = self.fold(net.model(net.add("Conv", [net.image, weight], "conv")), limit=100)
        assert ops(model) == ["ConstantOfShape", "Conv"]

    def test_identity_of_a_weight_is_the_weight(self):
        net = Network()
        bias = net.weight("bias", net.normal(4))
        x = net.add("Conv", [net.image, net.weight("w", net.normal(4, 3, 1, 1)), net.add("Identity", [bias])], "conv")
        assert node(self.fold(net.model(x)), "conv").inputs[2] is bias

    def test_random_nodes_stay(self):
        net = Network()
        noise = net.add("RandomNormal", [], "noise", shape=[1, 3, 16, 16])
        assert "RandomNormal" in ops(self.fold(net.model(net.add("Add", [net.image, noise]))))

    def flattening(self, batch: int | str) -> ir.Model:
        """x.view(x.size(0), -1) and x.view(n, 2, c // 2, h, w) as torch's old exporter writes them."""
        net = Network((batch, 4, 4, 4))
        shape = net.add("Shape", [net.image], "shape")
        zero, two = net.weight("zero", np.array([0])), net.weight("two", np.array([2]))
        n = net.add("Gather", [shape, zero], "n")
        c = net.add("Div", [net.add("Gather", [shape, net.weight("one", np.array([1]))]), two])
        rest = net.add("Slice", [shape, two, net.weight("four", np.array([4]))])
        view = net.add("Reshape", [net.image, net.add("Concat", [n, two, c, rest], axis=0)], "view")
        minus = net.weight("minus", np.array([-1]))
        flat = net.add("Reshape", [view, net.add("Concat", [n, minus], axis=0)], "flat", allowzero=1)
        return net.model(flat)

    @pytest.mark.parametrize("batch", ["N", "batch", 1, 3])
    def test_shape_arithmetic(self, batch):
        model = self.fold(self.flattening(batch))
        assert ops(model) == ["Reshape", "Reshape"]
        lead = batch if isinstance(batch, int) else -1
        targets = [n.inputs[1].const_value.numpy().tolist() for n in model.graph]
        assert targets == [[lead, 2, 2, 4, 4], [lead, 64 if lead == -1 else -1]]
        x = image_of(model, 5 if lead == -1 else batch)
        np.testing.assert_array_equal(run(model, x)[0], x.reshape(len(x), -1))

    def test_what_really_depends_on_the_batch_stays(self):
        net = Network(("N", 4, 4, 4))
        size = net.add("Cast", [net.add("Size", [net.image])], to=1)
        model = self.fold(net.model(net.add("Div", [net.image, size])))
        x = image_of(model, 3)
        np.testing.assert_allclose(run(model, x)[0], x / x.size, rtol=1e-6)


class TestUntie:
    def shared(self, value: np.ndarray, *slots: int) -> ir.Model:
        """One BatchNormalization per slot, all of them using `value` in that slot."""
        net = Network(("N", 4, 8, 8))
        tied = net.weight("tied", value)
        x = net.image
        for i, slot in enumerate(slots):
            x = net.norm(x, 4, f"bn{i}")
            x.producer().replace_input_with(slot, tied)
        return net.model(x)

    def untied(self, model: ir.Model) -> list[ir.Value]:
        x = image_of(model)
        expected = run(model, x)[0]
        NameNodes()(model)
        UntieWeights()(model)
        assert find_violation(model.graph) is None
        np.testing.assert_array_equal(run(model, x)[0], expected)
        return list(model.graph)

    def test_scale_and_variance_of_equal_numbers(self):
        model = self.shared(np.array([1, 2, 3, 4], np.float32), 1, 4)
        first, second = self.untied(model)
        assert first.inputs[1] is not second.inputs[4]
        assert role_of(first.inputs[1]) is Role.BACKBONE
        assert role_of(second.inputs[4]) is Role.STATISTIC
        assert codes(model) == ["weights-untied"]

    def test_constant_filled_in_the_same_slot(self):
        first, second = self.untied(self.shared(np.ones(4, np.float32), 1, 1))
        assert first.inputs[1] is not second.inputs[1]

    @pytest.mark.parametrize(("slots", "kept"), [((1, 1), True), ((1, 2), False)])
    def test_constant_filled_and_tied_on_purpose(self, slots, kept):
        """A normalization that is used twice, fresh from its initialization; never a scale that is a shift, too."""
        model = self.shared(np.ones(4, np.float32), *slots)
        mark_tied(model.graph.initializers["tied"])
        first, second = self.untied(model)
        assert (first.inputs[slots[0]] is second.inputs[slots[1]]) == kept
        assert codes(model) == ["ties-kept" if kept else "weights-untied"]

    def test_a_real_tie_is_kept(self):
        model = self.shared(np.array([1, 2, 3, 4], np.float32), 1, 1)
        first, second = self.untied(model)
        assert first.inputs[1] is second.inputs[1]
        assert codes(model) == ["ties-kept"]

    def test_a_bias_shared_through_identities(self):
        net = Network()
        zero = net.weight("zero", np.zeros(3, np.float32))
        a = net.add("Conv", [net.image, net.weight("wa", net.normal(3, 3, 1, 1)), net.add("Identity", [zero])], "a")
        b = net.add("Conv", [a, net.weight("wb", net.normal(3, 3, 1, 1)), net.add("Identity", [zero])], "b")
        model = net.model(b)
        NameNodes()(model)
        FoldConstants()(model)
        assert node(model, "a").inputs[2] is node(model, "b").inputs[2]
        UntieWeights()(model)
        assert node(model, "a").inputs[2] is not node(model, "b").inputs[2]


class TestBatchNorm:
    def folded(self) -> ir.Model:
        net = Network(("N", 3, 16, 16))
        x = net.add("Relu", [net.conv(net.image, 3, 4, bias=True, name="a")], "relu")
        gate = net.conv(net.add("GlobalAveragePool", [x]), 4, 4, k=1, bias=True, name="gate")
        x = net.conv(net.add("Mul", [x, gate]), 4, 6, bias=True, name="b")
        model = net.model(x)
        NameNodes()(model)
        infer_shapes(model)
        return model

    def test_folded_normalization_is_reported(self):
        model = self.folded()
        assert not ReportFoldedBatchNorm()(model).modified
        (remark,) = diagnostics(model)
        assert remark.code == "batchnorm-folded"
        assert remark.node == "a"
        assert "--batchnorm insert" in remark.hint

    def test_no_report_where_there_is_some(self):
        model = small_network()
        ReportFoldedBatchNorm()(model)
        assert not diagnostics(model)

    def test_inserted_as_identity(self):
        model, x = self.folded(), image_of(self.folded())
        expected = run(model, x)[0]
        InsertBatchNorm()(model)
        assert find_violation(model.graph) is None
        assert relative_error(run(model, x)[0], expected) <= 1e-6
        norms = [n for n in model.graph if n.op_type == "BatchNormalization"]
        assert [n.name for n in norms] == ["a.bn", "b.bn"]  # not behind the gate's 1×1 map
        assert [value.name for value in model.graph.outputs] == ["b_out"]
        assert all(len(node(model, name).inputs) == 2 for name in "ab")
        assert sources(norms[0]) == ("a",)
        assert [role_of(value) for value in norms[0].inputs[1:]] == [Role.BACKBONE] * 2 + [Role.STATISTIC] * 2

    def test_not_twice(self):
        model = self.folded()
        InsertBatchNorm()(model)
        assert not InsertBatchNorm()(model).modified


class TestEvaluationForm:
    def test_training_mode_is_switched_off(self):
        net = Network(("N", 4, 8, 8))
        x = net.norm(net.image, 4, "bn")
        bn = x.producer()
        bn.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
        bn.resize_outputs(3)
        bn.outputs[1].name, bn.outputs[2].name = "mean", "var"
        drop = net.add("Dropout", [x, net.weight("r", np.float32(0.5)), net.weight("t", np.array(True))], "drop")
        model = net.model(drop)
        EvaluationForm()(model)
        assert [len(n.outputs) for n in model.graph] == [1, 1]
        assert [d.code for d in diagnostics(model)] == ["training-mode"]
        weights = {n: v.const_value.numpy().reshape(-1, 1, 1) for n, v in model.graph.initializers.items() if "bn" in n}
        image = image_of(model)
        expected = (image - weights["bn.mean"]) / np.sqrt(weights["bn.var"] + 1e-5) * weights["bn.scale"]
        np.testing.assert_allclose(run(model, image)[0], expected + weights["bn.bias"], rtol=1e-4, atol=1e-5)

    def test_a_zero_bias_before_a_normalization_goes(self):
        net = Network(("N", 3, 8, 8))
        x = net.conv(net.image, 3, 4, bias=True, name="conv")
        net.graph.initializers["conv.b"].const_value = ir.tensor(np.zeros(4, np.float32))
        model = net.model(net.norm(x, 4))
        EvaluationForm()(model)
        assert len(node(model, "conv").inputs) == 2
        assert "conv.b" not in model.graph.initializers


def test_a_long_chain_is_linear():
    """No recursion, and seconds for thousands of nodes."""
    net = Network()
    x = net.conv(net.image, 3, 4)
    for _ in range(4_000):
        x = net.add("Relu", [x])
    model = normalize(net.model(net.classifier(x, 4)))
    assert len(model.graph) == 4_001
