"""The search engine: recipes, relaxations, regularizers."""

from onnxmtl.search import recipes as _builtin
from onnxmtl.search.recipe import RECIPES, Recipe, Stage, Temperature, recipe_named, register_recipe
from onnxmtl.search.regularizers import register_regularizer

_ = _builtin  # imported for its registrations

__all__ = [
    "RECIPES",
    "Recipe",
    "Stage",
    "Temperature",
    "recipe_named",
    "register_recipe",
    "register_regularizer",
]
