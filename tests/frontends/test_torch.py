"""Torch modules in: the same numbers in evaluation and in training, everything that can be trained still there."""

from __future__ import annotations

import copy
import json

import numpy as np
import onnx_ir as ir
import pytest
import torch
from helpers import zoo
from torch import nn

import onnxmtl
from onnxmtl import runtime
from onnxmtl.errors import ModelError
from onnxmtl.frontends.torch import export
from onnxmtl.ir import diagnostics, to_bytes
from onnxmtl.lowering import to_torch
from onnxmtl.passes.instruments import relative_error


class Net(nn.Module):
    """Two normalizations, one with a momentum of its own, Dropout, a residual; returns `form` of three tensors."""

    def __init__(self, form=lambda x, y, z: {"map": x, "scores": y, "aux": z}) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8, momentum=0.01, eps=1e-3), nn.ReLU())
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(8, 5)
        for norm in (self.norm, self.block[1]):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, image):
        x = torch.relu(self.norm(self.stem(image)))
        x = self.block(x) + x
        y = self.head(self.drop(x.mean((2, 3))))
        return self.form(x, y, y.sigmoid())


def image(batch: int, size: int = 16) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def answers(model: ir.Model, *inputs: torch.Tensor) -> dict[str, np.ndarray]:
    names = [str(value.name) for value in model.graph.inputs]
    return runtime.run(to_bytes(model), dict(zip(names, (t.numpy() for t in inputs), strict=True)))


@pytest.fixture(scope="module")
def exported():
    return export(Net(), image(1))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_any_batch_and_the_names_of_a_dict(exported):
    module = Net().eval()
    for batch in (1, 2, 5):
        found = answers(exported, image(batch))
        expected = module(image(batch))
        assert list(found) == ["map", "scores", "aux"]
        for name, array in found.items():
            assert relative_error(array, expected[name].detach().numpy()) < 1e-5


def test_normalization_and_dropout_are_kept(exported):
    norms = [node for node in exported.graph if node.op_type == "BatchNormalization"]
    assert [round(node.attributes.get_float("momentum", 0.9), 4) for node in norms] == [0.9, 0.99]
    assert norms[1].attributes.get_float("epsilon") == pytest.approx(1e-3)
    (dropout,) = (node for node in exported.graph if node.op_type == "Dropout")
    assert len(dropout.inputs) == 2  # asleep until somebody trains


def test_every_parameter_is_there_under_its_name(exported):
    module = Net()
    for name, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(exported.graph.initializers[name].const_value.numpy(), tensor.detach())


def test_nodes_are_called_after_their_modules(exported):
    names = {str(node.name) for node in exported.graph}
    assert {"stem", "norm", "block.0", "block.1", "block.2", "drop", "head"} <= names
    assert len(names) == len(exported.graph)
    conv = next(node for node in exported.graph if node.name == "block.0")
    assert "pkg.torch.onnx.name_scopes" in conv.metadata_props


def test_nothing_of_this_machine_is_in_it(exported):
    assert b"/torch/nn/modules" not in to_bytes(exported) and b"File " not in to_bytes(exported)


def test_the_weights_are_copies(exported):
    module = Net()
    model = export(module, image(2))
    before = to_bytes(model)
    with torch.no_grad():
        module.stem.weight.mul_(2)
    assert to_bytes(model) == before


def test_twice_is_the_same_bytes(exported):
    assert to_bytes(export(Net(), image(1))) == to_bytes(exported)


@pytest.mark.parametrize("mode", ["train", "mixed"])
def test_the_module_is_left_as_it_was(mode):
    module = Net().train()
    if mode == "mixed":
        module.block.eval()
    flags = [part.training for part in module.modules()]
    state = copy.deepcopy(module.state_dict())
    pointers = {name: p.data_ptr() for name, p in module.named_parameters()}
    export(module, image(1))
    assert [part.training for part in module.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert {name: p.data_ptr() for name, p in module.named_parameters()} == pointers
    assert not module._forward_hooks and all(p.requires_grad for p in module.parameters())


def test_training_uses_batch_statistics_as_the_module_does():
    """Lowered and in train mode: outputs, gradients and running statistics of one step."""
    module = Net(lambda x, y, z: x)
    lowered = to_torch(onnxmtl.load(module, image(1)))
    module.train()
    lowered.train()
    expected = module(image(4))
    (found,) = lowered(image(4)).values()
    assert relative_error(found.detach().numpy(), expected.detach().numpy()) < 1e-5
    assert relative_error(found.detach().numpy(), module.eval()(image(4)).detach().numpy()) > 1e-2
    expected.square().mean().backward()
    found.square().mean().backward()
    theirs = {tuple(p.shape): p.grad for p in (module.stem.weight, module.block[0].weight)}
    ours = {tuple(p.shape): p.grad for p in lowered.parameters() if p.dim() == 4}
    assert ours.keys() == theirs.keys()
    for shape, gradient in theirs.items():
        assert relative_error(ours[shape].numpy(), gradient.numpy()) < 1e-4
    means = [b for n, b in lowered.named_buffers() if "running_mean" in n]
    for norm in (module.norm, module.block[1]):
        assert any(torch.allclose(mean, norm.running_mean, atol=1e-6) for mean in means)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda x, y, z: y, ["output"]),
        (lambda x, y, z: (x, y), ["output_0", "output_1"]),
        (lambda x, y, z: {"a": [x, y], "n": None, "k": 3}, ["a_0", "a_1"]),
        (lambda x, y, z: {"image": x, "same": y, "again": y}, ["image_out", "same", "again"]),
    ],
    ids=["one", "tuple", "nested, with other things", "the input's name, one tensor twice"],
)
def test_outputs_and_their_names(form, names):
    module = Net(form).eval()
    found = answers(export(module, image(2)), image(3))
    expected = [t for t in torch.utils._pytree.tree_leaves(module(image(3))) if isinstance(t, torch.Tensor)]
    assert list(found) == names
    for array, tensor in zip(found.values(), expected, strict=True):
        assert relative_error(array, tensor.detach().numpy()) < 1e-5


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image, scale=None):
        return self.conv(image) * (2 if scale is None else scale)


