"""The recipes that come with onnxmtl; importing this package registers them."""

from onnxmtl.search.recipes.adashare import adashare, adashare_paper, adashare_released
from onnxmtl.search.recipes.automtl import automtl, automtl_paper, automtl_released
from onnxmtl.search.recipes.bmtas import bmtas, bmtas_paper, bmtas_released
from onnxmtl.search.recipes.mtlnas import mtlnas, mtlnas_paper, mtlnas_released, mtlnas_stochastic, mtlnas_supernet
from onnxmtl.search.recipes.soft_sharing import cross_stitch, mtan, nddr, nddr_supernet, sluice
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
    "cross_stitch",
    "mtan",
    "mtlnas",
    "mtlnas_paper",
    "mtlnas_released",
    "mtlnas_stochastic",
    "mtlnas_supernet",
    "nddr",
    "nddr_supernet",
    "sluice",
    "treemtl",
    "treemtl_released",
]
