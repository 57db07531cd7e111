"""The public Python API: every loop that crosses rooms lives here.

Names are imported when they are used: what trains needs torch, what only reads graphs does without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxmtl.errors import missing_training

if TYPE_CHECKING:
    from onnxmtl.deploy.exporting import export_prototxt as export_prototxt
    from onnxmtl.workflows.addition import Added as Added
    from onnxmtl.workflows.addition import add_task as add_task
    from onnxmtl.workflows.compilation import compile as compile
    from onnxmtl.workflows.config import CompileConfig as CompileConfig
    from onnxmtl.workflows.entry_points import write_entry_points as write_entry_points
    from onnxmtl.workflows.importing import load as load
    from onnxmtl.workflows.merging import merge as merge
    from onnxmtl.workflows.networks import BackboneSet as BackboneSet
    from onnxmtl.workflows.phases.emission import Compiled as Compiled
    from onnxmtl.workflows.quantization import Quantized as Quantized
    from onnxmtl.workflows.quantization import quantize as quantize
    from onnxmtl.workflows.recommendation import Recommended as Recommended
    from onnxmtl.workflows.recommendation import recommend as recommend
    from onnxmtl.workflows.reporting import report as report
    from onnxmtl.workflows.session import Observer as Observer
    from onnxmtl.workflows.specialization import specialize as specialize
    from onnxmtl.workflows.verification import verify as verify

_HOMES = {
    "Added": "onnxmtl.workflows.addition",
    "BackboneSet": "onnxmtl.workflows.networks",
    "CompileConfig": "onnxmtl.workflows.config",
    "Compiled": "onnxmtl.workflows.phases.emission",
    "Observer": "onnxmtl.workflows.session",
    "Quantized": "onnxmtl.workflows.quantization",
    "Recommended": "onnxmtl.workflows.recommendation",
    "add_task": "onnxmtl.workflows.addition",
    "compile": "onnxmtl.workflows.compilation",
    "export_prototxt": "onnxmtl.deploy.exporting",
    "load": "onnxmtl.workflows.importing",
    "merge": "onnxmtl.workflows.merging",
    "quantize": "onnxmtl.workflows.quantization",
    "recommend": "onnxmtl.workflows.recommendation",
    "report": "onnxmtl.workflows.reporting",
    "specialize": "onnxmtl.workflows.specialization",
    "verify": "onnxmtl.workflows.verification",
    "write_entry_points": "onnxmtl.workflows.entry_points",
}

__all__ = [
    "Added",
    "BackboneSet",
    "CompileConfig",
    "Compiled",
    "Observer",
    "Quantized",
    "Recommended",
    "add_task",
    "compile",
    "export_prototxt",
    "load",
    "merge",
    "quantize",
    "recommend",
    "report",
    "specialize",
    "verify",
    "write_entry_points",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module 'onnxmtl.workflows' has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        module = importlib.import_module(home)
    except ModuleNotFoundError as error:
        if (ours := missing_training(error)) is not None:
            raise ours from error
        raise
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
