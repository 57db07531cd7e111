"""What TreeMTL's authors recorded for NYUv2: from their table and AutoMTL's prototxt to the paper's top 5."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxmtl.workflows import recommend
from onnxmtl.workflows.recommending.asking import Blocks

SHARED = Path(os.environ.get("ONNXMTL_SHARED", Path(__file__).parents[4] / "shared")) / "data"
TABLE = SHARED / "treemtl/NYUv2_2task_metrics_resnet_1129_val_acc.csv"
BACKBONE = SHARED / "automtl/deeplab_resnet34.prototxt"

# Layout, score (scores_NYUv2_…csv), reduction of backbone multiply-adds in percent (TreeMTL, Table 2).
RECORDED = (
    (45, 4.041875456304786, -36.56),
    (0, 3.9328447363850545, -66.67),
    (50, 3.8195855271596617, -46.87),
    (37, 3.669758975077906, -34.87),
    (49, 3.5462145942630885, -46.87),
)


@pytest.mark.slow
@pytest.mark.skipif(not (TABLE.is_file() and BACKBONE.is_file()), reason="the shared data are not here")
def test_the_recorded_top_five_with_their_reductions(tmp_path):
    done = recommend(
        BACKBONE, "seg=segmentation:40,normals,depth", two_task=TABLE, blocks=Blocks(sizes=(1, 3, 4, 6, 3)), top=5,
        out=tmp_path / "run",
    )  # fmt: skip
    found = done.recommendation
    separate = found.separate["multiply_adds_trunk"]
    rows = [
        (row.layout.number, row.score, 100 * (row.costs["multiply_adds_trunk"] / separate - 1)) for row in found.layouts
    ]
    assert [row[0] for row in rows] == [recorded[0] for recorded in RECORDED]
    assert [row[1] for row in rows] == pytest.approx([recorded[1] for recorded in RECORDED], abs=1e-12)
    assert [row[2] for row in rows] == pytest.approx([recorded[2] for recorded in RECORDED], abs=0.05)
