"""MTL-NAS (Gao, Bai, Jie, Ma, Jia, Liu, CVPR 2020): edges that take features from one task's network to another's.

Every task trains a network of its own; then weights and edges are trained in turns, on halves of the data, with the
entropy of the policy as the only regularizer: it leaves every edge almost surely there or cut, so that the weights of
the search are those of the found model, without retraining.

The paper's Table A3 crosses two relaxations with two ways to an architecture, with and without the entropy:
deterministic (DARTS) is the default, stochastic (SNAS) is ``--relaxation gumbel``; deterministic is the default,
stochastic is ``--samples 1``; ``--without entropy``. The variant ``stochastic`` is both stochastic ones.

The default has Adam, and an entropy that rises over the first half of the search: at full weight it multiplies
whatever the first noisy steps have done. ``paper`` has the numbers of Sec. 5.1; the results it reports are those of
both stochastic ones with own weights of 1 and no factors of learning rates (the rows of Tables A1, A2, A3 and 5 that
are equal). ``released`` is the authors' code: weights are trained under samples and edges under probabilities, an edge
is there if its probability is above 1/2, fusion units learn 100 times as fast, heads 10 times, their biases 20 times.
``supernet`` is the paper's MTL-NAS (SuperNet): all edges, nothing to search.

The paper's α is the log-odds of an edge; here an edge has two logits, whose difference it is. Adam moves both, so the
learning rate is half and the weight decay twice the published one: then the difference takes the very same steps.
Half of the training data is held out for the edges for good; the code draws the halves anew in every epoch.
How the single-task networks are trained is not published; they take as many steps as the search has weight steps.
"""

from __future__ import annotations

import dataclasses

from onnxmtl.search.presets import Preset, StagePreset, register_preset
from onnxmtl.search.recipe import Recipe, Stage, register_recipe
from onnxmtl.search.schedule import Temperature
from onnxmtl.train.optimizers import OptimizerSpec

_ADAM = OptimizerSpec("adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4)
_SGD = OptimizerSpec("sgd", lr=1e-3, momentum=0.9, weight_decay=2.5e-4, schedule="poly")
_FALLING = Temperature(1.0, 0.0, "polynomial")


def two_logits(lr: float, weight_decay: float) -> OptimizerSpec:
    """Adam for two logits whose difference takes the steps that Adam would take with one log-odds."""
    return OptimizerSpec("adam", lr=lr / 2, betas=(0.5, 0.999), weight_decay=2 * weight_decay)


@register_recipe
def mtlnas() -> Recipe:
    """The default recipe: deterministic relaxation, the most probable edges."""
    return Recipe(
        name="mtlnas",
        space="fusion",
        stages=(
            Stage("networks", share=0.5, relaxation="separate", weights=_ADAM),
            Stage(
                "search",
                share=0.5,
                relaxation="softmax",
                weights=dataclasses.replace(_ADAM, schedule="cosine"),
                policy=OptimizerSpec("adam", lr=5e-2, betas=(0.5, 0.999), weight_decay=0.0),
                alternate=(1, 1),
                first="weights",
                temperature=_FALLING,
                holdout=0.5,
            ),
        ),
        regularizers={"entropy": 10.0},
        regularizer_options={"entropy": {"rise": 0.5}},
    )


@register_recipe
def mtlnas_stochastic() -> Recipe:
    """Samples of the policy in the search, and one sample of it at the end."""
    recipe = mtlnas()
    networks, search = recipe.stages
    search = dataclasses.replace(search, relaxation="gumbel")
    return dataclasses.replace(recipe, variant="stochastic", stages=(networks, search), decoder="sample", samples=1)


@register_recipe
def mtlnas_paper() -> Recipe:
    """Sections 4.3 and 5.1."""
    return Recipe(
        name="mtlnas",
        variant="paper",
        space="fusion",
        stages=(
            Stage("networks", share=1 / 3, relaxation="separate", weights=_SGD, reference=20_000),
            Stage(
                "search",
                share=2 / 3,
                relaxation="gumbel",
                weights=_SGD,
                policy=two_logits(3e-3, 1e-3),
                alternate=(1, 1),
                first="weights",
                temperature=_FALLING,
                holdout=0.5,
                reference=40_000,
            ),
        ),
        regularizers={"entropy": 10.0},
        decoder="sample",
        samples=1,
    )


@register_recipe
def mtlnas_released() -> Recipe:
    """As the authors' code trains."""
    paper = mtlnas_paper()
    weights = dataclasses.replace(_SGD, factors={"fusion": 100.0, "head": 10.0, "head.bias": 20.0})
    networks, search = (dataclasses.replace(stage, weights=weights) for stage in paper.stages)
    search = dataclasses.replace(search, policy_relaxation="softmax", policy=two_logits(1e-3, 1e-3), first="policy")
    return dataclasses.replace(paper, variant="released", stages=(networks, search), decoder="argmax")


@register_recipe
def mtlnas_supernet() -> Recipe:
    """All candidate edges are there; what the tasks take from each other is left to the weights."""
    return Recipe(
        name="mtlnas",
        variant="supernet",
        space="fusion",
        space_options={"choices": False},
        stages=(
            Stage("networks", share=0.5, relaxation="separate", weights=_ADAM),
            Stage("train", share=0.5, relaxation="selected", weights=dataclasses.replace(_ADAM, schedule="cosine")),
        ),
    )


def _register() -> None:
    """Section 5.1; batch, crop and the weight of the normals are the code's. An iteration is a step of each part."""
    indoor = {"segmentation": 1.0, "normals": 20.0}
    # Iterations, learning rate of the weights, batch, crop, classes, λ of the losses.
    rows = {
        "nyuv2": (20_000, 1e-3, 10, 321, 40, indoor),  # VGG-16
        "nyuv2-resnet50": (30_000, 2.5e-4, 10, 321, 40, indoor),
        "taskonomy": (90_000, 1e-3, 10, 0, 0, {}),
    }
    table, code = "MTL-NAS, Sec. 5.1", "MTL-NAS's code (methods.md, 5.2)"
    for name, (iterations, lr, batch, crop, classes, losses) in rows.items():
        for source, policy_lr, variants in ((table, 3e-3, ("", "stochastic", "paper")), (code, 1e-3, ("released",))):
            stages = {
                "networks": StagePreset(iterations, lr),
                "search": StagePreset(2 * iterations, lr, policy_lr=policy_lr / 2),
            }
            register_preset(
                "mtlnas", Preset(name, source, stages, batch, crop, classes, losses, {"entropy": 10.0}), *variants
            )


_register()
