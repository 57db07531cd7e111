"""Several models in one graph; what they compute alike is computed once.

Fine-tuned models with a frozen trunk have equal weights, bit for bit, up to the layer where training began. The steps,
for models that were read and belong to nobody else:

1. :func:`canonical_parts`: one opset, no model-local functions, constants as initializers, nothing that no output
   needs, one set of inputs.
2. :class:`~onnxmtl.analysis.value_numbers.ValueNumbers` of all of them (:func:`number_parts`).
3. :func:`merge_models`: one graph.

No number changes but for what converting an opset may do.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.value_numbers import ValueNumbers
from onnxmtl.errors import ModelError
from onnxmtl.ir import head_of, set_sources, sources, stamp, unite, value_text
from onnxmtl.ir.copying import copy_shape
from onnxmtl.ir.passes import PassBase, RemoveInitializersFromInputsPass
from onnxmtl.ir.provenance import HEAD_KEY
from onnxmtl.passes.finalize.siblings import SeparateSiblings
from onnxmtl.passes.finalize.unused import RemoveUnused
from onnxmtl.passes.normalize.fold_exact import FoldExactly
from onnxmtl.passes.normalize.inline import InlineFunctions
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.opset import ConvertOpset
from onnxmtl.passes.normalize.shapes import infer_shapes
from onnxmtl.passes.pipelines import Pipeline

_MADE_BY = "merge_models"


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the models that are merged.

    Attributes:
        name: What it is called: in messages, and before names that another model has too. Each has its own.
        model: Changed while it is merged.
        outputs: Names of its outputs in the merged model, in order; unique over all parts.
    """

    name: str
    model: ir.Model
    outputs: tuple[str, ...]


def canonical_parts(parts: Sequence[Part]) -> dict[ir.Value, str]:
    """Bring all parts into one form, in place.

    Parts with one input each have that in common, whatever it is called; other inputs are the same if they have one
    name. Dimensions that one part leaves open and another fixes are fixed, open ones are called as in the first part.

    Returns:
        For each part's inputs, the name of the merged model's input.

    Raises:
        ModelError: A supermodel; an operator that cannot be converted; a library of operators in two versions; inputs
            of one name, or the only ones, that differ in type or size.
    """
    opset = max(
        part.model.graph.opset_imports.get("", part.model.graph.opset_imports.get("ai.onnx", 0)) for part in parts
    )
    for part in parts:
        try:
            _pipeline(part.model, opset)(part.model)
        except ModelError as error:
            msg = f"{part.name}: {error}"
            raise ModelError(msg) from error
    versions: dict[str, tuple[int, str]] = {}
    for part in parts:
        for domain, version in part.model.graph.opset_imports.items():
            first, whose = versions.setdefault(domain, (version, part.name))
            if first != version:
                msg = (
                    f"{part.name} uses version {version} of the operators {domain or 'ai.onnx'!r}, {whose} version "
                    f"{first}: export them with one version"
                )
                raise ModelError(msg)
    names = _join_inputs(parts)
    for part in parts:
        _infer(part.model)
    return names


def _pipeline(model: ir.Model, opset: int) -> Pipeline:
    """The steps that `model` needs. The opset converter is not called in vain: it raises the IR version too."""
    steps: list[PassBase] = [SeparateSiblings(), NameNodes(), InlineFunctions(), NameNodes()]
    steps.append(RemoveInitializersFromInputsPass())
    imports = model.graph.opset_imports
    if 0 < imports.get("", imports.get("ai.onnx", 0)) < opset or "ai.onnx" in imports:
        steps += [ConvertOpset(opset), NameNodes()]
    return Pipeline([*steps, FoldExactly(), RemoveUnused()], name="merge")


def _infer(model: ir.Model) -> None:
    """Shapes, as far as they can be told: for the costs, and for what a node leaves out. Outputs keep the names that
    their open dimensions have."""
    said = [(value, value.shape) for value in model.graph.outputs]
    with contextlib.suppress(ModelError):  # of an operator that onnx does not know, say
        infer_shapes(model)
    for value, old in said:
        if old is not None and value.shape is not None and len(old) == len(value.shape):
            unknown = [isinstance(dim, ir.SymbolicDim) and dim.value is None for dim in value.shape]
            value.shape = ir.Shape([o if u else d for o, d, u in zip(old, value.shape, unknown, strict=True)])


