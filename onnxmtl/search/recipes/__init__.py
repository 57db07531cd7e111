"""The recipes that come with onnxmtl; importing this package registers them."""

from onnxmtl.search.recipes.adashare import adashare, adashare_paper, adashare_released
from onnxmtl.search.recipes.automtl import automtl, automtl_paper, automtl_released
from onnxmtl.search.recipes.bmtas import bmtas, bmtas_paper, bmtas_released
from onnxmtl.search.recipes.treemtl import treemtl, treemtl_released

__all__ = [
    "adashare",
    "adashare_paper",
    "adashare_released",
    "automtl",
    "automtl_paper",
    "automtl_released",
    "bmtas",
    "bmtas_paper",
    "bmtas_released",
    "treemtl",
    "treemtl_released",
]
