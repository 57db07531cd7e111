"""The search at a lower resolution than that of the emitted model."""

from __future__ import annotations

import sys

import onnx_ir as ir
import pytest
from helpers.bmtas import BMTAS, TWO, graphs
from helpers.compiling import QUICK, write_backbone
from helpers.graphs import GraphBuilder

from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import RunError
from onnxmtl.ir import load, save
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.policy import Layout
from onnxmtl.workflows import CompileConfig, compile, verify
from onnxmtl.workflows import load as load_network
from onnxmtl.workflows.method import resolve
from onnxmtl.workflows.smaller import carry_over


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("net") / "net.onnx", size=32)


def test_the_smaller_supermodel_is_the_same_but_smaller(net):
    """With ASPP, of which the size of the feature decides how many branches it has."""
    tasks = TaskSet.parse("seg=segmentation,depth,normals")
    made, small = graphs(net, tasks, search_input_size=(16, 16))
    assert small is not None and (small.data.input.height, small.data.input.width) == (16, 16)
    large = to_torch(made.supermodel)
    module = to_torch(small.supermodel)
    assert {n: tuple(t.shape) for n, t in large.tensors().items() if t.is_floating_point()} == {
        n: tuple(t.shape) for n, t in module.tensors().items() if t.is_floating_point()
    }
    assert all(bool((p == module.weight(name)).all()) for name, p in large.parameters_with().items())
    assert [(s.id, s.option_names) for s in site_table(small.supermodel).sites] == [
        (s.id, s.option_names) for s in site_table(made.supermodel).sites
    ]
    image = small.supermodel.graph.inputs[0]
    assert [int(d) for d in image.shape[2:]] == [16, 16]
    shapes = {v.name: [int(d) for d in v.shape[2:]] for v in small.supermodel.graph.outputs}
    assert shapes == {"seg": [16, 16], "depth": [16, 16], "normals": [16, 16]}


def test_what_is_learnt_is_carried_over(net):
    made, small = graphs(net, search_input_size=(16, 16))
    module = to_torch(small.supermodel)
    for name, tensor in module.tensors().items():
        if tensor.is_floating_point():
            tensor.data.fill_(len(name))
    carry_over(module, made.supermodel)
    learnt = {n for n, p in to_torch(made.supermodel).parameters_with().items()}
    for name, value in made.supermodel.graph.initializers.items():
        if name in learnt or "mean" in name:
            assert (value.const_value.numpy() == len(name)).all(), name
    assert [int(d) for d in made.supermodel.graph.inputs[0].shape[2:]] == [32, 32]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["automtl", "adashare"])
def test_other_recipes_search_smaller_too(net, tmp_path, recipe):
    done = compile(net, TWO, out=tmp_path / "run", **{**QUICK, "recipe": recipe, "search_input_size": (16, 16)})
    assert verify(done.model).passed and [int(d) for d in load(done.model).graph.inputs[0].shape[2:]] == [32, 32]


def test_another_supermodel_is_refused(net, tmp_path):
    """The user's head has other layers at another size."""
    (tmp_path / "own_head.py").write_text(
        "def head(builder, feature, task, image):\n"
        "    kernel = 3 if feature.shape[2] > 8 else 1\n"
        "    return builder.conv(feature, task.channels, kernel=kernel)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        tasks = TaskSet(tuple(t.replace(head="own_head:head") for t in TWO))
        with pytest.raises(RunError, match=r"--search-input-size 16x16: .* the supermodel is another one \(the weight"):
            compile(net, tasks, out=tmp_path / "run", **{**BMTAS, "search_input_size": (16, 16)})
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("own_head", None)
    assert not (tmp_path / "run").exists()


def test_blocks_of_equal_work_are_those_of_the_large_one(tmp_path):
    """At an odd size the parts of this network have other shares of its multiply-adds: its halves meet elsewhere."""
    b = GraphBuilder(size=32)
    x = b.block(b.image, 4, name="stem")
    for channels, stride in ((4, 1), (6, 2), (6, 1), (8, 2), (8, 1), (12, 2)):
        x = b.residual(x, channels, stride=stride)
    b.graph.outputs.append(x)
    save(ir.Model(b.graph, ir_version=10), tmp_path / "net.onnx")
    made, small = graphs(tmp_path / "net.onnx", TWO, search_input_size=(17, 17), space={"groups": 2})
    assert small is not None and (small.data.input.height, small.data.input.width) == (17, 17)
    large = [site.id for site in site_table(made.supermodel).sites]
    assert large == [site.id for site in site_table(small.supermodel).sites]
    alone = load_network(tmp_path / "net.onnx", input_size=(17, 17))
    assert large != [block.name for block in backbone_blocks(alone, 2)]


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"policy": "random"}, {"fixed": False}),
        ({}, {"fixed": True}),
        ({}, {"fixed": False, "layout": Layout.shared(TWO.names, 3)}),
    ],
)
def test_without_a_search_there_is_no_size_of_it(options, given):
    with pytest.raises(RunError, match="--search-input-size is for the search, and here nothing is searched"):
        resolve(None, CompileConfig(**options, search_input_size=(16, 16)), **given)