def _join_inputs(parts: Sequence[Part]) -> dict[ir.Value, str]:
    single = all(len(part.model.graph.inputs) == 1 for part in parts)
    first: dict[str, tuple[ir.Value, Part]] = {}
    dims: dict[str, list[int | ir.SymbolicDim]] = {}
    names: dict[ir.Value, str] = {}
    for part in parts:
        for value in part.model.graph.inputs:
            name = str(parts[0].model.graph.inputs[0].name if single else value.name)
            names[value] = name
            other, whose = first.setdefault(name, (value, part))
            if value.shape is None or other.shape is None:
                fits = value.shape is other.shape
            else:
                mine = list(value.shape)
                known = dims.setdefault(name, list(other.shape))
                fits = len(mine) == len(known) and all(
                    a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(mine, known, strict=True)
                )
                if fits:
                    dims[name] = [b if isinstance(b, int) or not isinstance(a, int) else a for a, b in
                                  zip(mine, known, strict=True)]  # fmt: skip
            if not fits or value.dtype != other.dtype:
                msg = (
                    f"{part.name} takes {value_text(value)}, {whose.name} takes {value_text(other)}: models are merged "
                    "if they take the same input; export them with one type and size"
                )
                raise ModelError(msg)
    for part in parts:
        known_inputs = [value for value in part.model.graph.inputs if value.shape is not None]
        _fix_dims(part.model.graph, {value: dims[names[value]] for value in known_inputs})
    return names


def _fix_dims(graph: ir.Graph, wanted: Mapping[ir.Value, Sequence[int | ir.SymbolicDim]]) -> None:
    """Give inputs their common dimensions; what a part called an open one is put in its place in all shapes."""
    renamed: dict[ir.SymbolicDim, int | ir.SymbolicDim] = {}
    for value, dims in wanted.items():
        assert value.shape is not None
        for old, new in zip(value.shape, dims, strict=True):
            if isinstance(old, ir.SymbolicDim) and old.value is not None and old != new:
                renamed.setdefault(old, new)
        value.shape = ir.Shape(list(dims))
    if not renamed:
        return
    for node in graph:
        for value in node.outputs:
            if value.shape is not None and any(
                dim in renamed for dim in value.shape if isinstance(dim, ir.SymbolicDim)
            ):
                value.shape = ir.Shape([d if isinstance(d, int) else renamed.get(d, d) for d in value.shape])


def number_parts(parts: Sequence[Part], inputs: Mapping[ir.Value, str]) -> ValueNumbers:
    """The numbers of all values of all parts, which :func:`canonical_parts` returned `inputs` for."""
    numbers = ValueNumbers()
    for part in parts:
        numbers.add(part.model.graph, inputs)
    return numbers


def merge_models(parts: Sequence[Part], inputs: Mapping[ir.Value, str], numbers: ValueNumbers) -> ir.Model:
    """One model with the outputs of all parts. The parts' models are used up.

    A node of a later part that an earlier one has too is that one's: it keeps the first part's name and carries the
    sources of both, ``<part>/<name>``. Other nodes and values keep their names if these are free, else they are
    ``<part>/<name>``. Equal weights of two parts are stored once; those within a part stay as they are.

    Args:
        parts: In canonical form.
        inputs: What :func:`canonical_parts` returned.
        numbers: What :func:`number_parts` returned; nothing was changed since.
    """
    merger = _Merger(parts, inputs, numbers)
    for part in parts:
        merger.add(part, inputs)
    return ir.Model(
        merger.graph,
        ir_version=max(part.model.ir_version for part in parts),
        producer_name="onnxmtl",
    )


