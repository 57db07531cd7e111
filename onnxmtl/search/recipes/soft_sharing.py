"""Soft sharing: the relatives of MTL-NAS, whose architecture is given. There is no policy and nothing to search.

``cross-stitch`` (Misra et al., CVPR 2016), ``sluice`` (Ruder et al., AAAI 2019) and ``nddr`` (NDDR-CNN, Gao et al.,
CVPR 2019) begin with networks of their own for all tasks, trained alone, and train on with units between them; ``mtan``
(Liu et al., CVPR 2019) has one shared trunk with attention for every task. ``nddr``'s variant ``supernet`` joins all
layers at equal places in the networks, not the ends of their stages alone (NDDR-CNN (SuperNet) in MTL-NAS, Table A1).

A stitch is one number, or one per channel, and stands for many weights: as in the paper it learns faster (theirs: SGD
with factors of 100 and more; here Adam, whose steps do not shrink with the gradient, with 10).
"""

from __future__ import annotations

import dataclasses

from onnxmtl.search.recipe import Recipe, Stage, register_recipe
from onnxmtl.train.optimizers import OptimizerSpec

_ADAM = OptimizerSpec("adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4)
_FALLING = dataclasses.replace(_ADAM, schedule="cosine")
_STITCHES = dataclasses.replace(_FALLING, factors={"fusion": 10.0})
_NETWORKS = Stage("networks", share=0.5, relaxation="separate", weights=_ADAM)


@register_recipe
def cross_stitch() -> Recipe:
    """Cross-stitch networks."""
    train = Stage("train", share=0.5, relaxation="selected", weights=_STITCHES)
    return Recipe(name="cross-stitch", space="cross_stitch", stages=(_NETWORKS, train))


@register_recipe
def sluice() -> Recipe:
    """Sluice networks; the penalty keeps the two subspaces of every layer apart."""
    train = Stage("train", share=0.5, relaxation="selected", weights=_STITCHES)
    return Recipe(name="sluice", space="sluice", stages=(_NETWORKS, train), penalties={"orthogonality": 1e-3})


@register_recipe
def nddr() -> Recipe:
    """NDDR-CNN: the tasks' features are joined by a 1×1 convolution at the end of every stage; own weights 0.9."""
    return Recipe(
        name="nddr",
        space="fusion",
        space_options={"edges": "stage-ends", "choices": False, "own": 0.9},
        stages=(_NETWORKS, Stage("train", share=0.5, relaxation="selected", weights=_FALLING)),
    )


@register_recipe
def nddr_supernet() -> Recipe:
    """The same behind every layer."""
    recipe = nddr()
    options = {**recipe.space_options, "edges": "same-layer"}
    return dataclasses.replace(recipe, variant="supernet", space_options=options)


@register_recipe
def mtan() -> Recipe:
    """Multi-task attention networks, trained from the start."""
    train = Stage("train", share=1.0, relaxation="selected", weights=_FALLING)
    return Recipe(name="mtan", space="mtan", stages=(train,))
