"""Multi-task attention (MTAN, Liu et al. 2019, Sec. 3): one trunk for all tasks, and soft masks on it for each of them.

Per task t and stage j (a run of layers of one stride) an attention module, on the trunk's features p of the stage's
last layer and u of the layer before it (p itself in a stage of one layer):

    a_j = σ(BN(Conv1x1(ReLU(BN(Conv1x1([u_j ; f_{j-1}]))))))      the mask, per pixel and channel
    â_j = a_j ⊙ p_j                                               what the task attends to
    f_j = pool(ReLU(BN(Conv3x3(â_j))))                            handed on, with the size and channels of u_{j+1}

The first module reads u_1 alone; the task's head reads the last â in the place of the trunk's feature. The pooling is
as strong as the trunk's between the stages. In networks with depthwise convolutions the 3x3 convolution is a depthwise
and a 1x1 one (Bruggemann et al. 2020). The layer before the last follows the authors' code for residual networks; for
their SegNet it is the stage's first layer, which in stages of two is the same.

Requires a multi-task graph whose tasks share their trunk. Ensures that the trunk is still there once, the modules hang
on it, and that there are no Choices. A head that also reads earlier features gets â of those that are the last ones of
a stage, and others from the trunk. Where nodes without a layer of their own stand between the last stage and the head
(a pooling, a normalization), every task has them to itself, with weights of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.networks import Layer, network_layers, without_stem
from onnxmtl.ir import (
    Namer,
    Role,
    clone,
    copy_initializer,
    copy_nodes,
    head_of,
    is_supermodel,
    role_of,
    set_role,
    stamp,
    tasks_of_nodes,
)
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused, RemoveUnusedNodesPass
from onnxmtl.passes._builder import Attribute, static_channels, static_size
from onnxmtl.passes.spaces._mixing import TrunkBuilder, named_values, replace
from onnxmtl.passes.spaces.separate import Separate, are_separate


class Mtan(InPlacePass):
    """Turn a multi-task graph into a trunk with attention modules.

    Args:
        reduction: A module's hidden channels are the stage's divided by this, one at least.
        stem: Whether a first layer without a shortcut before residual blocks is a stage too.
        seed: Weights are drawn from it and their names.
    """

    def __init__(self, *, reduction: int = 4, stem: bool = False, seed: int = 0) -> None:
        self.reduction = reduction
        self.stem = stem
        self.seed = seed

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads or with Choices, networks that share nothing, and no reduction."""
        if is_supermodel(model):
            raise Refused("mtan: this model holds Choices; give the pass the multi-task graph before them")
        if not any(head_of(node) is not None for node in model.graph):
            raise Refused("mtan: the graph has no task heads; run AttachHeads first")
        if len(model.graph.outputs) > 1 and are_separate(model.graph):
            raise Refused("mtan: its attention modules read one trunk, but every task has a network of its own here")
        if self.reduction < 1:
            raise Refused(f"mtan: reduction is a number from 1 on, not {self.reduction}")

    def call(self, model: ir.Model) -> PassResult:
        """Insert the modules in place.

        Raises:
            Refused: No task's head is behind a layer with a feature map.
        """
        RemoveUnusedNodesPass()(model)
        graph = model.graph
        namer, values, needed = Namer(graph), named_values(graph), tasks_of_nodes(graph)
        trunk = [node for node in graph if head_of(node) is None]
        depthwise = any(_is_depthwise(node) for node in trunk)
        attended = {}
        for task, stages in self._stages(model, values).items():
            builder = TrunkBuilder.of(graph, f"{task}_attention", self, namer, self.seed)
            attended[task] = self._modules(builder, stages, depthwise)
        if not any(attended.values()):
            raise Refused("mtan: no task reads a feature map behind a layer, so there is nothing to attend to")
        for task, masked in attended.items():
            if masked:
                self._hand_over(graph, task, masked, [node for node in trunk if task in needed[node]], namer)
        RemoveUnusedNodesPass()(model)
        graph.sort()
        return PassResult(model, modified=True)

    def _stages(
        self, model: ir.Model, values: Mapping[str, ir.Value]
    ) -> dict[str, list[tuple[int, ir.Value, ir.Value]]]:
        """Task -> (stride, u, p) of the stages of the trunk that its head is behind."""
        separate = clone(model)
        Separate()(separate)
        found: dict[str, list[tuple[int, ir.Value, ir.Value]]] = {}
        for task, layers in network_layers(separate).items():
            kept: list[Layer] = [layer for layer in without_stem(layers, self.stem) if layer.name in values]
            found[task] = []
            for stride, run in itertools.groupby(kept, lambda layer: layer.stride):
                members = [values[layer.name] for layer in run]
                found[task].append((stride, members[-2] if len(members) > 1 else members[-1], members[-1]))
        return found

    def _modules(
        self, builder: TrunkBuilder, stages: Sequence[tuple[int, ir.Value, ir.Value]], depthwise: bool
    ) -> dict[ir.Value, ir.Value]:
        """The modules of one task: p -> â, in the order of the stages."""
        found: dict[ir.Value, ir.Value] = {}
        handed: ir.Value | None = None
        for number, (stride, u, p) in enumerate(stages):
            with builder.scope(f"stage{number + 1}"):
                read = u if handed is None else _joined(builder, u, handed)
                hidden = max(1, static_channels(p) // self.reduction)
                hidden_map = builder.conv_bn_relu(read, hidden, name="gather")
                with builder.scope("mask"):
                    mask = builder.conv(hidden_map, static_channels(p), bias=False)
                    mask = builder.op("Sigmoid", [builder.batchnorm(mask)])
                mask = builder.resize(mask, p, "mask_resize")
                found[p] = builder.op("Mul", [mask, p], name="attended", shape=p.shape)
                if number + 1 < len(stages):
                    following, like, _ = stages[number + 1]
                    handed = _handed(builder, found[p], following / stride, like, depthwise)
        return found

    def _hand_over(
        self,
        graph: ir.Graph,
        task: str,
        masked: dict[ir.Value, ir.Value],
        trunk: Sequence[ir.Node],
        namer: Namer,
    ) -> None:
        """The task's head reads what the task attends to."""
        last = next(reversed(masked))
        behind: set[ir.Value] = {last}
        tail = []  # what stands between the last stage and the head
        for node in trunk:
            if any(value in behind for value in node.inputs):
                tail.append(node)
                behind.update(node.outputs)
        held = dict(masked)
        for value in (value for node in tail for _, value in ops.weight_slots(node)):
            if value not in held:
                own = copy_initializer(graph, value, namer.unique(f"{value.name}/{task}"))
                held[value] = own if role_of(value) is Role.STATISTIC else set_role(own, Role.OWN)
        copies = copy_nodes(tail, held, lambda name: namer.unique(f"{name}/{task}"))
        for node, copy in zip(tail, copies, strict=True):
            graph.append(stamp(copy, self, node))
        needed = tasks_of_nodes(graph)
        for old, new in held.items():
            if old.is_initializer():
                continue
            readers = [use for use in old.uses() if head_of(use.node) is not None and task in needed[use.node]]
            for use in readers:
                use.node.replace_input_with(use.idx, new)
            if old.is_graph_output() and old.name == task:
                replace(graph, old, new, [], namer)


def _joined(builder: TrunkBuilder, u: ir.Value, handed: ir.Value) -> ir.Value:
    assert u.shape is not None
    shape = [u.shape[0], static_channels(u) + static_channels(handed), *u.shape[2:]]
    return builder.op("Concat", [u, handed], {"axis": 1}, shape=shape)


def _handed(builder: TrunkBuilder, x: ir.Value, ratio: float, like: ir.Value, depthwise: bool) -> ir.Value:
    """f: `x` with the size and channels of the next stage's u."""
    channels = static_channels(like)
    if depthwise:
        x = builder.conv_bn_relu(x, static_channels(x), kernel=3, groups=static_channels(x), name="depthwise")
        x = builder.conv_bn_relu(x, channels, name="point")
    else:
        x = builder.conv_bn_relu(x, channels, kernel=3, name="hand_on")
    factor = round(ratio)
    if factor > 1:
        size, wanted = static_size(x), static_size(like)
        floor = size is not None and wanted == (size[0] // factor, size[1] // factor)
        window: dict[str, Attribute] = {
            "kernel_shape": [factor] * 2,
            "strides": [factor] * 2,
            "ceil_mode": int(not floor),
        }
        x = builder.op("MaxPool", [x], window, name="pool")
    return builder.resize(x, like, "pool_resize")


def _is_depthwise(node: ir.Node) -> bool:
    weight = node.inputs[1] if node.op_type == "Conv" else None
    group = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
    if group < 2 or weight is None or weight.const_value is None:
        return False
    return bool(weight.const_value.shape[1] == 1)
