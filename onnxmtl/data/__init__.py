"""Data: the built-in scenes, data sets of users, and the batches made of them.

What needs torch (batches) loads when it is asked for; drawing scenes does not need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxmtl.data.dataset import Augmented, Dataset, DataSource, InputSpec, Subset, split
from onnxmtl.data.parts import Part, Parts, limited, parts_of

if TYPE_CHECKING:
    from onnxmtl.data.batch import Batch, batch_at, batches_at, collate, indices_at, iterate
    from onnxmtl.data.digest import fingerprint
    from onnxmtl.data.load import load_data

__all__ = [
    "Augmented",
    "Batch",
    "DataSource",
    "Dataset",
    "InputSpec",
    "Part",
    "Parts",
    "Subset",
    "batch_at",
    "batches_at",
    "collate",
    "fingerprint",
    "indices_at",
    "iterate",
    "limited",
    "load_data",
    "parts_of",
    "split",
]

_LAZY = dict.fromkeys(("Batch", "batch_at", "batches_at", "collate", "indices_at", "iterate"), "onnxmtl.data.batch")
_LAZY["fingerprint"] = "onnxmtl.data.digest"
_LAZY["load_data"] = "onnxmtl.data.load"


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
