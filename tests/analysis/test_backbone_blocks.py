"""The blocks in which tasks branch off: found, grouped by numbers of found ones, named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder

from onnxmtl import ops
from onnxmtl.analysis.blocks import backbone_blocks, blocks
from onnxmtl.errors import ModelError
from onnxmtl.frontends import prototxt
from onnxmtl.passes.normalize import normalize
from onnxmtl.policy import Layout

FILES = Path(os.environ.get("ONNXMTL_SHARED", "../shared")) / "data"
RESNET34 = FILES / "automtl" / "deeplab_resnet34_adashare.prototxt"
recorded = pytest.mark.skipif(not RESNET34.is_file(), reason="the shared data are not there ($ONNXMTL_SHARED)")


@pytest.fixture
def backbone():
    """Six blocks: a stem, four residual ones, a convolution."""
    b = GraphBuilder(size=8)
    x = b.block(b.image, 4, name="stem")
    for i in range(4):
        x = b.residual(x, 4)
        x.name = f"res{i}"
    x = b.block(x, 4, name="last")
    x.name = "end"
    b.graph.outputs.append(x)
    return ir.Model(b.graph, ir_version=10)


def nodes(found):
    return [[node.name for node in block.nodes] for block in found]


def joined(found):
    return [node.name for block in found for node in block.nodes]


def test_found_counted_and_grouped(backbone):
    fine = backbone_blocks(backbone)
    assert [block.name for block in fine][1:] == ["res0", "res1", "res2", "res3", "end"]
    assert nodes(fine) == nodes(blocks(backbone.graph))
    assert nodes(backbone_blocks(backbone, 3)) == nodes(blocks(backbone.graph, groups=3))
    coarse = backbone_blocks(backbone, (1, 3, 2))
    assert [block.name for block in coarse] == [fine[0].name, "res2", "end"]
    assert [block.index for block in coarse] == [0, 1, 2]
    assert nodes(coarse) == [joined(fine[a:b]) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert nodes(backbone_blocks(backbone, at=["res0", "res2"])) == nodes(blocks(backbone.graph, at=["res0", "res2"]))
    assert nodes(backbone_blocks(backbone, (1, 2), at=["res0", "res2"])) == [
        joined(fine[:2]),
        joined(fine[2:]),
    ]


@pytest.mark.parametrize("groups", [(1, 3), (1, 3, 3), (0, 3, 3), (7, -1), ()])
def test_groups_that_do_not_fit(groups, backbone):
    with pytest.raises(ModelError, match=r"the backbone has 6 blocks, so groups of .* sum to 6$"):
        backbone_blocks(backbone, groups)


@recorded
def test_the_five_blocks_of_treemtl():
    """17 blocks as TreeMTL's detector finds them; five of them, and the paper's reductions of the top 5 layouts."""
    backbone = normalize(prototxt.load(RESNET34))
    expected = json.loads((FILES / "treemtl" / "blocks_deeplab_resnet34.json").read_text())
    fine = backbone_blocks(backbone)
    assert [sorted(names) for names in nodes(fine)] == [sorted(names) for names in expected]
    costs = [sum(map(ops.multiply_adds, block.nodes)) for block in backbone_blocks(backbone, (1, 3, 4, 6, 3))]
    published = {45: -36.56, 0: -66.67, 50: -46.87, 37: -34.87, 49: -46.87}
    for number, reduction in published.items():
        layout = Layout.from_id(("seg", "normals", "depth"), 5, number)
        found = 100 * (layout.cost(costs) / (3 * sum(costs)) - 1)
        assert found == pytest.approx(reduction, abs=0.05)
