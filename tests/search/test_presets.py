"""Every number of every preset against the tables it is from, written down here a second time."""

from __future__ import annotations

import dataclasses

import pytest

from onnxmtl.errors import RunError
from onnxmtl.search import PRESETS, Preset, StagePreset, apply_preset, recipe_named, register_preset
from onnxmtl.search.schedule import Curriculum, Temperature

KINDS = ("segmentation", "normals", "depth", "keypoints", "edges")


def numbers(name: str, variant: str, preset: str):
    recipe = recipe_named(name, variant, preset)
    assert recipe.preset == preset and PRESETS[name, variant][preset].source
    return recipe, [stage.steps(recipe.steps) for stage in recipe.stages]


def weights(recipe):
    return tuple(recipe.loss_weights.get(kind) for kind in KINDS)


# AutoMTL, Table 1: weight lr, policy lr, weight lr decay (factor, iterations), λ seg, sn, depth, kp, edge, λ reg.
AUTOMTL_TABLE_1 = {
    "cityscapes": (0.001, 0.01, (0.5, 4000), (1, None, 1, None, None), 0.0005),
    "nyuv2": (0.001, 0.01, (0.5, 4000), (5, 20, 5, None, None), 0.001),
    "taskonomy": (0.0001, 0.01, (0.3, 10000), (1, 3, 2, 7, 7), 0.0005),
}
# Section 6.1: iterations of pre-train, policy-train and post-train.
AUTOMTL_SECTION_6_1 = {
    "cityscapes": [10_000, 20_000, 30_000],
    "nyuv2": [10_000, 20_000, 30_000],
    "taskonomy": [20_000, 50_000, 30_000],
}
# What the table does not say is the code's (methods.md 1.6; crops: data-and-metrics.md): turns, crop.
AUTOMTL_CODE = {"cityscapes": ((100, 400), 224), "nyuv2": ((50, 50), 321), "taskonomy": ((100, 400), 224)}


@pytest.mark.parametrize("variant", ["", "paper"])
@pytest.mark.parametrize("preset", ["cityscapes", "nyuv2", "nyuv2-13", "taskonomy"])
def test_automtl_table_1(preset, variant):
    recipe, steps = numbers("automtl", variant, preset)
    row = preset.removesuffix("-13")
    lr, policy_lr, decay, losses, reg = AUTOMTL_TABLE_1[row]
    pre, policy, post = recipe.stages
    assert steps == AUTOMTL_SECTION_6_1[row] == [stage.reference for stage in recipe.stages]
    assert [stage.weights.lr for stage in recipe.stages] == [lr] * 3 and policy.policy.lr == policy_lr
    assert (post.weights.schedule, post.weights.decay, post.weights.every) == ("step", *decay)
    assert pre.weights.schedule == policy.weights.schedule == "constant"
    assert weights(recipe) == losses and recipe.regularizers["sharing"] == reg
    assert (policy.alternate, recipe.crop) == AUTOMTL_CODE[row] and policy.unit == "step"
    assert set(recipe.regularizers) == ({"sharing"} if variant else {"sharing", "multiply_adds"})
    assert recipe.shared_prefix == 0


