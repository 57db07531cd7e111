"""Foreign passes on supermodels: what would dissolve one is refused, with the reason.

A supermodel looks redundant to a tool that does not know it: Choices are functions that could be inlined, an own copy
has the values of the shared weight until it is trained, logits are all zeros. What the ready-made passes do to it was
tried, one by one, on supermodels with untrained copies:

    refused before they run (:data:`DISSOLVERS`)
        onnx_ir     InlinePass                              every Choice becomes a Softmax and a sum
                    DeduplicateInitializersPass, …Hashed…   own copies and logits of equal value become one
                    ClearMetadataAndDocStringPass           nodes forget their layer, task and head
                    AddInitializersToInputsPass             weights become inputs
                    CommonSubexpressionEliminationPass      equal skips of two sites become one, which is neither's own
        onnxscript  ConvertVersionPass                      inlines every function before it converts
    refused after they ran, by what is missing
        anything else; e.g. onnxscript.optimizer.optimize_ir, which inlines
    harmless
        onnx_ir     AddDefaultAttributes, Checker, IdentityElimination,
                    LiftConstantsToInitializers, NameFix, OutputFix, RemoveUnused…, ShapeInference, TopologicalSort, …
        onnxscript  RewritePass with rules that touch no weight, FoldConstantsPass

:class:`~onnxmtl.passes.pipelines.Pipeline` watches every foreign pass by itself; in a tool's own sequence wrap the
pass in :class:`Guarded`. A pass that means to change the Choices says so: ``changes_choices = True``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TypeAlias

import onnx_ir as ir

from onnxmtl.ir import as_choice, is_choice, is_supermodel, role_of
from onnxmtl.ir.passes import PassBase, PassResult, Refused
from onnxmtl.ir.roles import Role

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

# (package, class) -> what it does to a supermodel
DISSOLVERS = {
    ("onnx_ir", "InlinePass"): "it inlines functions, and so dissolves every Choice into plain nodes",
    ("onnx_ir", "DeduplicateInitializersPass"): "it merges weights of equal value, as own copies are until trained",
    (
        "onnx_ir",
        "DeduplicateHashedInitializersPass",
    ): "it merges weights of equal value, as own copies are until trained",
    ("onnx_ir", "ClearMetadataAndDocStringPass"): "it drops from which layer, task and head each node came",
    ("onnx_ir", "AddInitializersToInputsPass"): "it turns weights and logits into inputs",
    (
        "onnx_ir",
        "CommonSubexpressionEliminationPass",
    ): "it merges options of different sites; MergeEqualNodes merges later",
    ("onnxscript", "ConvertVersionPass"): "it inlines functions, and so dissolves every Choice into plain nodes",
}
_INSTEAD = "run it before the search space is inserted, or after an architecture is selected"


def is_foreign(pass_: PassBase) -> bool:
    """Whether a pass has to be watched: it is not ours, and does not say that it changes Choices."""
    own = type(pass_).__module__.partition(".")[0] == "onnxmtl"
    return not (own or getattr(pass_, "changes_choices", False))


def refuse_dissolver(pass_: PassBase) -> None:
    """Refuse a pass that is known to dissolve supermodels, also inside a sequence of onnx_ir.

    Raises:
        Refused: Says what the pass would do.
    """
    waiting = [pass_]
    while waiting:
        found = waiting.pop()
        waiting.extend(getattr(found, "passes", ()))
        reason = next((DISSOLVERS[key] for key in _names(found) if key in DISSOLVERS), None)
        if reason is not None:
            raise Refused(f"{type(found).__name__} is refused on a supermodel: {reason}; {_INSTEAD}")


def _names(pass_: PassBase) -> Iterable[tuple[str, str]]:
    return ((base.__module__.partition(".")[0], base.__name__) for base in type(pass_).__mro__)


Place: TypeAlias = tuple[str, str, int, int]  # site, task, number among their Choices, option


@dataclasses.dataclass(frozen=True)
class Choices:
    """What makes a supermodel: read before and after a pass, and compared.

    Attributes:
        options: (site, task) -> names of the options of each of its Choices.
        values: (site, task, Choice, option) -> the first of all places that read the same value.
        logits: (site, task) -> names of the logits that its Choices read: one, if all is well.
        weights: Name of every used weight -> its role.
    """

    options: dict[tuple[str, str], tuple[tuple[str, ...], ...]]
    values: dict[Place, Place]
    logits: dict[tuple[str, str], tuple[str, ...]]
    weights: dict[str, Role]

    @classmethod
    def of(cls, model: ir.Model) -> Choices:
        """Read a model; one walk."""
        options: dict[tuple[str, str], list[tuple[str, ...]]] = {}
        logits: dict[tuple[str, str], dict[str, None]] = {}
        places: dict[ir.Value, list[Place]] = {}
        for node in model.graph:
            if is_choice(node):
                choice = as_choice(node)
                same = options.setdefault((choice.site, choice.task), [])
                for index, value in enumerate(choice.options):
                    places.setdefault(value, []).append((choice.site, choice.task, len(same), index))
                same.append(choice.names)
                logits.setdefault((choice.site, choice.task), {})[str(choice.logits.name)] = None
        used = (v for v in model.graph.initializers.values() if v.dtype in _FLOATS and v.uses())
        # A scalar is a bound or an epsilon, which a tool may move about; weights have extent.
        weights = {str(v.name): role_of(v) for v in used if v.shape is None or len(v.shape) > 0}
        return cls(
            {key: tuple(found) for key, found in options.items()},
            {place: min(readers) for readers in places.values() for place in readers},
            {key: tuple(names) for key, names in logits.items()},
            weights,
        )

    def broken(self, before: Choices) -> str | None:
        """What is broken, compared with `before`, in one clause; None if nothing is."""
        for (site, task), names in before.options.items():
            found = self.options.get((site, task))
            if found != names:
                now = f"{len(found)} with the options {list(found[0])}" if found else "none"
                return f"site {site!r} had {len(names)} Choices of {list(names[0])} for task {task!r} and now has {now}"
        for place, first in self.values.items():
            if before.values.get(place) != first:
                what = (
                    f"option {self.options[place[:2]][place[2]][place[3]]!r} of task {place[1]!r} at site {place[0]!r}"
                )
                return f"{what} is not the value of its own any more that it was"
        owner: dict[str, tuple[str, str]] = {}
        for key, read in self.logits.items():
            if len(read) > 1:
                return f"the Choices of task {key[1]!r} at site {key[0]!r} read {len(read)} logits instead of one"
            other = owner.setdefault(read[0], key)
            if other != key and before.logits.get(key) != before.logits.get(other):
                return (
                    f"task {key[1]!r} at site {key[0]!r} and task {other[1]!r} at {other[0]!r} share their logits now"
                )
        for name, role in before.weights.items():
            if name not in self.weights:
                return f"the {role.value} weight {name!r} is gone, merged into another one or folded"
            if self.weights[name] is not role:
                return f"the {role.value} weight {name!r} has the role {self.weights[name].value} now"
        return None


class Guarded(PassBase):
    """A foreign pass that refuses to break a supermodel; for sequences that are not pipelines of ours.

    On a model without Choices it is just the pass. An in-place pass that is refused afterwards has changed the model.

    Args:
        pass_: Any pass.

    Raises:
        Refused: The pass is known to dissolve supermodels, or it broke this one; names the pass and what it broke.
    """

    def __init__(self, pass_: PassBase) -> None:
        self.pass_ = pass_

    @property
    def in_place(self) -> bool:
        """As the pass."""
        return self.pass_.in_place

    @property
    def changes_input(self) -> bool:
        """As the pass."""
        return self.pass_.changes_input

    @property
    def changes_outputs(self) -> bool:
        """As the pass."""
        return bool(getattr(self.pass_, "changes_outputs", False))

    @property
    def preserves_numerics(self) -> bool:
        """As the pass."""
        return bool(getattr(self.pass_, "preserves_numerics", False))

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass, watched."""
        return watched(self.pass_, model)


def watched(pass_: PassBase, model: ir.Model) -> PassResult:
    """Run `pass_`; refuse it, before or after, if it breaks a supermodel.

    Raises:
        Refused: As :class:`Guarded`.
    """
    if not is_foreign(pass_) or not is_supermodel(model):
        return pass_(model)
    refuse_dissolver(pass_)
    before = Choices.of(model)
    result = pass_(model)
    problem = Choices.of(result.model).broken(before)
    if problem is not None:
        raise Refused(f"{type(pass_).__name__} broke the supermodel: {problem}; {_INSTEAD}")
    return result
