"""Data: the built-in scenes, data sets of users, and the batches made of them.

What needs torch (batches) loads when it is asked for; drawing scenes does not need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxmtl.data.dataset import Dataset, DataSource, InputSpec, Subset, split

if TYPE_CHECKING:
    from onnxmtl.data.batch import Batch, batch_at, collate, indices_at, iterate
    from onnxmtl.data.load import load_data

__all__ = [
    "Batch",
    "DataSource",
    "Dataset",
    "InputSpec",
    "Subset",
    "batch_at",
    "collate",
    "indices_at",
    "iterate",
    "load_data",
    "split",
]

_LAZY = dict.fromkeys(("Batch", "batch_at", "collate", "indices_at", "iterate"), "onnxmtl.data.batch")
_LAZY["load_data"] = "onnxmtl.data.load"


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