@pytest.mark.parametrize("preset", ["cityscapes", "nyuv2", "nyuv2-13", "taskonomy"])
def test_automtl_released_is_methods_md_1_6(preset):
    recipe, steps = numbers("automtl", "released", preset)
    row = preset.removesuffix("-13")
    pre, policy, post = recipe.stages
    # "pre_train: Adam lr 1e-3 (CityScapes 1e-4), betas (0.5, 0.999), wd 1e-4, no schedule"
    assert (pre.weights.name, pre.weights.betas, pre.weights.weight_decay) == ("adam", (0.5, 0.999), 1e-4)
    assert pre.weights.lr == (1e-4 if row == "cityscapes" else 1e-3) and pre.weights.schedule == "constant"
    # "policy: Adam lr 0.01, wd 5e-4; network: SGD lr 1e-4 (NYUv2 1e-3), momentum .9, wd 1e-4"
    assert (policy.policy.name, policy.policy.lr, policy.policy.weight_decay) == ("adam", 0.01, 5e-4)
    network = policy.weights
    assert (network.name, network.momentum, network.weight_decay) == ("sgd", 0.9, 1e-4)
    assert network.lr == (1e-3 if row == "nyuv2" else 1e-4)
    # "policy lr := 0.001 from iteration 10 000 on"
    assert (policy.policy.schedule, policy.policy.decay, policy.policy.every, policy.policy.drops) == (
        "step", 0.1, 10_000, 1,
    )  # fmt: skip
    # "post_train: Adam lr 1e-3, betas (.5,.999), wd 1e-4, StepLR 4000, 0.5"
    assert (post.weights.name, post.weights.lr, post.weights.betas) == ("adam", 1e-3, (0.5, 0.999))
    assert (post.weights.schedule, post.weights.every, post.weights.decay) == ("step", 4000, 0.5)
    assert steps == AUTOMTL_SECTION_6_1[row] and post.fresh
    # "(a,b) = (100,400) CityScapes and Taskonomy, (50,50) NYUv2"; tau = 5, *= 0.965 every 101 policy iterations
    assert (policy.alternate, recipe.crop) == AUTOMTL_CODE[row] and policy.first == "policy"
    assert policy.temperature == Temperature(5.0, shape="decay", ratio=0.965, every=101, unit="step")
    assert all(stage.sequential for stage in recipe.stages) and policy.sample == "fresh"
    assert recipe.regularizer_options == {"sharing": {"scale": 6.0}}
    # "NYUv2's reported policies use bottom-20 … CityScapes 0"
    assert recipe.shared_prefix == (20 if row == "nyuv2" else 0)
    assert recipe.space_options == {"norm": "per_task", "skip": "dense1x1"}
    losses = {"cityscapes": (1, None, 1, None, None), "nyuv2": (5, 20, 5, None, None), "taskonomy": (1, 3, 2, 7, 7)}
    assert weights(recipe) == losses[row]
    assert recipe.regularizers == {"sharing": {"cityscapes": 5e-4, "nyuv2": 1e-3, "taskonomy": 5e-4}[row]}


# AdaShare, Table 7: weight lr, policy lr, λ seg, sn, depth, kp, edge, λ sp, λ sh.
ADASHARE_TABLE_7 = {
    "nyuv2-2": (0.001, 0.01, (1, 20, None, None, None), 0.05, 0.05),
    "cityscapes": (0.0001, 0.01, (1, None, 20, None, None), 0.01, 0.1),
    "nyuv2": (0.001, 0.01, (1, 20, 3, None, None), 0.001, 0.05),
    "taskonomy": (0.001, 0.01, (1, 3, 2, 7, 7), 0.001, 0.005),
}
# methods.md 4.4: head lr, backbone lr, decay (iterations, factor), curriculum speed, crop.
ADASHARE_CODE = {
    "nyuv2-2": (1e-3, 1e-3, (4000, 0.5), 3, 321),
    "nyuv2": (1e-3, 1e-3, (4000, 0.5), 3, 321),
    "cityscapes": (1e-4, 1e-3, (4000, 0.5), 3, 224),
    "taskonomy": (1e-4, 1e-4, (12000, 0.3), 1, 224),
}


