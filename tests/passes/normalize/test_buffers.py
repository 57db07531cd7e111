"""What torch does not train is not trained here: buffers and plain tensors of a module, and what is made of them."""

from __future__ import annotations

import io
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import zoo
from helpers.line import whole_line
from helpers.networks import Network, run

from onnxmtl.frontends.torch import export
from onnxmtl.ir import Role, role_of
from onnxmtl.ops import is_constant, is_linear_op, mark_constant, trainable_values
from onnxmtl.passes.instruments import CheckInvariants, relative_error
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.buffers import MarkBuffers
from onnxmtl.passes.normalize.fold import FoldConstants

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
nn = torch.nn


class FrozenBatchNorm(nn.Module):
    """torchvision's: nothing but buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x):
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


class Net(nn.Module):
    """A position table, an anchor grid, a blur, a frozen normalization, a plain tensor; and what looks like them."""

    trained: ClassVar = {
        "stem.weight",
        "norm.weight",
        "norm.bias",
        "learnt",
        "scale",
        "mixed",
        "last.weight",
        "last.bias",
    }

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.frozen, self.last = FrozenBatchNorm(8), nn.Conv2d(8, 6, 3, 2, 1)
        self.register_buffer("positions", torch.rand(1, 8, 8, 8))
        self.register_buffer("anchors", torch.rand(8, 8), persistent=False)
        self.register_buffer("blur", torch.rand(8, 1, 3, 3))
        self.register_buffer("signs", torch.tensor([1.0, -1.0] * 4).reshape(8, 1, 1))
        self.learnt = nn.Parameter(torch.rand(1, 8, 8, 8))
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.mixed = nn.Parameter(torch.rand(8, 1, 1))
        self.table = torch.rand(8, 1, 1)
        self.fc = nn.Linear(6, 4)

    def body(self, x):
        x = torch.relu(self.norm(self.stem(x))) + self.positions + self.learnt
        x = nn.functional.conv2d(x * self.scale, self.blur, padding=1, groups=8) + self.table
        return torch.relu(self.last(self.frozen(x) + torch.sin(2 * self.anchors) + self.mixed * self.signs))

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class Branching(Net):
    """torch.export cannot capture it."""

    def body(self, x):
        return super().body(x) if float(x.sum()) > -1e9 else x


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


def trains_like_torch(model: ir.Model, net: Net, batches: tuple[int, ...] = (1, 3)) -> None:
    found = sum(value.const_value.size for value in trainable_values(model.graph))
    assert found == sum(p.numel() for name, p in net.named_parameters() if name in net.trained)
    assert not any(
        is_linear_op(node)
        for node in model.graph
        if "group" in node.attributes and node.attributes["group"].as_int() == 8
    )
    statistics = [v for v in model.graph.initializers.values() if role_of(v) is Role.STATISTIC]
    assert len(statistics) == 2 and not any(is_constant(value) for value in statistics)
    for batch in batches:
        image = np.random.default_rng(0).random((batch, 3, 16, 16), dtype=np.float32)
        with torch.no_grad():
            expected = net.body(torch.from_numpy(image)).numpy()
        (ours,) = run(model, image)
        assert relative_error(ours, expected) <= 1e-5


def test_a_module(net):
    trains_like_torch(normalize(export(net, torch.rand(1, 3, 16, 16)), instruments=[CheckInvariants()]), net)


def test_the_whole_line_with_fixed_kernels_and_tables(net, tmp_path):
    backbone = normalize(export(net, torch.rand(1, 3, 16, 16)))
    line = whole_line(backbone, tmp_path)
    assert line.report.passed
    before, after = (model.graph.initializers for model in (backbone, line.supermodel))
    for name in ("positions", "blur", "table"):
        np.testing.assert_array_equal(before[name].const_value.numpy(), after[name].const_value.numpy())
        assert [key for key in after if key.startswith(f"{name}/")] == []  # no task has a copy


def test_a_module_that_has_to_be_traced():
    torch.manual_seed(0)
    module = Branching().eval()
    raw = export(module, torch.rand(1, 3, 16, 16))
    assert not any("pkg.torch.onnx.original_node_name" in v.metadata_props for v in raw.graph.initializers.values())
    trains_like_torch(normalize(raw), module)


def test_a_file_of_the_default_exporter(net):
    raw = onnx.ModelProto.FromString(zoo.write(net, "dynamo-raw", size=(16, 16)))
    trains_like_torch(normalize(ir.from_proto(raw)), net)


def test_a_file_in_half_precision(net):
    """Marks stay where tensors are converted."""
    half = Net().eval()
    half.load_state_dict(net.state_dict())
    file = io.BytesIO()
    half.table = half.table.half()
    half.anchors = half.anchors.half()
    torch.onnx.export(half.half(), (torch.rand(2, 3, 16, 16).half(),), file, dynamo=True, optimize=False, verbose=False)
    model = normalize(ir.from_proto(onnx.ModelProto.FromString(file.getvalue())))
    found = sum(value.const_value.size for value in trainable_values(model.graph))
    assert found == sum(p.numel() for name, p in net.named_parameters() if name in net.trained)


# -- by hand ---------------------------------------------------------------------------------------------------------


def marked(model: ir.Model) -> set[str]:
    return {str(name) for name, value in model.graph.initializers.items() if is_constant(value)}


def test_only_what_the_exporter_calls_fixed_is_marked_once():
    net = Network((1, 4, 8, 8))
    x = net.norm(net.conv(net.image, 4, 4, name="conv"), 4, "norm")
    weights = {name: net.weight(name, net.normal(4, 1, 1)) for name in ("buffer", "tensor", "parameter", "unknown")}
    for value in weights.values():
        x = net.add("Add", [x, value])
    numbers = net.weight("numbers", [0, 4, -1])
    kinds = {"buffer": "BUFFER", "tensor": "CONSTANT_TENSOR", "parameter": "PARAMETER", "norm.mean": "BUFFER"}
    kinds |= {"norm.var": "BUFFER", "numbers": "BUFFER"}
    for name, kind in kinds.items():
        net.graph.initializers[name].metadata_props["pkg.torch.export.graph_signature.InputSpec.kind"] = kind
    model = net.model(net.add("Reshape", [x, numbers]))
    assert MarkBuffers()(model).modified
    assert marked(model) == {"buffer", "tensor"}
    assert not MarkBuffers()(model).modified
    trained = {value.name for value in trainable_values(model.graph)}
    assert trained == {"conv.w", "norm.scale", "norm.bias", "parameter", "unknown"}


@pytest.mark.parametrize(
    ("op", "other", "expected"),
    [
        ("Mul", np.float32(2), True),  # a number of the formula
        ("Mul", np.ones((4, 1, 1), np.float32), False),  # may be a weight
        ("Add", "marked", True),
        ("Gather", np.array([2, 1]), True),
        ("Sin", None, True),
        ("Cast", None, False),  # whole numbers are no weights anyway
    ],
)
def test_what_is_folded_from_constants_alone_is_one(op, other, expected):
    net = Network((1, 4, 8, 8))
    constant = net.weight("constant", net.normal(4, 1, 1))
    mark_constant(constant, "buffer")
    inputs = [constant]
    if isinstance(other, str):
        inputs.append(net.weight("second", net.normal(4, 1, 1)))
        mark_constant(inputs[1], "buffer")
    elif other is not None:
        inputs.append(net.weight("second", np.asarray(other)))
    attributes = {"to": ir.DataType.INT64.value} if op == "Cast" else {}
    folded = net.add(op, inputs, "folded", **attributes)
    if op == "Cast":
        out = net.add("Reshape", [net.image, net.add("Abs", [folded])])
    else:
        out = net.add(
            "Mul", [net.add("Relu", [net.image]), folded if op != "Gather" else net.add("ReduceMax", [folded])]
        )
    model = net.model(out)
    FoldConstants()(model)
    (value,) = [v for v in model.graph.initializers.values() if v.uses()]
    assert is_constant(value) == expected
    assert (value in trainable_values(model.graph)) == (not expected and op != "Cast")
