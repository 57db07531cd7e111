"""The search engine: recipes, relaxations, regularizers."""

from onnxmtl.search import recipes as _builtin
from onnxmtl.search.ablations import ABLATIONS, relaxed, without
from onnxmtl.search.presets import PRESETS, Preset, StagePreset, apply_preset, preset_named, register_preset
from onnxmtl.search.recipe import (
    RECIPES,
    Recipe,
    Stage,
    recipe_named,
    recipe_names,
    register_recipe,
    variants_of,
)
from onnxmtl.search.regularizers import PolicyView, register_regularizer
from onnxmtl.search.schedule import Curriculum, Temperature

_ = _builtin  # imported for its registrations

__all__ = [
    "ABLATIONS",
    "PRESETS",
    "RECIPES",
    "Curriculum",
    "PolicyView",
    "Preset",
    "Recipe",
    "Stage",
    "StagePreset",
    "Temperature",
    "apply_preset",
    "preset_named",
    "recipe_named",
    "recipe_names",
    "register_preset",
    "register_recipe",
    "register_regularizer",
    "relaxed",
    "variants_of",
    "without",
]
