"""AdaShare (Sun, Panda, Feris, Saenko, NeurIPS 2020): every task executes or skips each residual block of one network.

Warm-up with all blocks shared, policy training on the held-out fifth (curriculum from the last block, Gumbel softmax
with a falling temperature), training of the selected model.

The default has the sparsity loss as released (Eq. 5 has no lower bound), the sharing loss of Eq. 6, a temperature and a
curriculum in shares of the stage, turns of single steps, ``select`` starts with a logit of 1, and the selected model
inherits the weights of the search. ``paper`` has Eq. 5 and Eq. 6, turns of whole epochs, one more block per epoch, the
policy that was best on held-out data, and trains from scratch. ``released`` is the authors' code: raw logits in the
sharing loss, a block every third epoch, the temperature times 0.965 per epoch.
Shares of the steps are NYUv2's 4 : 16 : 20.

In all of them Eq. 5 is over the blocks that decide, a policy is judged on held-out data by its most probable
architecture (the authors: on the test set, by a sample), and of the 8 samples the one is retrained that does best with
the weights of the search (the authors retrain all 8 and report the best). The learning rate of 0.01 of both variants
is for thousands of policy steps: a run with some dozens leaves their policies close to chance.
"""

from __future__ import annotations

import dataclasses

from onnxmtl.search.presets import Preset, StagePreset, register_preset
from onnxmtl.search.recipe import Recipe, Stage, register_recipe
from onnxmtl.search.schedule import Curriculum, Temperature
from onnxmtl.train.optimizers import OptimizerSpec

