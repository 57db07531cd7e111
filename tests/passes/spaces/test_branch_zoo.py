"""The branch space on backbones that people bring: built, trained, selected, emitted, verified; and as a tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import zoo
from helpers.line import TASKS, whole_line
from helpers.skipping import random_architecture

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost import count_architecture
from onnxmtl.cost.count import count
from onnxmtl.deploy.structure import structural_signature
from onnxmtl.ir import choices, clone, to_bytes
from onnxmtl.ir import load as load_graph
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import Branch, Tree, layout_blocks
from onnxmtl.policy import block_names, layout_of

FRONTIERS = {"unet": 3, "unet_resize": 3, "fpn": 3}  # as many maps are alive between encoder and decoder
FAST = ("resnet18", "unet")
CASES = [
    pytest.param(name, exporter, marks=[] if exporter == "legacy-train" and name in FAST else pytest.mark.slow)
    for name in zoo.NETWORKS
    for exporter in zoo.EXPORTERS
]


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_the_whole_line_on_the_zoo(name: str, exporter: zoo.Exporter, tmp_path: Path) -> None:
    """A supermodel whose weights all get a gradient; the emitted model computes in ONNX Runtime what torch did."""
    pytest.importorskip("onnxscript")
    space = Branch(frontier=FRONTIERS.get(name, 1))
    line = whole_line(zoo.backbone(name, exporter), tmp_path, fold=exporter != "dynamo-raw", space=space)
    assert len(site_table(line.supermodel).sites) >= 4
    assert not any(True for _ in choices(line.selected.graph))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in zoo.NETWORKS]
)
def test_the_selected_model_is_the_tree_of_its_layout(name: str) -> None:
    """Operators, tasks and sharing of weights are those of the pass `Tree`; so are the costs."""
    pytest.importorskip("onnxscript")
    backbone = zoo.backbone(name, "legacy-train")
    graph = Pipeline([AttachHeads(TASKS)])(clone(backbone)).model
    supermodel = Pipeline([Branch(frontier=FRONTIERS.get(name, 1))])(clone(graph)).model
    table = site_table(supermodel)
    architecture = random_architecture(table, 3)
    layout = layout_of(table, architecture, block_names(supermodel))
    tree = Pipeline([Tree(layout, layout_blocks(backbone, layout))])(clone(graph)).model
    selected = Pipeline(select_passes(architecture))(supermodel).model
    assert structural_signature(selected) == structural_signature(tree)
    found, expected = count(selected), count(tree)
    assert found == expected
    assert count_architecture(table, architecture) == (expected.parameters, expected.multiply_adds)


def test_a_saved_supermodel_is_read_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = Pipeline([AttachHeads(TASKS), Branch(affine="not-last")])(zoo.backbone("resnet18", "legacy-train")).model
    (tmp_path / "supermodel.onnx").write_bytes(to_bytes(model))
    again = load_graph(tmp_path / "supermodel.onnx")
    assert site_table(again) == site_table(model) and block_names(again) == block_names(model) != ()
    architecture = random_architecture(site_table(model), 0)
    one, two = (Pipeline(select_passes(architecture))(each).model for each in (model, again))
    assert to_bytes(one) == to_bytes(two)
