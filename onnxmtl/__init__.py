"""onnxmtl: one backbone and several vision tasks in, one multi-task ONNX model with shared trunks out.

Nothing heavy is imported until a name is used: ``import onnxmtl`` loads neither onnx_ir nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxmtl.deploy.exporting import export_prototxt as export_prototxt
    from onnxmtl.errors import OnnxMTLError as OnnxMTLError
    from onnxmtl.kinds import Task as Task
    from onnxmtl.kinds import TaskSet as TaskSet
    from onnxmtl.workflows import BackboneSet as BackboneSet
    from onnxmtl.workflows import add_task as add_task
    from onnxmtl.workflows import compile as compile
    from onnxmtl.workflows import load as load
    from onnxmtl.workflows import merge as merge
    from onnxmtl.workflows import quantize as quantize
    from onnxmtl.workflows import specialize as specialize
    from onnxmtl.workflows import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "BackboneSet": "onnxmtl.workflows",
    "OnnxMTLError": "onnxmtl.errors",
    "Task": "onnxmtl.kinds",
    "TaskSet": "onnxmtl.kinds",
    "add_task": "onnxmtl.workflows",
    "compile": "onnxmtl.workflows",
    "export_prototxt": "onnxmtl.deploy.exporting",
    "load": "onnxmtl.workflows",
    "merge": "onnxmtl.workflows",
    "quantize": "onnxmtl.workflows",
    "specialize": "onnxmtl.workflows",
    "verify": "onnxmtl.workflows",
}

__all__ = [
    "BackboneSet",
    "OnnxMTLError",
    "Task",
    "TaskSet",
    "__version__",
    "add_task",
    "compile",
    "export_prototxt",
    "load",
    "merge",
    "quantize",
    "specialize",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module 'onnxmtl' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
