"""What a merge of models did, in numbers and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from onnxmtl.cost.count import Costs
from onnxmtl.deploy.differences import Pair
from onnxmtl.deploy.parity import Parity
from onnxmtl.errors import VerificationError
from onnxmtl.ir import counted

_TOLERANCE = 1e-5  # relative: what converting an opset may do to single precision


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one model costs.

    Attributes:
        name: Of the model.
        nodes: Of its graph.
        multiply_adds: At batch 1; None if a shape is unknown.
        parameters: Trainable elements; None as above.
        file_bytes: Of the file, with the weights beside it.
    """

    name: str
    nodes: int
    multiply_adds: int | None
    parameters: int | None
    file_bytes: int

    @classmethod
    def of(cls, name: str, nodes: int, costs: Costs | None, file_bytes: int) -> Cost:
        """From what was counted on the graph, if it could be counted."""
        if costs is None:
            return cls(name, nodes, None, None, file_bytes)
        return cls(name, nodes, costs.multiply_adds, costs.parameters, file_bytes)


@dataclasses.dataclass(frozen=True)
class MergeReport:
    """What came of merging.

    Attributes:
        model: The file that was written.
        outputs: Output of the merged model -> (name of the model it comes from, its name there).
        parts: The cost of each model, in order.
        merged: The cost of the merged model.
        pairs: Every two of the models, compared.
        parity: The outputs against those of the single models; empty if that was not asked for.
        remarks: What else is to be known.
    """

    model: str
    outputs: dict[str, tuple[str, str]]
    parts: tuple[Cost, ...]
    merged: Cost
    pairs: tuple[Pair, ...]
    parity: tuple[Parity, ...]
    remarks: tuple[str, ...]

    def ratio(self, what: str) -> float | None:
        """The merged model's multiply_adds, parameters, nodes or file_bytes over the sum of the single models'."""
        parts = [getattr(part, what) for part in self.parts]
        merged = getattr(self.merged, what)
        return merged / sum(parts) if merged is not None and None not in parts and sum(parts) else None

    def to_json(self) -> dict[str, Any]:
        """All numbers, JSON-ready."""
        names = ("multiply_adds", "parameters", "file_bytes")
        return {
            **dataclasses.asdict(self),
            "outputs": {name: {"model": part, "output": old} for name, (part, old) in self.outputs.items()},
            "ratios": {name: self.ratio(name) for name in names},
        }


def check_parity(parity: Sequence[Parity]) -> None:
    """Refuse a merge that changed what is computed.

    Raises:
        VerificationError: An output is off by more than the conversion of an opset may be.
    """
    for one in parity:
        if not one.error <= _TOLERANCE:
            msg = (
                f"the output {one.output!r} of the merged model differs from {one.reference} by {one.error:.1e} "
                f"(allowed {_TOLERANCE:.0e}); nothing was written: export the models with one opset"
            )
            raise VerificationError(msg)


def cost_rows(report: MergeReport) -> list[list[str]]:
    """The table of costs, first row its head."""
    rows = [["model", "nodes", "multiply-adds", "parameters", "bytes"]]
    names = ("nodes", "multiply_adds", "parameters", "file_bytes")
    for cost in (*report.parts, report.merged):
        rows.append([cost.name, *(_number(getattr(cost, name)) for name in names)])
    ratios = [report.ratio(name) for name in names]
    rows.append(["merged / sum of the single models", *("?" if r is None else f"{r:.3f}x" for r in ratios)])
    return rows


def pair_lines(report: MergeReport) -> list[str]:
    """What each two models share, where they part and why."""
    lines = []
    costs = {part.name: part for part in report.parts}
    for pair in report.pairs:
        whole = costs[pair.first].multiply_adds
        work = "" if not whole or pair.multiply_adds is None else f", {pair.multiply_adds / whole:.1%} of the work"
        found = f"{pair.first} and {pair.second} share {counted(pair.nodes, 'node')} of {costs[pair.first].nodes}{work}"
        lines.append(f"{found}, {_number(pair.parameters)} parameters")
        if pair.difference is None:
            lines.append(f"  {pair.second} has all that {pair.first} computes")
            continue
        where = pair.difference
        place = f"{where.operator} {where.node!r}"
        if where.other is not None and where.other != where.node:
            place += f" ({where.other!r} in {pair.second})"
        lines.append(f"  they part at {place}: {where.reason}")
        if pair.alike:
            work = "" if pair.alike_multiply_adds is None else f" ({_number(pair.alike_multiply_adds)} multiply-adds)"
            behind = f"{counted(pair.alike, 'node')} behind it with equal weights{work}"
            lines.append(f"  {behind} would be shared if these were equal")
        if where.hint:
            lines.append(f"  {where.hint}")
    return lines


def parity_lines(report: MergeReport) -> list[str]:
    """Every output against the single model's."""
    lines = []
    for one in report.parity:
        part, old = report.outputs[one.output]
        same = "bit-identical" if one.identical else f"relative error {one.error:.1e}{_ulps(one.ulps)}"
        optimized = f"{one.optimized_error:.1e}{_ulps(one.optimized_ulps)}" if one.optimized_error else "the same"
        lines.append(f"{one.output} ({part}: {old}): {same}; with runtime optimizations {optimized}")
    return lines


def _ulps(number: int | None) -> str:
    return "" if number is None else f" ({number} ulp)"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
