"""What watches a pipeline while it runs: invariants, times, dumps, numbers. Instruments never change the model."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import EXTERNAL_DATA_BYTES, listed, save, to_bytes, weight_bytes
from onnxmtl.ir.passes import PassBase, PassError
from onnxmtl.runtime import session


class Instrument(Protocol):
    """Something that is told about every pass of a :class:`~onnxmtl.passes.pipelines.Pipeline`.

    An instrument that finds something wrong raises; the error reaches the user as it is.
    """

    def should_run(self, pass_: PassBase, model: ir.Model) -> bool:
        """Whether the pass may run; it does if all instruments say so."""
        ...

    def before(self, pass_: PassBase, model: ir.Model) -> None:
        """Called right before the pass."""
        ...

    def after(self, pass_: PassBase, model: ir.Model, modified: bool) -> None:
        """Called right after the pass, with the model that it returned."""
        ...


class BaseInstrument:
    """An instrument that does nothing; override what you need."""

    def should_run(self, pass_: PassBase, model: ir.Model) -> bool:
        """Yes."""
        return True

    def before(self, pass_: PassBase, model: ir.Model) -> None:
        """Nothing."""

    def after(self, pass_: PassBase, model: ir.Model, modified: bool) -> None:
        """Nothing."""


def pass_name(pass_: PassBase) -> str:
    """The name a pass goes by in traces and errors: its class name."""
    return type(pass_).__name__


class CheckInvariants(BaseInstrument):
    """Every pass leaves a well-formed graph, and output names stay unless it has ``changes_outputs = True``.

    Raises:
        PassError: Names the pass and what it broke; a fault of the pass, not of the user.
    """

    def __init__(self) -> None:
        self._outputs: list[str] = []

    def before(self, pass_: PassBase, model: ir.Model) -> None:
        """Remember the output names."""
        self._outputs = [str(value.name) for value in model.graph.outputs]

    def after(self, pass_: PassBase, model: ir.Model, modified: bool) -> None:
        """Check the graph."""
        problem = find_violation(model.graph)
        outputs = [str(value.name) for value in model.graph.outputs]
        if problem is None and outputs != self._outputs and not getattr(pass_, "changes_outputs", False):
            problem = f"the outputs were {self._outputs} and are now {outputs}"
        if problem is not None:
            msg = f"the pass {pass_name(pass_)} left a broken graph: {problem}"
            raise PassError(msg)


def find_violation(graph: ir.Graph) -> str | None:
    """The first broken invariant of a graph in one sentence, or None.

    Checked: every value has one producer and a unique name, nodes have unique names, producers come before
    consumers, initializers have data, and every output depends on an input of the graph.
    """
    alive: dict[ir.Value, bool] = {}  # value -> whether it depends on an input
    names: dict[str, ir.Value] = {}
    nodes: set[str] = set()

    def define(value: ir.Value, live: bool, what: str) -> str | None:
        if value in alive:
            return f"{what} defines {value.name!r} a second time"
        if value.name is None or value.name == "":
            return f"{what} has no name" if value.uses() or value.is_graph_output() else None
        if names.setdefault(value.name, value) is not value:
            return f"{what}: the name {value.name!r} is used twice"
        alive[value] = live
        return None

    for name, value in graph.initializers.items():
        if value.const_value is None:
            return f"the initializer {name!r} has no data"
        if value.name != name:
            return f"the initializer {value.name!r} is registered as {name!r}"
        if not value.is_graph_input() and (problem := define(value, False, f"initializer {name!r}")):
            return problem
    for value in graph.inputs:
        if problem := define(value, True, f"input {value.name!r}"):
            return problem
    for node in graph:
        if not node.name:
            return f"a {node.op_type} node has no name"
        if node.name in nodes:
            return f"two nodes are called {node.name!r}"
        nodes.add(node.name)
        live = False
        for value_in in node.inputs:
            if value_in is None:
                continue
            if value_in not in alive:
                return f"node {node.name!r} uses {value_in.name!r} before it is defined"
            live |= alive[value_in]
        for value in node.outputs:
            if problem := define(value, live, f"node {node.name!r}"):
                return problem
    for value in graph.outputs:
        if value not in alive:
            return f"nothing defines the output {value.name!r}"
        if not alive[value]:
            return f"the output {value.name!r} does not depend on any input"
    return None


@dataclasses.dataclass(frozen=True)
class PassTime:
    """How long one pass took.

    Attributes:
        name: Class name of the pass.
        seconds: Wall-clock time.
        modified: Whether it changed the model.
    """

    name: str
    seconds: float
    modified: bool


class Timing(BaseInstrument):
    """Measures every pass; the results are in `times`, in order."""

    def __init__(self) -> None:
        self.times: list[PassTime] = []
        self._start = 0.0

    def before(self, pass_: PassBase, model: ir.Model) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after(self, pass_: PassBase, model: ir.Model, modified: bool) -> None:
        """Stop the clock."""
        self.times.append(PassTime(pass_name(pass_), time.perf_counter() - self._start, modified))


class DumpOnnx(BaseInstrument):
    """Writes the model after each pass as ``NN-PassName.onnx`` and a line on what changed to ``trace.txt``.

    Args:
        directory: Made if it does not exist. One instrument may serve several pipelines: numbers go on.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._count = 0
        self._before = _Summary((), frozenset(), (), 0)

    def before(self, pass_: PassBase, model: ir.Model) -> None:
        """Remember nodes, outputs and number of weights."""
        self._before = _Summary.of(model)

    def after(self, pass_: PassBase, model: ir.Model, modified: bool) -> None:
        """Write the model and the line."""
        self.directory.mkdir(parents=True, exist_ok=True)
        name = pass_name(pass_)
        save(model, self.directory / f"{self._count:02d}-{name}.onnx")
        change = _Summary.of(model).difference(self._before) if modified else "unchanged"
        with (self.directory / "trace.txt").open("a", encoding="utf-8") as trace:
            trace.write(f"{self._count:02d} {name}: {change}\n")
        self._count += 1


