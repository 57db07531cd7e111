"""A search method of your own: a recipe is data, a regularizer is a function of the table of sites.

python samples/custom_recipe.py [--steps 400] [--train-size 0] [--out DIR]

The recipe has no warm-up, runs one sampled option per site in weight steps, pays for expected parameters, and wants
depth and normals to choose alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import onnxmtl
from onnxmtl.analysis.table import SiteTable
from onnxmtl.deploy.report import plain
from onnxmtl.search import PolicyView, Recipe, Stage, Temperature, register_recipe, register_regularizer
from onnxmtl.search.regularizers import Regularizer
from onnxmtl.train.optimizers import OptimizerSpec

BACKBONE = Path(__file__).parent / "backbones" / "resnet18-small.onnx"


@register_regularizer("geometry_together")
def geometry_together(table: SiteTable) -> Regularizer:
    """Expected share of sites where depth and normals choose differently: 1 − mean over sites of Σ_o p_d(o) p_n(o)."""
    depth, normals = table.tasks.index("depth"), table.tasks.index("normals")

    def value(view: PolicyView) -> torch.Tensor:  # view.sample: one tensor [tasks, options] per site
        return 1.0 - torch.stack([(p[depth] * p[normals]).sum() for p in view.sample]).mean()

    return value


@register_recipe
def quick() -> Recipe:
    """Two stages of equal length."""
    weights = OptimizerSpec("adam", lr=1e-3)
    return Recipe(
        name="quick",
        space="vcn",
        stages=(
            Stage(
                "search",
                share=1 / 2,
                relaxation="hard-gumbel",  # weight steps run one option per site; policy steps stay soft
                weights=weights,
                policy=OptimizerSpec("adam", lr=5e-2, betas=(0.5, 0.999)),
                alternate=(1, 2),
                temperature=Temperature(5.0, 0.5, "linear"),
            ),
            Stage("train", share=1 / 2, relaxation="selected", weights=weights),
        ),
        regularizers={"parameters": 0.2, "geometry_together": 0.05},
    )


def main() -> None:
    """Compile with the recipe."""
    parser = argparse.ArgumentParser(description="Compile with a recipe of one's own.")
    parser.add_argument("--steps", type=int, default=400, help="steps of the whole search")
    parser.add_argument("--train-size", type=int, default=0, help="training images; 0: the data set's default")
    parser.add_argument("--out", help="directory of the run; default: the next free runs/compile-N")
    args = parser.parse_args()
    result = onnxmtl.compile(
        BACKBONE,
        "seg=segmentation,depth,normals",
        recipe="quick",
        steps=args.steps,
        train_size=args.train_size,
        val_size=args.train_size // 4,
        baselines=(),
        out=args.out,
    )
    print(plain(result.report))


if __name__ == "__main__":
    main()
