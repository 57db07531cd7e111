"""Where the time of a run goes, by ONNX Runtime's own trace: convolutions, matrix products, and all else."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmtl import runtime
from onnxmtl.deploy.bench.feeds import Feeds
from onnxmtl.deploy.bench.timing import SETTINGS
from onnxmtl.errors import ModelError

_WARMUP, _RUNS = 2, 10
# The names that operators have after ONNX Runtime's fusions; a convolution has "Conv" in it, whatever else.
_PRODUCTS = frozenset({
    "Gemm", "MatMul", "FusedGemm", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QLinearMatMul", "QGemm", "MatMulNBits", "Einsum", "Attention", "MultiHeadAttention", "GroupQueryAttention",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Profile:
    """Milliseconds of one run of a candidate, by operator.

    Attributes:
        operators: Name of the operator as ONNX Runtime runs it -> milliseconds, the longest first.
        total: Of all operators.
        arithmetic: Of convolutions and matrix products: what multiply-adds count.
    """

    operators: Mapping[str, float]
    total: float
    arithmetic: float

    @property
    def share(self) -> float:
        """Of convolutions and matrix products, 0 to 1."""
        return self.arithmetic / self.total if self.total else 0.0

    def others(self, most: int = 3) -> list[tuple[str, float]]:
        """The longest of the other operators, as (name, share of the whole)."""
        found = [(name, ms / self.total) for name, ms in self.operators.items() if not is_arithmetic(name)]
        return found[:most]


def is_arithmetic(operator: str) -> bool:
    """Whether multiply-adds count what this operator does."""
    return "Conv" in operator or operator in _PRODUCTS


def profile(files: Sequence[Path], feeds: Sequence[Feeds], *, threads: int, providers: Sequence[str]) -> Profile:
    """Run every file a few times with the trace on.

    Args:
        files: The models of a candidate.
        feeds: What each is run on.
        threads: Within an operator.
        providers: Execution providers.

    Raises:
        ModelError: ONNX Runtime does not run a model, or its trace cannot be read.
    """
    found: dict[str, float] = {}
    for file, arrays in zip(files, feeds, strict=True):
        with tempfile.TemporaryDirectory(prefix="onnxmtl-profile-") as folder:
            session = runtime.session(
                file, providers=providers, threads=threads, settings=SETTINGS, profile=Path(folder, "trace")
            )
            for _ in range(_WARMUP + _RUNS):
                runtime.run(session, arrays)
            try:
                events = json.loads(Path(session.end_profiling()).read_text())
                times = operator_times(events)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                msg = f"{file}: ONNX Runtime's profile cannot be read; leave it out with --no-profile"
                raise ModelError(msg) from error
        for name, milliseconds in times.items():
            found[name] = found.get(name, 0.0) + milliseconds
    ordered = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    arithmetic = sum(ms for name, ms in ordered.items() if is_arithmetic(name))
    return Profile(ordered, sum(ordered.values()), arithmetic)


def operator_times(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Milliseconds per operator in one run: the sum over its nodes of their shortest times.

    What other programs took of the processor meanwhile is no operator's work, and a kernel is short enough to be left
    alone once in a few runs.

    Args:
        events: Of a trace with :data:`_WARMUP` + :data:`_RUNS` runs, in their order.
    """
    nodes: dict[tuple[str, str], list[float]] = {}
    for event in events:
        # A node may have an event for what surrounds its kernel too.
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            key = (str(event["args"]["op_name"]), str(event["name"]))
            nodes.setdefault(key, []).append(float(event["dur"]))
    times: dict[str, float] = {}
    for (operator, _), durations in nodes.items():
        each = len(durations) / (_WARMUP + _RUNS)  # more than one in the body of a loop
        counted = durations[round(_WARMUP * each) :] or durations
        times[operator] = times.get(operator, 0.0) + each * min(counted) / 1e3
    return times