@dataclasses.dataclass(frozen=True)
class _Summary:
    """What `DumpOnnx` compares."""

    ops: tuple[str, ...]
    names: frozenset[str]
    outputs: tuple[str, ...]
    initializers: int

    @classmethod
    def of(cls, model: ir.Model) -> _Summary:
        nodes = list(model.graph)
        return cls(
            tuple(node.op_type for node in nodes),
            frozenset(str(node.name) for node in nodes),
            tuple(str(value.name) for value in model.graph.outputs),
            len(model.graph.initializers),
        )

    def difference(self, old: _Summary) -> str:
        """One line: nodes and weights before and after, nodes added and removed, outputs if they changed."""
        parts = [f"{len(old.ops)} -> {len(self.ops)} nodes", f"{old.initializers} -> {self.initializers} weights"]
        for sign, names in (("+", self.names - old.names), ("-", old.names - self.names)):
            shown = sorted(names)
            if shown:
                parts.append(f"{sign} {listed(shown)}")
        if self.outputs != old.outputs:
            parts.append(f"outputs {', '.join(old.outputs)} -> {', '.join(self.outputs)}")
        return "; ".join(parts)


class NumericGuard(BaseInstrument):
    """Runs the model before and after every pass that promises to keep the numbers (``preserves_numerics = True``).

    Compared are the outputs that exist, by name, before and after the pass.

    Args:
        inputs: Input name -> array. Inputs that a model does not have are left out.
        rtol: Allowed max|Δ| / max|y|, per output.

    Raises:
        PassError: Names the pass, the output and the error it made.
    """

    def __init__(self, inputs: Mapping[str, np.ndarray[Any, Any]], rtol: float = 1e-4) -> None:
        self.inputs = dict(inputs)
        self.rtol = rtol
        self._expected: dict[str, np.ndarray[Any, Any]] = {}

    def before(self, pass_: PassBase, model: ir.Model) -> None:
        """Compute what the outputs should be."""
        self._expected = self._run(model) if getattr(pass_, "preserves_numerics", False) else {}

    def after(self, pass_: PassBase, model: ir.Model, modified: bool) -> None:
        """Compare, if the pass promised and did something."""
        if not self._expected or not modified:
            return
        actual = self._run(model)
        for name in self._expected.keys() & actual.keys():
            error = relative_error(actual[name], self._expected[name])
            if not error <= self.rtol:
                msg = (
                    f"the pass {pass_name(pass_)} changed the numbers: output {name!r} differs by {error:.2e} "
                    f"(allowed {self.rtol:.0e})"
                )
                raise PassError(msg)

    def _run(self, model: ir.Model) -> dict[str, np.ndarray[Any, Any]]:
        with contextlib.ExitStack() as stack:
            source: Path | bytes
            if weight_bytes(model) > EXTERNAL_DATA_BYTES:  # too large for one message: by way of a file
                source = save(model, Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.onnx")
            else:
                source = to_bytes(model)
            # ONNX Runtime's own rewrites are off: it is the pass that is being judged.
            runner = session(source, optimize=False)
        wanted = {entry.name for entry in runner.get_inputs()}
        names = [entry.name for entry in runner.get_outputs()]
        return dict(zip(names, runner.run(names, {k: v for k, v in self.inputs.items() if k in wanted}), strict=True))


def relative_error(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], scale: float | None = None) -> float:
    """max|Δ| / max|expected| for floating point; for anything else the share of elements that differ.

    Args:
        actual: What was computed.
        expected: What it should be. Numbers that are not finite have to be the same ones in both.
        scale: Replaces max|expected|.

    Returns:
        inf where the shapes differ, or the numbers that are not finite.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.size:
        return 0.0
    if not np.issubdtype(expected.dtype, np.inexact) and expected.dtype.kind != "V":  # V: bfloat16 and its like
        return float(np.mean(actual != expected))
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(e)
    if not np.array_equal(a[~finite], e[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    difference = float(np.max(np.abs(a[finite] - e[finite]), initial=0.0))
    largest = float(np.max(np.abs(e), where=finite, initial=0.0)) if scale is None else scale
    return difference and difference / max(largest, _TINY)


_TINY = float(np.finfo(np.float32).tiny)