@pytest.mark.parametrize(
    "example", [(image(2), torch.ones(2, 1, 1, 1)), {"image": image(2), "scale": torch.ones(2, 1, 1, 1)}]
)
def test_several_inputs(example):
    module = Two().eval()
    model = export(module, example)
    scale = torch.rand(3, 1, 1, 1)
    assert [value.name for value in model.graph.inputs] == ["image", "scale"]
    (found,) = answers(model, image(3), scale).values()
    assert relative_error(found, module(image(3), scale).detach().numpy()) < 1e-5


class Branching(nn.Module):
    """Decides by its data: torch.export refuses that, tracing takes the branch it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.b.load_state_dict(self.a.state_dict())  # equal values are no tie
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image):
        x = self.norm(self.a(image))
        return x + self.b(image) if float(image.abs().sum()) > 0 else x


def test_what_cannot_be_captured_is_traced_and_said():
    module = Branching().eval()
    model = export(module, image(2))
    assert relative_error(answers(model, image(3))["output"], module(image(3)).detach().numpy()) < 1e-5
    assert "BatchNormalization" in operators(model)
    assert {"a.weight", "b.weight"} <= set(model.graph.initializers)
    (remark,) = (d for d in diagnostics(model) if d.code == "torch-traced")
    assert "test_torch.py" in remark.message and "\n" not in remark.message


class Strange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.sort(x.numpy()))

    @staticmethod
    def symbolic(g, x):
        raise RuntimeError("no symbol for Strange")


class Impossible(nn.Module):
    def forward(self, image):
        return Strange.apply(image * 2)


def test_what_cannot_be_exported_at_all():
    with pytest.raises(ModelError) as caught:
        export(Impossible(), image(2))
    message = str(caught.value)
    assert message.startswith("Impossible: torch cannot export it: ") and "\n" not in message
    assert "plain tensor operators" in message


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (torch.zeros(1, 4, 8, 8), "does not run on the example input"),
        ("image.png", "the example input is a str; give a tensor"),
        ((1, 2), "the example input is a tuple; give a tensor"),
        ({"picture": image(1)}, "does not fit its forward"),
    ],
)
def test_wrong_examples(example, words):
    with pytest.raises(ModelError) as caught:
        export(Net(), example)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_random_layers_without_an_operator_are_said():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5))
    (remark,) = (d for d in diagnostics(export(module, image(2))) if d.code == "dropout-left-out")
    assert remark.message.endswith("left out: 1")


def test_double_precision_which_the_runtime_cannot_run():
    module = nn.Conv2d(3, 4, 3).double()
    model = export(module, image(2).double())
    assert model.graph.outputs[0].dtype is ir.DataType.DOUBLE
    backbone = onnxmtl.load(module, image(2).double())
    (found,) = answers(backbone, image(3)).values()
    assert relative_error(found, module(image(3).double()).detach().float().numpy()) < 1e-5


def test_nothing_is_printed(capfd):
    export(nn.Conv2d(3, 4, 3), image(1))
    captured = capfd.readouterr()
    assert not captured.out and not captured.err


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_every_network_of_the_zoo(name):
    module = zoo.NETWORKS[name]()
    model = export(module, torch.randn(1, 3, zoo.SIZE, zoo.SIZE))
    x = torch.randn(3, 3, zoo.SIZE, zoo.SIZE)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(module.eval()(x))
    for array, tensor in zip(answers(model, x).values(), expected, strict=True):
        assert relative_error(array, tensor.numpy()) < 1e-5
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert operators(model).count("BatchNormalization") == len(norms)
    scopes = {json.dumps(node.metadata_props.get("pkg.torch.onnx.name_scopes")) for node in model.graph}
    assert len(scopes) > 5
    trainable = sum(p.numel() for p in module.parameters())
    stored = sum(
        value.const_value.size
        for value_name, value in model.graph.initializers.items()
        if value_name in dict(module.named_parameters())
    )
    assert stored == trainable


def test_torchscript_is_refused():
    with pytest.raises(ModelError, match="is compiled TorchScript"):
        export(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3))), image(1))
