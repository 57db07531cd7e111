"""One fusion unit: the nodes that put the features of other networks into a layer.

    y = act(BN(W·x + Σ_e W_e·resize(x_e)))

which is the 1×1 convolution of the concatenated features [x, x_1, x_2, …] written slice by slice, so that the
multiply-adds and the weights of an edge are those of one node. ``select`` joins the slices again
(:mod:`onnxmtl.passes.select.fusion`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Namer, Role, make_choice, new_initializer, set_role, stamp
from onnxmtl.passes._builder import infer_outputs, static_channels, static_size
from onnxmtl.passes._fusion_parts import FUSION_KEY, JOIN, SLICE, ZERO

Activation = Literal["none", "relu", "relu6"]

_Array = np.ndarray[Any, np.dtype[Any]]

_PASSED_ON = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Dropout", "Identity"})
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softplus"})
_JOINED = frozenset({"Add", "Sum", "Concat"})
# 1 − ε is a number of single precision only if ε is a multiple of this.
_GRAIN = 2.0**-24


@dataclasses.dataclass(frozen=True)
class Source:
    """A foreign feature that a unit reads.

    Attributes:
        name: Task and layer, for names of nodes and weights.
        value: The feature [N, C, H, W], as it is before its own unit.
        site: Id of the edge's site; None for an edge that is always open.
    """

    name: str
    value: ir.Value
    site: str | None


@dataclasses.dataclass(frozen=True)
class UnitForm:
    """How units are made; for the fields see :class:`onnxmtl.passes.spaces.fusion.Fusion`."""

    prior: float
    epsilon: float
    momentum: float


class UnitBuilder:
    """Makes the nodes of units; they are collected, not yet in the graph."""

    def __init__(self, graph: ir.Graph, made_by: object, form: UnitForm) -> None:
        self.graph, self.made_by, self.form = graph, made_by, form
        self.namer = Namer(graph)
        self.nodes: list[ir.Node] = []
        self._constants: dict[str, ir.Value] = {}

    def unit(
        self, name: str, task: str, x: ir.Value, sources: Sequence[Source], own: float, activation: Activation
    ) -> ir.Value:
        """The unit that reads `x` and its sources, and its result, of the shape of `x`.

        Its 1×1 convolution starts as w_own·I for `x` and w_other·I for every source, w_own + j·w_other = 1 with j
        sources; I is rectangular where channels differ. Its normalization starts neutral: mean 0, variance 1 − ε.
        """
        other = (1.0 - own) / len(sources)
        first = self._slice(f"{name}/own", x, x, own)
        terms = [first]
        zero: ir.Value | None = None
        for source in sources:
            read = self._resized(f"{name}/{source.name}", source.value, x)
            term = self._slice(f"{name}/{source.name}", read, x, other)
            if source.site is not None:
                zero = self._zero(name, first) if zero is None else zero
                term = self._choice(source.site, task, term, zero)
            terms.append(term)
        total = self._node("Sum", terms, f"{name}/sum", like=x, part=JOIN)
        y = self._norm(f"{name}/bn", total)
        if activation == "relu":
            y = self._node("Relu", [y], f"{name}/relu", like=x)
        elif activation == "relu6":
            bounds = [self._scalar(bound, x) for bound in (0.0, 6.0)]
            y = self._node("Clip", [y, *bounds], f"{name}/relu6", like=x)
        return y

    def _slice(self, name: str, x: ir.Value, like: ir.Value, scale: float) -> ir.Value:
        """The part of the 1×1 convolution that reads `x`."""
        shape = (static_channels(like), static_channels(x))
        weight = self._weight(f"{name}.weight", (scale * np.eye(*shape)).reshape(*shape, 1, 1), like)
        attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
        return self._node("Conv", [x, weight], f"{name}/conv", attributes, like=like, part=SLICE)

    def _resized(self, name: str, x: ir.Value, like: ir.Value) -> ir.Value:
        """`x` itself if it has the height and width of `like`, else interpolated to them."""
        assert x.shape is not None and like.shape is not None
        if list(x.shape[2:]) == list(like.shape[2:]) and all(size is not None for size in x.shape[2:]):
            return x
        size = static_size(like)
        if size is None:
            sizes = self._node("Shape", [like], f"{name}/size", {"start": 2, "end": 4}, infer=True)
        else:
            sizes = self._constant(f"onnxmtl/size_{size[0]}x{size[1]}", np.array(size, np.int64))
        attributes: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "half_pixel", "axes": [2, 3]}
        value = self._node("Resize", [x, None, None, sizes], f"{name}/resize", attributes, like=like)
        value.shape = ir.Shape([x.shape[0], x.shape[1], *like.shape[2:]])
        return value

    def _zero(self, name: str, like: ir.Value) -> ir.Value:
        """Zeros of the shape of `like`, whatever it holds."""
        shape = self._node("Shape", [like], f"{name}/shape", part=ZERO, infer=True)
        fill = ir.tensor(np.zeros(1, _numpy_type(like)))
        return self._node("ConstantOfShape", [shape], f"{name}/zero", {"value": fill}, like=like, part=ZERO)

    def _choice(self, site: str, task: str, edge: ir.Value, cut: ir.Value) -> ir.Value:
        values = np.array([self.form.prior, 0.0], np.float32)
        logits = new_initializer(self.graph, self.namer.unique(f"{site}/logits"), values)
        choice = make_choice(
            [("edge", edge), ("cut", cut)],
            set_role(logits, Role.LOGITS),
            site=site,
            task=task,
            name=self.namer.unique(f"{site}/choice"),
            output=self.namer.unique(f"{site}/chosen"),
        )
        self.nodes.append(stamp(choice, self.made_by))
        return choice.outputs[0]

    def _norm(self, name: str, x: ir.Value) -> ir.Value:
        epsilon = max(1, round(self.form.epsilon / _GRAIN)) * _GRAIN
        channels = static_channels(x)
        start = {"weight": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0 - epsilon}
        weights = [self._weight(f"{name}.{part}", np.full(channels, number), x) for part, number in start.items()]
        for statistic in weights[2:]:
            set_role(statistic, Role.STATISTIC)
        attributes = {"epsilon": epsilon, "momentum": float(np.float32(self.form.momentum))}
        return self._node("BatchNormalization", [x, *weights], name, attributes, like=x)

    def _weight(self, name: str, array: _Array, like: ir.Value) -> ir.Value:
        value = new_initializer(self.graph, self.namer.unique(name), array.astype(_numpy_type(like)))
        return set_role(value, Role.FUSION)

    def _scalar(self, number: float, like: ir.Value) -> ir.Value:
        return self._constant(f"onnxmtl/{number:g}", np.array(number, _numpy_type(like)))

    def _constant(self, name: str, array: _Array) -> ir.Value:
        """One initializer per content, so that equal nodes can become one."""
        if name not in self._constants:
            self._constants[name] = new_initializer(self.graph, self.namer.unique(name), array)
        return self._constants[name]

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        like: ir.Value | None = None,
        part: str | None = None,
        infer: bool = False,
    ) -> ir.Value:
        """A node with one output, of the type and shape of `like`, or as onnx infers them."""
        node = ir.node(op_type, inputs, dict(attributes or {}), name=self.namer.unique(name))
        value = node.outputs[0]
        value.name = self.namer.unique(f"{name}_out")
        if part is not None:
            node.metadata_props[FUSION_KEY] = part
        if like is not None:
            value.type, value.shape = like.type, None if like.shape is None else ir.Shape(list(like.shape))
        if infer:
            infer_outputs(node, self.graph.opset_imports)
        self.nodes.append(stamp(node, self.made_by))
        return value


def activation_of(value: ir.Value) -> Activation:
    """The activation that changes nothing of a feature: ReLU6 or ReLU if it comes from one, through pooling or sums.

    Where the feature may be negative (behind a linear bottleneck, HardSwish, GELU) there is none.
    """
    kinds: set[Activation] = set()
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        if node is None or node.domain != "":
            return "none"
        before = [read for read in node.inputs if read is not None]
        if node.op_type in _NOT_NEGATIVE:
            kinds.add("relu")
        elif node.op_type == "Clip":
            low, high = (_number(node, index) for index in (1, 2))
            if low is None or low < 0:
                return "none"
            kinds.add("relu6" if (low, high) == (0.0, 6.0) else "relu")
        elif node.op_type in _PASSED_ON or node.op_type in _JOINED:
            read = before[:1] if node.op_type in _PASSED_ON else before
            kinds |= {"relu"} if node.op_type in ("Add", "Sum") else set()  # a sum may be larger than 6
            waiting += [one for one in read if one not in seen]
            seen.update(read)
        else:
            return "none"
    return "relu6" if kinds == {"relu6"} else "relu"


def _number(node: ir.Node, index: int) -> float | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else float(value.const_value.numpy())


def _numpy_type(like: ir.Value) -> np.dtype[Any]:
    return np.dtype(like.dtype.numpy()) if like.dtype is not None else np.dtype(np.float32)
