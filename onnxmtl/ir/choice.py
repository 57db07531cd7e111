"""The one operator we add: ``onnxmtl.Choice{n}``, a weighted sum of n options.

    inputs      option_0 … option_{n-1}, logits     (logits: float[n], an initializer)
    attributes  site: str, task: str, options: strings
    output      y = Σ_i softmax(logits)_i · option_i, of the options' common type and shape

The arity is part of the name because overloads are collapsed or dropped by several tools. Choices of one
(site, task) share one logits value: in any sample they take one draw. Logits are found through the Choice's
``site`` and ``task`` attributes, never by an initializer's name or value.

**Grouped sites** (the space `branch`) stand one behind the other, and tasks take their options in groups: tasks are
together at a site if all their choices up to it coincide, and each group has weights of its own there, also where two
groups take the same option. Their Choices say so in the metadata :data:`GROUPED_KEY`, which names the tensor that the
Choice stands for; nothing in the graph alone would tell it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir

DOMAIN = "onnxmtl"
VERSION = 1
GROUPED_KEY = "onnxmtl.grouped"
BLOCKS_KEY = "onnxmtl.blocks"  # in the metadata of a model with grouped sites: names of all blocks, in order
_NAME = re.compile(r"Choice([2-9]|[1-9][0-9]+)")
_FUNCTION_OPSET = 21


@dataclasses.dataclass(frozen=True)
class Choice:
    """A reader of a Choice node (made by :func:`as_choice`)."""

    node: ir.Node
    site: str
    task: str
    names: tuple[str, ...]

    @property
    def options(self) -> tuple[ir.Value, ...]:
        """The option values, in the order of `names`."""
        return tuple(v for v in self.node.inputs[: len(self.names)] if v is not None)

    @property
    def logits(self) -> ir.Value:
        """The logits initializer, float[n]."""
        value = self.node.inputs[len(self.names)]
        assert value is not None, f"Choice {self.node.name} has no logits"
        return value

    @property
    def output(self) -> ir.Value:
        """The value y."""
        return self.node.outputs[0]

    @property
    def grouped(self) -> str | None:
        """At a grouped site (see the module), the tensor that the Choice stands for; else None."""
        return self.node.metadata_props.get(GROUPED_KEY)


def is_choice(node: ir.Node) -> bool:
    """Whether `node` is a Choice of any arity."""
    return node.domain == DOMAIN and _NAME.fullmatch(node.op_type) is not None


def as_choice(node: ir.Node) -> Choice:
    """Read a Choice node.

    Raises:
        ValueError: `node` is no Choice, or its arity, options and inputs disagree.
    """
    match = _NAME.fullmatch(node.op_type) if node.domain == DOMAIN else None
    if match is None:
        msg = f"{node.op_type} ({node.name}) is not a Choice"
        raise ValueError(msg)
    count = int(match.group(1))
    names = tuple(node.attributes["options"].as_strings())
    if len(names) != count or len(node.inputs) != count + 1 or any(v is None for v in node.inputs):
        msg = f"{node.op_type} ({node.name}) has {len(names)} option names and {len(node.inputs)} inputs"
        raise ValueError(msg)
    return Choice(node, node.attributes["site"].as_string(), node.attributes["task"].as_string(), names)


def choices(graph: ir.Graph) -> Iterator[Choice]:
    """All Choices of the graph, in graph order."""
    return (as_choice(node) for node in graph if is_choice(node))


def is_supermodel(model: ir.Model) -> bool:
    """Whether the model holds at least one Choice."""
    return any(is_choice(node) for node in model.graph)


def make_choice(
    options: Sequence[tuple[str, ir.Value]],
    logits: ir.Value,
    *,
    site: str,
    task: str,
    name: str,
    output: str,
) -> ir.Node:
    """Build a Choice node, not yet in a graph.

    Args:
        options: (name, value) pairs of one type and shape; at least two.
        logits: Initializer of shape [len(options)].
        site: Id of the site. Choices of one (site, task) must be given the same `logits`.
        task: Name of the task that decides.
        name: Name of the node.
        output: Name of the output value.
    """
    if len(options) < 2:
        msg = f"a Choice needs two options or more, {site!r} has {len(options)}"
        raise ValueError(msg)
    first = options[0][1]
    out = ir.Value(name=output, type=first.type, shape=None if first.shape is None else ir.Shape(list(first.shape)))
    return ir.Node(
        DOMAIN,
        f"Choice{len(options)}",
        [*(value for _, value in options), logits],
        [
            ir.AttrString("site", site),
            ir.AttrString("task", task),
            ir.AttrStrings("options", [option for option, _ in options]),
        ],
        outputs=[out],
        name=name,
    )


def choice_function(count: int) -> ir.Function:
    """The model-local function body of Choice{count}: plain ONNX, so any runtime can run a supermodel."""
    options = [ir.Value(name=f"option_{i}") for i in range(count)]
    logits = ir.Value(name="logits")
    nodes: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value], name: str, attributes: Sequence[ir.Attr] = ()) -> ir.Value:
        value = ir.Value(name=name)
        nodes.append(ir.Node("", op, inputs, attributes, outputs=[value], name=f"{name}_node"))
        return value

    weights = add("Softmax", [logits], "weights", [ir.AttrInt64("axis", -1)])
    terms = []
    for i, option in enumerate(options):
        index = add("Constant", [], f"index_{i}", [ir.AttrTensor("value", ir.tensor(np.int64(i)))])
        weight = add("Gather", [weights, index], f"weight_{i}", [ir.AttrInt64("axis", 0)])
        cast = add("CastLike", [weight, option], f"cast_{i}")
        terms.append(add("Mul", [cast, option], f"term_{i}"))
    y = add("Sum", terms, "y")
    graph = ir.Graph([*options, logits], [y], nodes=nodes, opset_imports={"": _FUNCTION_OPSET})
    attributes = [
        ir.Attr("site", ir.AttributeType.STRING, None),
        ir.Attr("task", ir.AttributeType.STRING, None),
        ir.Attr("options", ir.AttributeType.STRINGS, None),
    ]
    return ir.Function(DOMAIN, f"Choice{count}", graph=graph, attributes=attributes)


def attach_functions(model: ir.Model) -> None:
    """Give the model the function bodies and the opset import its Choices need; drop those no longer used."""
    counts = {len(choice.names) for choice in choices(model.graph)}
    for key in [k for k in model.functions if k[0] == DOMAIN and _NAME.fullmatch(k[1])]:
        del model.functions[key]
    for count in sorted(counts):
        function = choice_function(count)
        model.functions[function.identifier()] = function
    if counts:
        model.graph.opset_imports[DOMAIN] = VERSION
    elif not any(node.domain == DOMAIN for node in model.graph):
        model.graph.opset_imports.pop(DOMAIN, None)


def choice_schema(count: int) -> onnx.defs.OpSchema:
    """The operator schema of Choice{count} (types and shapes of all options and the output agree)."""
    parameter = onnx.defs.OpSchema.FormalParameter
    attribute = onnx.defs.OpSchema.Attribute
    kinds = onnx.defs.OpSchema.AttrType
    return onnx.defs.OpSchema(
        f"Choice{count}",
        DOMAIN,
        VERSION,
        doc="y = sum_i softmax(logits)_i * option_i",
        inputs=[*(parameter(f"option_{i}", "T") for i in range(count)), parameter("logits", "L")],
        outputs=[parameter("y", "T")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)"], "options"),
            ("L", ["tensor(float)", "tensor(double)"], "logits"),
        ],
        attributes=[
            attribute("site", kinds.STRING, required=True),
            attribute("task", kinds.STRING, required=True),
            attribute("options", kinds.STRINGS, required=True),
        ],
    )
