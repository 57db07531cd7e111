"""Large graphs and Python's garbage collector."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import onnx_ir as ir


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Inside, Python does not look for reference cycles.

    A graph is one large cycle. While many nodes are made, the collector walks over all of them again and again and
    finds nothing: with 100 000 nodes that is more than half of the time. What is dropped inside is freed afterwards.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def clone(model: ir.Model) -> ir.Model:
    """A copy with nodes and values of its own; the tensors are the same objects."""
    with collection_paused():
        return model.clone()
