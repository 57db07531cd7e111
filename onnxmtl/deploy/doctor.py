"""Which runtime is installed and which execution providers really run: asked of a session, never of a list.

onnxruntime names CUDA as available on machines without a GPU and falls back to the CPU without an exception; two
flavours installed at once overwrite each other's files.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl import ir as graph_ir
from onnxmtl import runtime
from onnxmtl.errors import OnnxMTLError
from onnxmtl.runs import versions

_FLAVOURS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-training",
    "onnxruntime-qnn",
    "ort-nightly",
    "ort-nightly-gpu",
)
_REMOTE = {"AzureExecutionProvider"}  # calls a service; computes nothing here


@dataclasses.dataclass(frozen=True)
class Provider:
    """An execution provider that was tried.

    Attributes:
        asked: Its name.
        usable: Whether a session on it started and computed the right result.
        reason: Why not; "" if it runs.
    """

    asked: str
    usable: bool
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Health:
    """What :func:`examine` found. Without `problems` the installation is fine."""

    versions: dict[str, str]
    flavours: tuple[str, ...]
    providers: tuple[Provider, ...]
    problems: tuple[str, ...]
    repair: str


def installed_flavours() -> tuple[str, ...]:
    """The installed distributions that provide onnxruntime, as ``importlib.metadata`` has them."""
    found = []
    for name in _FLAVOURS:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def probe(provider: str) -> Provider:
    """Start a session on `provider` and compute something with it."""
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    try:
        session = runtime.session(_probe_model(), providers=[provider])
        result = runtime.run(session, {"x": x})["y"]
    except OnnxMTLError as error:
        return Provider(provider, usable=False, reason=str(error))
    if not np.array_equal(result, np.maximum(x, 0)):
        return Provider(provider, usable=False, reason="it computes a wrong result for Relu")
    return Provider(provider, usable=True)


def examine(providers: Iterable[str] | None = None, flavours: Sequence[str] | None = None) -> Health:
    """Look at the installation.

    Args:
        providers: Execution providers to try; None tries all that the installed runtime names.
        flavours: Installed flavours of onnxruntime; None asks the installation.
    """
    installed = tuple(installed_flavours() if flavours is None else flavours)
    problems: list[str] = []
    repair = ""
    if not installed:
        problems.append("no ONNX Runtime is installed")
        repair = "pip install 'onnxmtl[cpu]' or, for NVIDIA GPUs, pip install 'onnxmtl[gpu]'"
    elif len(installed) > 1:
        problems.append(f"{' and '.join(installed)} overwrite each other's files")
        keep = next((name for name in installed if name.endswith("-gpu")), installed[0])
        repair = f"pip uninstall -y {' '.join(installed)} && pip install {keep}"
    tried: tuple[Provider, ...] = ()
    try:
        named = [name for name in runtime.onnxruntime().get_available_providers() if name not in _REMOTE]
    except OnnxMTLError as error:
        if installed:
            problems.append(str(error))
            repair = repair or f"pip install --force-reinstall --no-deps {installed[0]}"
    else:
        asked = list(providers) if providers else named
        tried = tuple(probe(name) for name in asked)
        failed = [one for one in tried if not one.usable]
        # A GPU build on a machine without a GPU is fine, unless that provider was asked for.
        if providers or (tried and len(failed) == len(tried)):
            problems += [f"{one.asked} does not run: {one.reason}" for one in failed]
    return Health(versions(), installed, tried, tuple(problems), repair)


def _probe_model() -> bytes:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 1, 4, 4]))
    node = ir.Node("", "Relu", [x], name="relu")
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, x.shape
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 21}, name="probe")
    return graph_ir.to_bytes(ir.Model(graph, ir_version=10))
