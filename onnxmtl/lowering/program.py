"""A graph as a list of steps, and the plans that say which of them run.

A plan is made once per question (which tasks, which draw) and kept: planning walks the graph, running
a plan walks a flat list.

- Soft plans: a Choice of operators that are linear in their weights may become one operator with mixed weights; the
  options it replaces then do not run (:mod:`onnxmtl.lowering.mixing`).
- Hard plans: a Choice is its chosen option; only what that option needs runs, and steps that compute the same thing
  from the same values run once, which is how tasks share computation while their choices agree. Hence running
  statistics move once per distinct computation, as they do in the selected model.
- In between: Choices that are decided as in hard plans, the others as in soft plans.

Running statistics that several steps of a plan would move by the same input move with the first of them only: a
normalization that tasks share stays one computation where each of them mixes it with its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxmtl.ir import as_choice, is_choice
from onnxmtl.ir.attributes import canonical_attributes
from onnxmtl.lowering.draw import SiteTask
from onnxmtl.lowering.ops import Kernel, kernel_for
from onnxmtl.ops import weight_slots


@dataclasses.dataclass(frozen=True)
class Op:
    """One node. Values are numbered; -1 stands for an omitted input.

    Attributes:
        index: Position in the program.
        name: The node's name.
        inputs: Value numbers.
        outputs: Value numbers.
        kernel: Computes the outputs; None for a Choice.
        identity: Equal for nodes of the same operator and attributes; None where equal nodes must not merge.
        choice: (site, task) of a Choice, else None. Its last input is the logits.
        node: The node itself: mixers read its operator, attributes and shapes.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: Kernel | None
    identity: Hashable
    choice: SiteTask | None
    node: ir.Node


@dataclasses.dataclass(frozen=True)
class Program:
    """The lowered graph: steps in topological order, with the numbers of its input, weights and outputs.

    `statistics` are those of the weights that training steps move in place: running means and variances.
    """

    ops: tuple[Op, ...]
    input: int
    weights: Mapping[int, str]
    outputs: Mapping[str, int]
    count: int
    statistics: frozenset[int]

    @property
    def producers(self) -> dict[int, Op]:
        """Value number -> the step that makes it."""
        return {value: op for op in self.ops for value in op.outputs}


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a plan.

    Attributes:
        op: What to run.
        inputs: Value numbers after aliases were followed.
        release: Values that nobody needs after this step.
        mixed: A Choice that runs through its mixer.
        settled: Running statistics among its inputs that an earlier step has moved by the same input.
    """

    op: Op
    inputs: tuple[int, ...]
    release: tuple[int, ...]
    mixed: bool = False
    settled: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps to run and where each task's output is found."""

    steps: tuple[Step, ...]
    outputs: Mapping[str, int]


def build_program(model: ir.Model) -> Program:
    """Number the values and make the kernels. The graph's operators must all be supported."""
    graph = model.graph
    numbers: dict[ir.Value, int] = {}

    def number(value: ir.Value | None) -> int:
        return -1 if value is None else numbers.setdefault(value, len(numbers))

    number(graph.inputs[0])
    weights = {number(value): name for name, value in graph.initializers.items()}
    ops = []
    statistics: set[int] = set()
    for index, node in enumerate(graph):
        statistics.update(number(value) for slot, value in weight_slots(node) if slot.name in ("mean", "variance"))
        choice = as_choice(node) if is_choice(node) else None
        attributes = canonical_attributes(node, graph.opset_imports)
        ops.append(
            Op(
                index=index,
                name=str(node.name),
                inputs=tuple(number(v) for v in node.inputs),
                outputs=tuple(number(v) for v in node.outputs),
                kernel=None if choice else kernel_for(node),
                identity=None if attributes is None else (node.domain, node.op_type, attributes),
                choice=(choice.site, choice.task) if choice else None,
                node=node,
            )
        )
    outputs = {str(value.name): number(value) for value in graph.outputs}
    return Program(tuple(ops), numbers[graph.inputs[0]], weights, outputs, len(numbers), frozenset(statistics))


