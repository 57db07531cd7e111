"""AutoMTL (Zhang, Liu, Guan, NeurIPS 2022): shared, own or skip at every operator, in three stages.

Defaults differ from the paper where that is better, and say so: expected multiply-adds are added to Eq. 3 (which
rewards sharing per site, never a common prefix), the temperature ends at 0.1, and the selected model inherits the
weights of the search. Shares of the steps are the paper's 10 : 20 : 30.
"""

from __future__ import annotations

from onnxmtl.search.recipe import Recipe, Stage, Temperature, register_recipe
from onnxmtl.train.optimizers import OptimizerSpec

_ADAM = OptimizerSpec("adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4)


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
        regularizers={"sharing": 5e-3, "multiply_adds": 0.3},
    )


@register_recipe
def automtl_paper() -> Recipe:
    """Stages, optimizers and regularizer as the paper's CityScapes set-up; post-training starts afresh."""
    adam = OptimizerSpec("adam", lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-4)
    return Recipe(
        name="automtl-paper",
        space="vcn",
        space_options={"norm": "per_task", "skip": "dense1x1"},
        stages=(
            Stage("pre-train", share=1 / 6, relaxation="average", weights=adam),
            Stage(
                "policy-train",
                share=2 / 6,
                relaxation="gumbel",
                weights=OptimizerSpec("sgd", lr=1e-4, momentum=0.9, weight_decay=1e-4),
                policy=OptimizerSpec("adam", lr=1e-2, betas=(0.9, 0.999), weight_decay=5e-4),
                alternate=(100, 400),
                temperature=Temperature(5.0, 1.25),
            ),
            Stage("post-train", share=3 / 6, relaxation="selected", weights=adam, fresh=True),
        ),
        regularizers={"sharing": 5e-4},
        decoder="sample",
    )