_ADAM = OptimizerSpec("adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4)

# The optimizers of the code. Its step decay runs in the warm-up and the retraining.
_PUBLISHED = OptimizerSpec(
    "adam", lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-4, schedule="step", decay=0.5, every=4000
)
_NETWORK = OptimizerSpec("sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4)
_POLICY = OptimizerSpec("adam", lr=1e-2, betas=(0.9, 0.999), weight_decay=5e-4)


@register_recipe
def adashare() -> Recipe:
    """The default recipe."""
    return Recipe(
        name="adashare",
        space="select_or_skip",
        space_options={"prior": 1.0},
        stages=(
            Stage("warm-up", share=0.1, relaxation="shared", weights=_ADAM),
            Stage(
                "policy",
                share=0.4,
                relaxation="gumbel",
                weights=OptimizerSpec("adam", lr=5e-4, betas=(0.9, 0.999), weight_decay=1e-4),
                policy=OptimizerSpec("adam", lr=5e-2, betas=(0.5, 0.999), weight_decay=0.0),
                alternate=(1, 1),
                temperature=Temperature(5.0, 0.1),
                curriculum=Curriculum(0.5, "share"),
            ),
            Stage("retrain", share=0.5, relaxation="selected", weights=dataclasses.replace(_ADAM, schedule="cosine")),
        ),
        regularizers={"sparsity": 0.03, "adashare_sharing": 0.01},
        decoder="sample",
        samples=8,
        with_argmax=True,
    )


@register_recipe
def adashare_paper() -> Recipe:
    """Eq. 5 and Eq. 6, and the training strategy of Section 3.3."""
    return Recipe(
        name="adashare",
        variant="paper",
        space="select_or_skip",
        stages=(
            Stage("warm-up", share=0.1, relaxation="shared", weights=_PUBLISHED, reference=4_000),
            Stage(
                "policy",
                share=0.4,
                relaxation="gumbel",
                weights=_NETWORK,
                policy=_POLICY,
                alternate=(1, 1),
                unit="epoch",
                first="weights",
                temperature=Temperature(5.0, 0.1),
                curriculum=Curriculum(1, "turn"),
                keep="best",
                reference=16_000,
            ),
            Stage("retrain", share=0.5, relaxation="selected", weights=_PUBLISHED, fresh=True, reference=20_000),
        ),
        regularizers={"sparsity": 0.001, "adashare_sharing": 0.05},
        regularizer_options={"sparsity": {"form": "paper"}, "adashare_sharing": {"form": "paper"}},
        decoder="sample",
        samples=8,
    )


@register_recipe
def adashare_released() -> Recipe:
    """As the authors' code trains."""
    paper = adashare_paper()
    warm_up, policy, retrain = paper.stages
    policy = dataclasses.replace(
        policy,
        temperature=Temperature(5.0, shape="decay", ratio=0.965, every=1, unit="turn"),
        curriculum=Curriculum(3, "turn"),
    )
    return dataclasses.replace(
        paper,
        variant="released",
        stages=(warm_up, policy, retrain),
        regularizer_options={"sparsity": {"form": "released"}, "adashare_sharing": {"form": "released"}},
    )


# Table 7 of the paper and the code's configurations. Iterations: 20 000 of policy learning, a fifth of them warm-up,
# and 20 000 of retraining; Taskonomy 100 000 and 30 000. NYUv2 has 40 classes (13 is for those who have these labels).


def _stages(
    iterations: tuple[int, int, int],
    rates: tuple[float, float],
    decay: tuple[float, int],
    turns: tuple[int, int] | None,
    speed: float,
) -> dict[str, StagePreset]:
    head, backbone = rates
    other = head if head != backbone else 0.0
    warm_up, policy, retrain = iterations
    return {
        "warm-up": StagePreset(warm_up, backbone, other, decay=decay),
        "policy": StagePreset(
            policy,
            backbone,
            other,
            policy_lr=0.01,
            alternate=turns or (1, 1),
            unit="step" if turns else "epoch",
            speed=speed,
        ),
        "retrain": StagePreset(retrain, backbone, other, decay=decay),
    }


def _register() -> None:
    short, long = (4_000, 16_000, 20_000), (20_000, 80_000, 30_000)
    half, third = (0.5, 4_000), (0.3, 12_000)
    table, code = "AdaShare, Table 7 and Appendix A", "AdaShare's code (methods.md, 4.4)"
    two, three = {"segmentation": 1.0, "normals": 20.0}, {"segmentation": 1.0, "normals": 20.0, "depth": 3.0}
    five = {"segmentation": 1.0, "normals": 3.0, "depth": 2.0, "keypoints": 7.0, "edges": 7.0}
    outdoor = {"segmentation": 1.0, "depth": 20.0}
    # iterations, learning rate of Table 7, (head, backbone) of the code, decay, turns (None: epochs), the code's
    # curriculum, crop, classes, λ of the losses, λ of sparsity and sharing
    rows = {
        "nyuv2-2": (short, 1e-3, (1e-3, 1e-3), half, None, 3, 321, 40, two, (0.05, 0.05)),
        "nyuv2": (short, 1e-3, (1e-3, 1e-3), half, None, 3, 321, 40, three, (0.001, 0.05)),
        "nyuv2-13": (short, 1e-3, (1e-3, 1e-3), half, None, 3, 321, 13, three, (0.001, 0.05)),
        "cityscapes": (short, 1e-4, (1e-4, 1e-3), half, None, 3, 224, 19, outdoor, (0.01, 0.1)),
        "taskonomy": (long, 1e-3, (1e-4, 1e-4), third, (100, 400), 1, 224, 17, five, (0.001, 0.005)),
    }
    for name, (iterations, lr, rates, decay, turns, speed, crop, classes, losses, (sparse, share)) in rows.items():
        penalties = {"sparsity": sparse, "adashare_sharing": share}
        for of_variant, source, pace, variants in (
            ((lr, lr), table, 1, ("paper",)),
            ((lr, lr), table, 0, ("",)),
            (rates, code, speed, ("released",)),
        ):
            stages = _stages(iterations, of_variant, decay, turns, pace)
            register_preset("adashare", Preset(name, source, stages, 16, crop, classes, losses, penalties), *variants)


_register()