def hard_plan(
    program: Program,
    tasks: Sequence[str],
    options: Mapping[SiteTask, int],
    mixed: Mapping[int, tuple[int, ...]] | None = None,
) -> Plan:
    """Only what the chosen options need, each distinct computation once.

    A Choice that `options` does not decide stays; `mixed` is for these, see :func:`soft_plan`.
    """
    alias: dict[int, int] = {}
    replaced = mixed or {}

    def resolve(value: int) -> int:
        while value in alias:
            value = alias[value]
        return value

    def inputs(op: Op) -> tuple[int, ...]:
        return tuple(resolve(value) for value in replaced.get(op.index, op.inputs))

    for op in program.ops:
        if op.choice is not None and op.choice in options:
            alias[op.outputs[0]] = op.inputs[options[op.choice]]
    live = _live(program, (resolve(program.outputs[t]) for t in tasks), inputs)
    seen: dict[Hashable, Op] = {}
    kept: list[tuple[Op, tuple[int, ...]]] = []
    for op in program.ops:
        if op.index not in live:
            continue
        read = inputs(op)
        own = op.identity is None or op.choice is not None  # two Choices have draws of their own
        first = op if own else seen.setdefault((op.identity, read), op)
        if first is op:
            kept.append((op, read))
        else:
            alias.update(zip(op.outputs, first.outputs, strict=True))
    outputs = {task: resolve(program.outputs[task]) for task in tasks}
    return _finish(program, [(op, read, op.index in replaced) for op, read in kept], outputs)


def soft_plan(program: Program, tasks: Sequence[str], mixed: Mapping[int, tuple[int, ...]]) -> Plan:
    """All options of all Choices; `mixed` maps a Choice's index to the values its mixture reads instead."""

    def inputs(op: Op) -> Sequence[int]:
        return mixed.get(op.index, op.inputs)

    live = _live(program, (program.outputs[t] for t in tasks), inputs)
    steps = [(op, tuple(inputs(op)), op.index in mixed) for op in program.ops if op.index in live]
    return _finish(program, steps, {task: program.outputs[task] for task in tasks})


def _live(program: Program, wanted: Iterable[int], inputs: Callable[[Op], Sequence[int]]) -> set[int]:
    producers = program.producers
    stack = [producers[v] for v in wanted if v in producers]
    live: set[int] = set()
    while stack:
        op = stack.pop()
        if op.index in live:
            continue
        live.add(op.index)
        stack.extend(producers[v] for v in inputs(op) if v in producers)
    return live


def _finish(program: Program, steps: Sequence[tuple[Op, tuple[int, ...], bool]], outputs: Mapping[str, int]) -> Plan:
    """Add what each step may release: values that no later step and no output reads; and which statistics rest."""
    keep = set(outputs.values()) | set(program.weights) | {program.input}
    settled = _settled(program, steps)
    seen: set[int] = set()
    finished = []
    for (op, inputs, mixed), rest in zip(reversed(steps), reversed(settled), strict=True):
        release = []
        for value in (*inputs, *op.outputs):
            if value >= 0 and value not in keep and value not in seen:
                seen.add(value)
                release.append(value)
        finished.append(Step(op, inputs, tuple(release), mixed, rest))
    return Plan(tuple(reversed(finished)), dict(outputs))


def _settled(program: Program, steps: Sequence[tuple[Op, tuple[int, ...], bool]]) -> list[frozenset[int]]:
    """For each step, the statistics it reads that an earlier one moved by the same input (always the first)."""
    moved: set[tuple[int, int]] = set()
    found = []
    for _, inputs, _ in steps:
        moves = {(inputs[0], value) for value in inputs[1:] if value in program.statistics}
        found.append(frozenset(value for _, value in moves & moved))
        moved |= moves
    return found
