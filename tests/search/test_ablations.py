"""Each ablation changes exactly what it says."""

from __future__ import annotations

import pytest

from onnxmtl.errors import RunError
from onnxmtl.search import ABLATIONS, recipe_named, recipe_names, relaxed, variants_of, without

EVERY = [recipe_named(name, variant) for name in recipe_names() for variant in ("", *variants_of(name))]
# Recipe, name -> regularizers that are left; None: refused.
LEFT = {
    "automtl": {"regularizer": set(), "sharing": {"multiply_adds"}, "cost": {"sharing"}},
    "automtl (paper)": {"regularizer": set(), "sharing": set()},
    "automtl (released)": {"regularizer": set(), "sharing": set()},
    "adashare": {"regularizer": set(), "sharing": {"sparsity"}, "sparsity": {"adashare_sharing"}},
}
LEFT |= {f"adashare ({variant})": LEFT["adashare"] for variant in ("paper", "released")}
LEFT |= {title: {"regularizer": set(), "cost": set()} for title in ("bmtas", "bmtas (paper)", "bmtas (released)")}
SEARCHED = ("mtlnas", "mtlnas (stochastic)", "mtlnas (paper)", "mtlnas (released)")
LEFT |= {title: {"regularizer": set(), "entropy": set()} for title in SEARCHED}
LEFT["sluice"] = {"regularizer": set()}
OWN_NETWORKS = ("mtlnas", "cross-stitch", "sluice", "nddr")


def differences(a, b) -> set[str]:
    """Names of what differs, stages by their fields."""
    mine, theirs = a.describe(), b.describe()
    found = {name for name in mine if name != "stages" and mine[name] != theirs[name]}
    for one, other in zip(mine["stages"], theirs["stages"], strict=True):
        found |= {f"{one['name']}.{field}" for field in one if one[field] != other[field]}
    return found


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.title)
@pytest.mark.parametrize("name", ABLATIONS)
def test_what_an_ablation_changes(recipe, name):
    if name == "curriculum":
        if recipe.name == "adashare":
            assert differences(recipe, without(recipe, ["curriculum"])) == {"policy.curriculum"}
            assert all(stage.curriculum is None for stage in without(recipe, ["curriculum"]).stages)
            return
        left = None
    elif name == "warm-up" and recipe.name in ("adashare", "bmtas"):
        changed = without(recipe, ["warm-up"])
        assert changed.stages == recipe.stages[1:] and recipe.stages[0].name == "warm-up"
        assert changed.regularizers == recipe.regularizers
        return
    elif name == "networks" and recipe.name in OWN_NETWORKS:
        changed = without(recipe, ["networks"])
        assert changed.stages == recipe.stages[1:] and recipe.stages[0].relaxation == "separate"
        assert changed.regularizers == recipe.regularizers
        return
    else:
        left = LEFT.get(recipe.title, {}).get(name)
    if left is None:
        with pytest.raises(RunError, match=f"has no {name} to leave out") as found:
            without(recipe, [name])
        assert repr(recipe.title) in str(found.value)
        return
    changed = without(recipe, [name])
    assert differences(recipe, changed) == ({"penalties"} if recipe.penalties else {"regularizers"})
    assert set(changed.regularizers) == left and not changed.penalties
    assert all(changed.regularizers[kept] == recipe.regularizers[kept] for kept in left)


def test_several_at_once_in_any_order():
    recipe = recipe_named("adashare")
    both = without(recipe, ["curriculum", "sparsity"])
    assert both == without(without(recipe, ["sparsity"]), ["curriculum"])
    assert differences(recipe, both) == {"regularizers", "policy.curriculum"}
    assert without(recipe, ["sparsity", "sharing", "sparsity"]).regularizers == {}
    assert without(recipe, []) == recipe
    assert without(recipe_named("automtl"), ["regularizer", "cost"]).regularizers == {}


def test_an_unknown_name():
    with pytest.raises(RunError, match="cannot leave out 'x'; what can be left out: regularizer, curriculum"):
        without(recipe_named("automtl"), ["x"])


def test_another_relaxation():
    released = recipe_named("mtlnas", "released")
    assert (released.stages[1].relaxation, released.stages[1].policy_relaxation) == ("gumbel", "softmax")
    changed = relaxed(released, "softmax")
    assert differences(released, changed) == {"search.relaxation", "search.policy_relaxation"}
    assert (changed.stages[1].relaxation, changed.stages[1].policy_relaxation) == ("softmax", "")
    automtl = recipe_named("automtl")
    assert differences(automtl, relaxed(automtl, "softmax")) == {"policy-train.relaxation"}
    with pytest.raises(RunError, match="recipe 'nddr' trains no policy"):
        relaxed(recipe_named("nddr"), "gumbel")
