"""Running models with ONNX Runtime: the only room that imports it.

Needs numpy, onnxruntime and :mod:`onnxmtl.errors`, nothing else of the project. ::

    model = onnxmtl.runtime.load("model.onnx")
    predictions = model(image)  # float32 [N, C, H, W] -> {task: array}

    model = onnxmtl.runtime.load("entry_points")  # a directory of `onnxmtl specialize --entry-points`
    predictions = model(image, tasks=["depth"])  # only what depth needs is computed
"""

from onnxmtl.runtime.entry_points import EntryPoints, plan
from onnxmtl.runtime.manifest import MANIFEST_FILE, Manifest, Segment
from onnxmtl.runtime.model import Model, load
from onnxmtl.runtime.sessions import CPU, Array, Session, latency, onnxruntime, run, session

__all__ = [  # noqa: RUF022  (grouped, not sorted)
    # Calling models
    "EntryPoints",
    "Model",
    "load",
    # What a directory of entry points says about itself
    "MANIFEST_FILE",
    "Manifest",
    "Segment",
    "plan",
    # Sessions
    "CPU",
    "Array",
    "Session",
    "latency",
    "onnxruntime",
    "run",
    "session",
]