class _Merger:
    """The graph that grows, and where in it the values of the parts are."""

    def __init__(self, parts: Sequence[Part], inputs: Mapping[ir.Value, str], numbers: ValueNumbers) -> None:
        versions = {d: v for part in parts for d, v in part.model.graph.opset_imports.items()}
        self.graph = ir.Graph([], [], nodes=[], opset_imports=versions, name="merged")
        self.numbers = numbers
        self.nodes: dict[int, ir.Node] = {}
        self.weights: dict[tuple[int, bool], list[ir.Value]] = {}
        self.outputs = {name for part in parts for name in part.outputs}
        self.values = {*self.outputs, *inputs.values()}  # names that are taken
        self.node_names: set[str] = set()
        self.inputs: dict[str, ir.Value] = {}
        self.joined: dict[ir.Value, ir.Value] = {}  # inputs and weights of a part that are another's here
        self.promised: set[ir.Value] = set()  # outputs that have their name

    def add(self, part: Part, inputs: Mapping[ir.Value, str]) -> None:
        """Move what is new of a part into the graph."""
        source = part.model.graph
        outputs = list(source.outputs)
        renamed = {str(value.name): name for value, name in zip(outputs, part.outputs, strict=True)}
        trained = ops.trainable_values(source)
        self._add_inputs(source, inputs)
        source.outputs.clear()
        for node in list(source):
            set_sources(node, [f"{part.name}/{name}" for name in sources(node)])
            if (task := head_of(node)) in renamed:
                node.metadata_props[HEAD_KEY] = renamed[str(task)]
            same = self.nodes.setdefault(self.numbers.of_node(node), node)
            if same is node or same.graph is source:  # a part's own repetitions stay
                continue
            unite(same, node)
            for old, new in zip(node.outputs, same.outputs, strict=True):
                old.replace_all_uses_with(new)
                outputs = [new if value is old else value for value in outputs]
            source.remove(node, safe=True)
        self._add_weights(part, trained, outputs)
        nodes = list(source)
        source.remove(nodes)
        for node in nodes:
            self._rename(part, node)
        self.graph.extend(nodes)
        for value, name in zip(outputs, part.outputs, strict=True):
            self._add_output(self.joined.get(value, value), name)

    def _add_inputs(self, source: ir.Graph, inputs: Mapping[ir.Value, str]) -> None:
        for value in source.inputs:
            name = inputs[value]
            if name not in self.inputs:
                called = self._free(f"{name}_input", "input", self.values) if name in self.outputs else name
                new = ir.Value(name=called, type=value.type, shape=copy_shape(value))
                new.metadata_props.update(value.metadata_props)
                self.inputs[name] = new
                self.graph.inputs.append(new)
            self.joined[value] = self.inputs[name]

    def _add_weights(self, part: Part, trained: Mapping[ir.Value, object], outputs: Sequence[ir.Value]) -> None:
        """Put the weights that are still used into the graph, or those in their place that are there already."""
        source = part.model.graph
        taken: set[ir.Value] = set()
        new: list[tuple[tuple[int, bool], ir.Value]] = []
        for value in list(source.initializers.values()):
            if not value.uses() and value not in outputs:
                continue
            key = (self.numbers.of(value) or 0, value in trained)
            there = next((other for other in self.weights.get(key, ()) if other not in taken), None)
            if there is None:
                new.append((key, value))
            else:
                taken.add(there)
                self.joined[value] = there
        source.initializers.clear()
        for key, value in new:
            value.name = self._free(str(value.name), part.name, self.values)
            self.graph.register_initializer(value)
            self.weights.setdefault(key, []).append(value)
            taken.add(value)
        for old, other in self.joined.items():
            old.replace_all_uses_with(other)

    def _rename(self, part: Part, node: ir.Node) -> None:
        """Give a node, its outputs and all that is in its subgraphs names that nobody has."""
        node.name = self._free(str(node.name), part.name, self.node_names)
        values = list(node.outputs)
        pending = list(_subgraphs(node))
        while pending:
            graph = pending.pop()
            values += [*graph.inputs, *graph.initializers.values()]
            for inner in graph:
                values += inner.outputs
                pending += _subgraphs(inner)
        for value in values:
            if value.name:
                value.name = self._free(value.name, part.name, self.values)

    def _add_output(self, value: ir.Value, name: str) -> None:
        """Make a value an output; one that has a name to keep gets an Identity behind it."""
        if value in self.promised or value.producer() is None:
            copy = ir.Value(type=value.type, shape=value.shape)
            node = ir.node("Identity", [value], outputs=[copy], name=self._free(name, "output", self.node_names))
            self.graph.append(stamp(node, _MADE_BY))
            value = copy
        value.name = name
        self.promised.add(value)
        self.graph.outputs.append(value)

    def _free(self, name: str, part: str, taken: set[str]) -> str:
        """`name` if it is free, else with the part's name before it, and a number if it must be; taken from now on."""
        found, count = name, 0
        while found in taken:
            found = f"{part}/{name}" + (f"_{count}" if count else "")
            count += 1
        taken.add(found)
        return found


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield attribute.value
        elif attribute.type is ir.AttributeType.GRAPHS:
            yield from attribute.value