def adashare_steps(row: str) -> list[int]:
    """Appendix A: 20 000 iterations of policy learning, 20 % of them warm-up, and 20 000; Taskonomy 100 000, 30 000."""
    learning, retraining = (100_000, 30_000) if row == "taskonomy" else (20_000, 20_000)
    return [learning // 5, learning - learning // 5, retraining]


@pytest.mark.parametrize("variant", ["", "paper", "released"])
@pytest.mark.parametrize("preset", ["cityscapes", "nyuv2", "nyuv2-13", "nyuv2-2", "taskonomy"])
def test_adashare_table_7_and_methods_md_4_4(preset, variant):
    recipe, steps = numbers("adashare", variant, preset)
    row = preset.removesuffix("-13")
    lr, policy_lr, losses, sparse, share = ADASHARE_TABLE_7[row]
    head, backbone, (every, factor), speed, crop = ADASHARE_CODE[row]
    warm_up, policy, retrain = recipe.stages
    assert steps == adashare_steps(row) == [stage.reference for stage in recipe.stages]
    assert recipe.batch_size == 16 and recipe.crop == crop
    assert weights(recipe) == losses
    assert recipe.regularizers == {"sparsity": sparse, "adashare_sharing": share}
    assert policy.policy.lr == policy_lr and policy.holdout == 0.2
    for stage in (warm_up, retrain):
        assert (stage.weights.schedule, stage.weights.every, stage.weights.decay) == ("step", every, factor)
    assert policy.weights.schedule == "constant"
    for stage in recipe.stages:
        rates = (stage.weights.head_lr or stage.weights.lr, stage.weights.lr)
        assert rates == ((head, backbone) if variant == "released" else (lr, lr))
    if row == "taskonomy":  # "Taskonomy 400/100 iterations"
        assert (policy.alternate, policy.unit) == ((100, 400), "step")
    else:
        assert (policy.alternate, policy.unit) == ((1, 1), "epoch")
    if variant:
        assert policy.curriculum == Curriculum(speed if variant == "released" else 1, "turn")
        assert (policy.weights.name, policy.weights.momentum, policy.weights.weight_decay) == ("sgd", 0.9, 1e-4)
        assert (policy.policy.name, policy.policy.weight_decay) == ("adam", 5e-4)
        assert (warm_up.weights.name, warm_up.weights.betas, warm_up.weights.weight_decay) == (
            "adam", (0.5, 0.999), 1e-4,
        )  # fmt: skip
        assert policy.first == "weights" and retrain.fresh and recipe.samples == 8
        assert policy.keep == "best"  # "the best policy (evaluated after each epoch during the first stage)"
    if variant == "released":
        assert policy.temperature == Temperature(5.0, shape="decay", ratio=0.965, every=1, unit="turn")
    forms = {"": {}, "paper": "paper", "released": "released"}[variant]
    assert recipe.regularizer_options == ({name: {"form": forms} for name in recipe.regularizers} if variant else {})


@pytest.mark.parametrize(
    ("preset", "classes"), [("nyuv2", 40), ("nyuv2-13", 13), ("cityscapes", 19), ("taskonomy", 17)]
)
def test_classes(preset, classes):
    """Those that name a number; BMTAS's leave it to the data set, and MTL-NAS's Taskonomy is about whole images."""
    silent = ("bmtas", "mtlnas") if preset == "taskonomy" else ("bmtas",)
    of_methods = [key for key, presets in PRESETS.items() if preset in presets and key[0] not in silent]
    assert len(of_methods) >= 6
    for recipe, variant in of_methods:
        assert PRESETS[recipe, variant][preset].classes == recipe_named(recipe, variant, preset).classes == classes


def test_nyuv2_with_13_classes_is_nyuv2():
    for presets in (found for found in PRESETS.values() if "nyuv2-13" in found):
        assert dataclasses.replace(presets["nyuv2-13"], name="nyuv2", classes=40) == presets["nyuv2"]


def test_what_a_preset_does_not_say_stays():
    plain, with_numbers = recipe_named("automtl"), recipe_named("automtl", preset="nyuv2")
    assert with_numbers.regularizers["multiply_adds"] == plain.regularizers["multiply_adds"]
    for before, after in zip(plain.stages, with_numbers.stages, strict=True):
        assert (before.relaxation, before.temperature, before.fresh) == (
            after.relaxation,
            after.temperature,
            after.fresh,
        )
        assert before.weights.betas == after.weights.betas


def test_a_preset_is_for_the_stages_of_its_recipe():
    odd = Preset("odd", "nowhere", {"pre-train": StagePreset(5)}, 2, 8, 3, {}, {})
    with pytest.raises(RunError, match="preset 'odd' is for the stages pre-train, not those of 'adashare'"):
        apply_preset(recipe_named("adashare"), odd)
    with pytest.raises(RunError, match="registered already"):
        register_preset("adashare", PRESETS["adashare", ""]["nyuv2"])
