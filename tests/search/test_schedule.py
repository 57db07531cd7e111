"""Who trains when, at which temperature, and which sites decide: literal counts, and scaling."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.search import Curriculum, Temperature
from onnxmtl.search.recipe import Stage, recipe_named
from onnxmtl.search.schedule import Turns
from onnxmtl.train.optimizers import OptimizerSpec

ADAM = OptimizerSpec()


def stage(**fields) -> Stage:
    return Stage("s", 1.0, "gumbel", **{"weights": ADAM, "policy": ADAM, **fields})


def pattern(schedule, steps: int) -> str:
    return "".join("p" if schedule.is_policy(i) else "w" for i in range(steps))


# Temperatures


def test_exponential_temperature_has_equal_ratios():
    values = [Temperature(5.0, 0.1).at(step, 21) for step in range(21)]
    assert values[0] == 5.0 and values[-1] == pytest.approx(0.1, rel=1e-12)
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert ratios == pytest.approx([ratios[0]] * 20, rel=1e-12)


def test_linear_temperature_has_equal_differences():
    values = [Temperature(5.0, 1.0, "linear").at(step, 9) for step in range(9)]
    assert values == pytest.approx([5.0 - 0.5 * i for i in range(9)])


def test_a_long_decay_never_reaches_zero():
    """Divided by it, logits stay finite in single precision."""
    assert Temperature(5.0, shape="decay").at(0, 0, done=100_000) == 1e-6


def test_a_stage_of_one_step_ends_where_it_starts():
    assert Temperature(5.0, 0.5).at(0, 1) == pytest.approx(0.5)


@pytest.mark.parametrize(("preset", "end"), [("cityscapes", 1.25), ("nyuv2", 0.147), ("taskonomy", 0.147)])
def test_automtl_code_temperature(preset, end):
    """methods.md 1.6: after more than 100 policy iterations tau *= 0.965; the ends are those it states."""
    policy = recipe_named("automtl", "released", preset).stages[1]
    steps = policy.reference
    schedule = policy.schedule(steps)
    tau, count, found = 5.0, 0, []
    a, b = policy.alternate
    for i in range(steps):
        if i % (a + b) < a:
            found.append((i, tau))
            count += 1
            if count > 100:
                tau, count = tau * 0.965, 0
    assert [i for i in range(steps) if schedule.is_policy(i)] == [i for i, _ in found]
    assert [schedule.temperature_at(i) for i, _ in found] == pytest.approx([t for _, t in found], rel=1e-9)
    assert found[-1][1] == pytest.approx(end, rel=0.005)


def test_adashare_code_turns_temperature_and_curriculum():
    """methods.md 4.4, literally: weights for an epoch, policy for an epoch, then p_epoch += 1 and temp *= 0.965."""
    policy = recipe_named("adashare", "released", "nyuv2").stages[1]
    of_weights, of_policy, blocks = 40, 10, 16
    schedule = policy.schedule(16_000, (of_policy, of_weights))
    temp, p_epoch, step = 5.0, 0, 0
    while step < 16_000:
        for part in "w" * of_weights + "p" * of_policy:
            assert schedule.is_policy(step) == (part == "p")
            assert schedule.temperature_at(step) == pytest.approx(temp, rel=1e-9)
            assert schedule.active_at(step, blocks) == min(p_epoch // 3 + 1, blocks)
            step += 1
        p_epoch, temp = p_epoch + 1, temp * 0.965


def test_adashare_paper_curriculum():
    """Section 3.3: "for the l-th (l < L) epoch, we only learn the policy distribution of last l blocks"."""
    policy = recipe_named("adashare", "paper").stages[1]
    schedule = policy.schedule(16_000, (10, 40))
    for epoch in range(1, 25):
        assert {schedule.active_at(step, 16) for step in range(50 * (epoch - 1), 50 * epoch)} == {min(epoch, 16)}


# Turns


@pytest.mark.parametrize(("alternate", "shown"), [((1, 1), "pwpwpwpw"), ((2, 1), "ppwppwpp"), ((1, 3), "pwwwpwww")])
def test_alternation(alternate, shown):
    made = stage(alternate=alternate)
    assert pattern(made.schedule(8), 8) == shown
    assert made.weight_steps(8) == shown.count("w")
    assert pattern(stage(alternate=(2, 3), first="weights").schedule(10), 10) == "wwwppwwwpp"


def test_what_is_trained_alone_takes_all_steps():
    for first in ("policy", "weights"):
        assert pattern(stage(policy=None, first=first).schedule(5), 5) == "wwwww"
        assert pattern(stage(weights=None, first=first).schedule(5), 5) == "ppppp"


def test_epochs_are_as_long_as_their_data():
    made = stage(alternate=(1, 2), unit="epoch")
    assert pattern(made.schedule(16, (2, 3)), 16) == "ppwwwwww" * 2
    assert made.weight_steps(1000) == pytest.approx(1000 * 1.6 / 1.8, abs=20)  # holdout 0.2, two epochs to one


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["policy", "weights"]), st.integers(0, 60))
def test_counts_of_policy_steps_and_turns(policy, weights, first, steps):
    turns = Turns(policy, weights, first)
    flags = [turns.is_policy(i) for i in range(steps)]
    assert turns.policy_steps(steps) == sum(flags)
    assert turns.policy_turns(steps) == sum(flags) // policy


@given(st.integers(1, 200), st.integers(1, 400), st.floats(1e-4, 3.0))
def test_scaled_turns_keep_their_proportion(policy, weights, factor):
    turns = Turns(policy, weights).scaled(factor)
    assert turns.policy >= 1 and turns.weights >= 1
    assert turns.policy <= policy and turns.weights <= weights
    if min(turns.policy, turns.weights) >= 10:
        assert turns.weights / turns.policy == pytest.approx(weights / policy, rel=0.1)


# Runs of another length


def test_a_short_run_sees_what_the_published_one_saw():
    """Everything is read at the corresponding place: 160 steps of a stage published with 16 000."""
    policy = recipe_named("adashare", "released").stages[1]
    whole, short = policy.schedule(16_000, (10, 40)), policy.schedule(160, (10, 40))
    assert short.turns == Turns(1, 4, "weights")
    for step in range(160):
        assert short.temperature_at(step) == whole.temperature_at(100 * step)
        assert short.active_at(step, 16) == whole.active_at(100 * step, 16)
    assert short.active_at(0, 16) == 1 and short.active_at(159, 16) == 16
    automtl = recipe_named("automtl", "paper").stages[1]
    assert automtl.schedule(133).turns == Turns(1, 4)
    assert automtl.schedule(20_000).turns == Turns(100, 400)
    spec = recipe_named("automtl", "paper").stages[2].weights
    assert spec.lr_at(150 * 30_000 / 300, 30_000) == spec.lr_at(15_000, 30_000) == pytest.approx(1e-3 * 0.5**3)


def test_a_curriculum_in_shares():
    """Half of the stage lets one site after another decide, the other half all of them."""
    schedule = stage(curriculum=Curriculum(0.5, "share")).schedule(101)
    active = [schedule.active_at(step, 4) for step in range(101)]
    assert active == sorted(active) and active[0] == 1 and active[-1] == 4
    assert [active.index(n) for n in (2, 3, 4)] == [13, 25, 38]


def test_a_curriculum_in_policy_steps():
    schedule = stage(alternate=(2, 1), curriculum=Curriculum(2, "step")).schedule(12)
    assert [schedule.active_at(step, 3) for step in range(9)] == [1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_without_a_curriculum_all_sites_decide():
    assert stage().schedule(5).active_at(0, 7) == 7


# Learning rates


def test_automtl_code_policy_lr():
    """methods.md 1.6: 0.01, and 0.001 from iteration 10 000 on."""
    spec = recipe_named("automtl", "released", "taskonomy").stages[1].policy
    assert [spec.lr_at(i, 50_000) for i in (0, 9_999, 10_000, 20_000, 49_999)] == pytest.approx(
        [0.01] * 2 + [0.001] * 3
    )


def test_drops_of_the_step_schedule():
    spec = OptimizerSpec(lr=1.0, schedule="step", decay=0.3, every=10)
    assert [spec.lr_at(i, 30) for i in (0, 9, 10, 19, 20, 29)] == pytest.approx([1, 1, 0.3, 0.3, 0.09, 0.09])
    with pytest.raises(ValueError, match="every=0"):
        OptimizerSpec(schedule="step")


# MTL-NAS


def test_mtlnas_code_temperature():
    """methods.md 5.2: (1 − step/STEPS)², from 1 to 0, which no step has."""
    search = recipe_named("mtlnas", "released", "nyuv2").stages[1]
    schedule = search.schedule(40_000)
    for step in (0, 1, 10_000, 39_999):
        assert schedule.temperature_at(step) == pytest.approx(max((1 - step / 40_000) ** 2, 1e-6), rel=1e-9)
    assert [search.schedule(10).temperature_at(i) for i in (0, 5, 9)] == pytest.approx([1.0, 0.25, 0.01])
    assert pattern(search.schedule(6), 6) == "pwpwpw"
    assert pattern(recipe_named("mtlnas", "paper").stages[1].schedule(6), 6) == "wpwpwp"


def test_polynomial_temperature():
    values = [Temperature(4.0, 1.0, "polynomial", power=1.0).at(step, 3) for step in range(3)]
    assert values == pytest.approx([4.0, 3.0, 2.0])
    assert Temperature(4.0, 1.0, "polynomial").at(9, 3) == 1.0


@pytest.mark.parametrize(
    ("temperature", "legal"),
    [
        (Temperature(1.0, 0.0, "polynomial"), True),
        (Temperature(1.0, 0.0), False),
        (Temperature(1.0, -0.1, "polynomial"), False),
        (Temperature(0.0, 0.0, "polynomial"), False),
        (Temperature(1.0, 0.0, "polynomial", power=0.0), False),
    ],
)
def test_temperatures_stay_above_zero(temperature, legal):
    assert temperature.legal is legal
