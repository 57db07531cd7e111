"""The recipes that come with onnxmtl; importing this package registers them."""

from onnxmtl.search.recipes.automtl import automtl, automtl_paper

__all__ = ["automtl", "automtl_paper"]
