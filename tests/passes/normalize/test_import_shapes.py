"""The passes of the import pipeline that set sizes and shapes, one by one."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.networks import Network, codes, image_of, node, run, small_network

from onnxmtl.analysis.features import read_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import make_choice, new_initializer
from onnxmtl.passes.instruments import CheckInvariants, find_violation, relative_error
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.batch import DynamicBatch
from onnxmtl.passes.normalize.features import CutAtFeatures
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.shapes import InferShapes, infer_shapes


class TestDynamicBatch:
    def opened(self, net: Network, *outputs: ir.Value) -> ir.Model:
        model = net.model(*outputs)
        x = np.concatenate([image_of(model, 1, seed) for seed in range(3)])
        expected = [run(model, x[i : i + 1]) for i in range(3)]
        NameNodes()(model)
        FoldConstants()(model)
        DynamicBatch()(model)
        for k, actual in enumerate(run(model, x)):
            np.testing.assert_allclose(actual, np.concatenate([e[k] for e in expected]), rtol=1e-6, atol=1e-6)
        return model

    @pytest.mark.parametrize(
        ("target", "allowzero", "expected"),
        [
            ([1, 2, 2, 4, 4], 0, [-1, 2, 2, 4, 4]),
            ([1, 2, 2, 4, 4], 1, [-1, 2, 2, 4, 4]),
            ([1, -1], 0, [-1, 64]),
            ([1, -1], 1, [-1, 64]),
            ([1, 0, -1], 0, [-1, 4, 16]),
            ([4, 16], 0, [-1, 16]),
            ([0, -1], 0, [0, -1]),
            ([-1, 64], 0, [-1, 64]),
            ([-1, 64], 1, [-1, 64]),
        ],
    )
    def test_reshape(self, target, allowzero, expected):
        net = Network((1, 4, 4, 4))
        view = net.add("Reshape", [net.image, net.weight("t", np.array(target))], "view", allowzero=allowzero)
        back = net.add("Reshape", [view, net.weight("b", np.array([-1, 4, 4, 4]))], "back")
        model = self.opened(net, back)
        assert node(model, "view").inputs[1].const_value.numpy().tolist() == expected
        assert model.graph.outputs[0].shape[0] == ir.SymbolicDim("N")

    @pytest.mark.parametrize("size", [8, 7])
    def test_resize_to_a_size(self, size):
        net = Network((1, 3, 4, 4))
        sizes = net.weight("sizes", np.array([1, 3, size, size]))
        model = self.opened(net, net.add("Resize", [net.image, None, None, sizes], "up", mode="linear"))
        assert list(model.graph.outputs[0].shape)[1:] == [3, size, size]
        assert codes(model) == ["batch-opened"]

    def test_a_batch_that_cannot_be_opened_is_refused_by_name(self):
        net = Network((2, 4, 4, 4))
        token = net.weight("token", net.normal(2, 4, 4, 4))  # another one for each image
        model = net.model(net.add("Concat", [net.image, token], "join", axis=1))
        infer_shapes(model)
        with pytest.raises(ModelError, match=r"'token'.*'join'"):
            DynamicBatch()(model)

    def test_a_batch_lost_in_a_reshape_is_refused_by_name(self):
        net = Network((2, 4, 4, 4))
        x = net.add("Transpose", [net.image], "t", perm=[1, 0, 2, 3])
        model = net.model(net.add("Reshape", [x, net.weight("s", np.array([2, 4, 4, 4]))], "mix"))
        infer_shapes(model)
        with pytest.raises(ModelError, match=r"batch size is baked into"):
            DynamicBatch()(model)


class TestShapes:
    def test_an_impossible_node_is_named(self):
        net = Network()
        model = net.model(net.add("Add", [net.conv(net.image, 3, 4), net.conv(net.image, 3, 5)], "sum"))
        with pytest.raises(ModelError, match=r"'sum' \(Add\).*\[1, 4, 16, 16\].*\[1, 5, 16, 16\]"):
            infer_shapes(model)

    def test_channels_of_a_convolution(self):
        net = Network()
        model = net.model(net.conv(net.image, 5, 4, name="wrong"))
        with pytest.raises(ModelError, match=r"'wrong' \(Conv\).*3 channels.*wants 5"):
            infer_shapes(model)

    def test_a_window_larger_than_its_image(self):
        net = Network((1, 3, 4, 4))
        model = net.model(net.conv(net.image, 3, 4, k=7, pads=[1] * 4, stride=2, name="large"))
        with pytest.raises(ModelError, match=r"too small.*'large'"):
            infer_shapes(model)

    def test_complete_names_the_unknown_value(self):
        net = Network((1, 3, "h", 16))
        model = net.model(net.conv(net.image, 3, 4, name="conv"))
        with pytest.raises(ModelError, match=r"dimension 2 of 'conv_out'"):
            InferShapes(complete=True)(model)

    def test_a_choice_has_its_options_type(self):
        net = Network(("N", 3, 8, 8))
        options = [("shared", net.conv(net.image, 3, 4)), ("own", net.conv(net.image, 3, 4))]
        logits = new_initializer(net.graph, "logits", np.zeros(2, np.float32))
        choice = make_choice(options, logits, site="s", task="t", name="choice", output="y")
        net.graph.append(choice)
        model = net.model(net.add("Relu", [choice.outputs[0]], "relu"))
        infer_shapes(model, complete=True)
        assert list(node(model, "relu").outputs[0].shape) == [ir.SymbolicDim("N"), 4, 8, 8]

    def test_agrees_with_onnx_on_the_whole_model(self):
        model = small_network()
        whole = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True, data_prop=True)
        infer_shapes(model)
        mine = {v.name: list(v.shape) for n in model.graph for v in n.outputs if not v.is_graph_output()}
        known = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in whole.graph.value_info}
        assert mine == {name: known[name] for name in mine}


class TestCut:
    def prepared(self) -> ir.Model:
        model = small_network()
        NameNodes()(model)
        infer_shapes(model)
        return model

    def test_several_features_in_the_order_asked_for(self):
        model = self.prepared()
        CutAtFeatures(["out", "stem_relu_out"])(model)
        assert [(f.name, f.stride, f.channels) for f in read_features(model)] == [
            ("out_out", 4, 6),
            ("stem_relu_out", 2, 4),
        ]
        assert "fc" not in [n.name for n in model.graph]
        assert "fc.w" not in model.graph.initializers

    def test_the_image_itself_as_one_of_them(self):
        model = self.prepared()
        CutAtFeatures(["image", "out"])(model)
        x = image_of(model, 1)
        np.testing.assert_array_equal(run(model, x)[0], x)
        assert [f.stride for f in read_features(model)] == [1, 4]
        assert find_violation(model.graph) is None

    def test_the_image_alone_is_refused(self):
        with pytest.raises(ModelError, match=r"the image itself"):
            CutAtFeatures(["image"])(self.prepared())

    def test_a_wrong_name(self):
        with pytest.raises(ModelError, match=r"no tensor or node 'outt'.*out"):
            CutAtFeatures(["outt"])(self.prepared())

    def test_no_feature_map(self):
        with pytest.raises(ModelError, match=r"'fc_out' is no feature map"):
            CutAtFeatures(["fc"])(self.prepared())


class TestInputSize:
    def test_another_size(self):
        model = normalize(small_network(), input_size=(32, 48), instruments=[CheckInvariants()])
        assert list(model.graph.inputs[0].shape)[1:] == [3, 32, 48]
        assert run(model, image_of(model))[0].shape == (2, 6, 8, 12)
        fully_convolutional = normalize(small_network(("N", 3, 32, 48)))
        assert relative_error(run(fully_convolutional, image_of(model))[0], run(model, image_of(model))[0]) <= 1e-6

    def test_an_open_size(self):
        with pytest.raises(ModelError, match=r"--input-size HxW"):
            normalize(small_network((1, 3, "h", "w")))
        model = normalize(small_network((1, 3, "h", "w")), input_size=(32, 32))
        assert list(model.graph.outputs[0].shape)[1:] == [6, 8, 8]

    def test_channel_shuffle(self):
        net = Network((1, 4, 8, 8))
        x = net.conv(net.image, 4, 4)
        x = net.add("Reshape", [x, net.weight("a", np.array([1, 2, 2, 8, 8]))])
        x = net.add("Transpose", [x], perm=[0, 2, 1, 3, 4])
        x = net.add("Reshape", [x, net.weight("b", np.array([1, 4, 8, 8]))])
        model = normalize(net.model(net.conv(x, 4, 4)), input_size=(12, 16))
        assert run(model, image_of(model))[0].shape == (2, 4, 12, 16)

    def test_a_baked_size_is_refused(self):
        net = Network((1, 4, 8, 8))
        x = net.add("Add", [net.conv(net.image, 4, 4), net.weight("position", net.normal(1, 4, 8, 8))], "add")
        with pytest.raises(ModelError, match=r"does not take 12x16.*'add'"):
            normalize(net.model(net.conv(x, 4, 4)), input_size=(12, 16))

    def test_too_small(self):
        net = Network((1, 3, 16, 16))
        x = net.conv(net.image, 3, 4, k=7, pads=[0] * 4, stride=2, name="large")
        with pytest.raises(ModelError, match=r"too small.*'large'"):
            normalize(net.model(x), input_size=(4, 4))
