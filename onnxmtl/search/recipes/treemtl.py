"""TreeMTL (Zhang, Liu, Guan, AutoML 2022): the tree is given, by a recommendation or by the user; here it is trained.

There is no search and no policy: one stage trains all tasks together. ``onnxmtl recommend`` ranks trees and trains the
two-task models it needs with this recipe, too. The default has a learning rate that falls with a cosine.
``released`` is the authors' code: Adam with betas of 0.5 and 0.999, halved every 4000 steps. It also draws the
weights of the backbone anew; ours start from those of the file, or are drawn where it has none.
"""

from __future__ import annotations

from onnxmtl.search.presets import Preset, StagePreset, register_preset
from onnxmtl.search.recipe import Recipe, Stage, register_recipe
from onnxmtl.train.optimizers import OptimizerSpec

_ADAM = OptimizerSpec("adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4, schedule="cosine")
_RELEASED = OptimizerSpec(
    "adam", lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-4, schedule="step", decay=0.5, every=4000
)

# Name, iterations, crop (the loader's), classes.
_PUBLISHED = (("nyuv2", 20_000, 321, 40), ("nyuv2-13", 20_000, 321, 13), ("taskonomy", 50_000, 224, 17))


@register_recipe
def treemtl() -> Recipe:
    """The default recipe."""
    return Recipe(
        name="treemtl", space="tree", stages=(Stage("train", share=1.0, relaxation="selected", weights=_ADAM),)
    )


@register_recipe
def treemtl_released() -> Recipe:
    """As the authors' code trains."""
    stage = Stage("train", share=1.0, relaxation="selected", weights=_RELEASED, reference=20_000)
    return Recipe(name="treemtl", variant="released", space="tree", stages=(stage,))


def _register() -> None:
    losses = dict.fromkeys(("segmentation", "normals", "depth", "keypoints", "edges"), 1.0)
    source = "TreeMTL's code (methods.md, 2.3)"
    for name, steps, crop, classes in _PUBLISHED:
        stages = {"train": StagePreset(steps, 1e-3, decay=(0.5, 4_000))}
        register_preset("treemtl", Preset(name, source, stages, 16, crop, classes, losses, {}), "", "released")


_register()
