"""AutoMTL (Zhang, Liu, Guan, NeurIPS 2022): shared, own or skip at every operator, in three stages.

The default differs from the paper in this: expected multiply-adds are added to Eq. 3 (which
rewards sharing per site, never a common prefix) and do most of the pulling: where tasks have parted, shared weights
save nothing that runs. Normalizations follow their operator, skips are cheap, the temperature ends at 0.1, and the
selected model inherits the weights of the search. ``paper`` is the paper: Eq. 3 alone, joint steps, training from
scratch. ``released`` is the authors' code where that differs: one update per task on images of its own, Eq. 3 on a
fresh sample and with a scale of 6, the temperature times 0.965 every 101 policy steps.
Shares of the steps are the paper's 10 : 20 : 30.
"""

from __future__ import annotations

import dataclasses

from onnxmtl.search.presets import Preset, StagePreset, register_preset
from onnxmtl.search.recipe import Recipe, Stage, register_recipe
from onnxmtl.search.schedule import Temperature
from onnxmtl.train.optimizers import OptimizerSpec

_ADAM = OptimizerSpec("adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4)

# The optimizers of the papers' codes; the learning rates are CityScapes'.
_PUBLISHED = OptimizerSpec("adam", lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-4)
_NETWORK = OptimizerSpec("sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4)
_POLICY = OptimizerSpec("adam", lr=1e-2, betas=(0.9, 0.999), weight_decay=5e-4)
_POST = dataclasses.replace(_PUBLISHED, schedule="step", decay=0.5, every=4000)


@register_recipe
def automtl() -> Recipe:
    """The default recipe."""
    return Recipe(
        name="automtl",
        space="vcn",
        stages=(
            Stage("pre-train", share=1 / 6, relaxation="average", weights=_ADAM),
            Stage(
                "policy-train",
                share=2 / 6,
                relaxation="gumbel",
                weights=OptimizerSpec("adam", lr=5e-4, betas=(0.9, 0.999), weight_decay=1e-4),
                policy=OptimizerSpec("adam", lr=5e-2, betas=(0.5, 0.999), weight_decay=0.0),
                alternate=(1, 1),
                temperature=Temperature(5.0, 0.1),
            ),
            Stage(
                "post-train",
                share=3 / 6,
                relaxation="selected",
                weights=OptimizerSpec("adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4, schedule="cosine"),
            ),
        ),
        regularizers={"sharing": 5e-4, "multiply_adds": 1.0},
    )


@register_recipe
def automtl_paper() -> Recipe:
    """Stages, optimizers and regularizer as the paper's CityScapes set-up; post-training starts afresh."""
    return Recipe(
        name="automtl",
        variant="paper",
        space="vcn",
        space_options={"norm": "per_task", "skip": "dense1x1"},
        stages=(
            Stage("pre-train", share=1 / 6, relaxation="average", weights=_PUBLISHED, reference=10_000),
            Stage(
                "policy-train",
                share=2 / 6,
                relaxation="gumbel",
                weights=_NETWORK,
                policy=_POLICY,
                alternate=(100, 400),
                temperature=Temperature(5.0, 0.1),
                reference=20_000,
            ),
            Stage("post-train", share=3 / 6, relaxation="selected", weights=_POST, fresh=True, reference=30_000),
        ),
        regularizers={"sharing": 5e-4},
        decoder="sample",
    )


@register_recipe
def automtl_released() -> Recipe:
    """As the authors' code trains."""
    paper = automtl_paper()
    pre, policy, post = (dataclasses.replace(stage, sequential=True) for stage in paper.stages)
    return dataclasses.replace(
        paper,
        variant="released",
        stages=(
            dataclasses.replace(pre, weights=dataclasses.replace(_PUBLISHED, lr=1e-4)),
            dataclasses.replace(
                policy,
                weights=dataclasses.replace(_NETWORK, lr=1e-4),
                # From iteration 10 000 on the code has 0.001, once and for all.
                policy=dataclasses.replace(_POLICY, schedule="step", decay=0.1, every=10_000, drops=1),
                temperature=Temperature(5.0, shape="decay", ratio=0.965, every=101, unit="step"),
                sample="fresh",
            ),
            post,
        ),
        regularizer_options={"sharing": {"scale": 6.0}},
    )


# Table 1 of the paper, with its text: 10 000, 20 000 and 30 000 iterations, Taskonomy 20 000, 50 000 and 30 000. What
# the table does not have (alternation, batch, crop) is the code's. NYUv2 has 13 classes in the paper, 40 in the code.

_INDOOR_FIVE = {"segmentation": 1.0, "normals": 3.0, "depth": 2.0, "keypoints": 7.0, "edges": 7.0}


def _stages(
    iterations: tuple[int, int, int],
    rates: tuple[float, float, float],
    turns: tuple[int, int],
    decay: tuple[float, int],
) -> dict[str, StagePreset]:
    pre, policy, post = iterations
    return {
        "pre-train": StagePreset(pre, rates[0]),
        "policy-train": StagePreset(policy, rates[1], policy_lr=0.01, alternate=turns),
        "post-train": StagePreset(post, rates[2], decay=decay),
    }


def _register() -> None:
    short, long = (10_000, 20_000, 30_000), (20_000, 50_000, 30_000)
    half, third = (0.5, 4_000), (0.3, 10_000)
    table, code = "AutoMTL, Table 1 and Section 6.1", "AutoMTL's code (methods.md, 1.6)"
    outdoor, indoor = {"segmentation": 1.0, "depth": 1.0}, {"segmentation": 5.0, "normals": 20.0, "depth": 5.0}
    weights = {"cityscapes": 5e-4, "nyuv2": 1e-3, "taskonomy": 5e-4}
    rows = {
        "cityscapes": (short, (1e-3,) * 3, (1e-4, 1e-4, 1e-3), (100, 400), half, 224, 19, outdoor),
        "nyuv2": (short, (1e-3,) * 3, (1e-3, 1e-3, 1e-3), (50, 50), half, 321, 40, indoor),
        "nyuv2-13": (short, (1e-3,) * 3, (1e-3, 1e-3, 1e-3), (50, 50), half, 321, 13, indoor),
        "taskonomy": (long, (1e-4,) * 3, (1e-3, 1e-4, 1e-3), (100, 400), third, 224, 17, _INDOOR_FIVE),
    }
    # The policies that were reported for NYUv2 have their lowest 20 convolutions shared.
    bottom = {"nyuv2": 20, "nyuv2-13": 20}
    for name, (iterations, published, coded, turns, decay, crop, classes, losses) in rows.items():
        penalty = {"sharing": weights[name.removesuffix("-13")]}
        for rates, drops, source, prefix, variants in (
            (published, decay, table, 0, ("", "paper")),
            (coded, half, code, bottom.get(name, 0), ("released",)),
        ):
            stages = _stages(iterations, rates, turns, drops)
            preset = Preset(name, source, stages, 16, crop, classes, losses, penalty, prefix)
            register_preset("automtl", preset, *variants)


_register()
