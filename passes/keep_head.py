"""A network that was trained for one task comes with its head: instead of cutting it off, it is kept.

:class:`SelectOutput` stands in the import pipeline where a backbone's classifier would be cut off, :class:`KeepHead`
behind it (:func:`network_pipeline`). Together they make a multi-task model of one task, as
:class:`~onnxmtl.passes.heads.AttachHeads` does of a backbone: the output is the task's raw prediction, and every node
of the head is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.features import KIND_KEY, feature_dims, named_value
from onnxmtl.analysis.finding import find_features
from onnxmtl.analysis.frontiers import ancestors, passive_values, reads
from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, Role, counted, head_of, listed, report, role_of, set_role, shape_text
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused
from onnxmtl.ir.provenance import HEAD_KEY
from onnxmtl.kinds import Task
from onnxmtl.ops import weight_slots
from onnxmtl.passes._builder import Builder, static_size
from onnxmtl.passes.instruments import Instrument
from onnxmtl.passes.normalize.features import CutAtFeatures
from onnxmtl.passes.normalize.fold import remove_dead
from onnxmtl.passes.normalize.inputs import image_input
from onnxmtl.passes.pipelines import Pipeline, import_pipeline

NEW_HEADS = "give --heads new to cut it there and attach a new head"
_RESIZING = frozenset({"Resize", "Identity"})
_BEHIND_LAST_LAYER = _RESIZING | {"Dropout", "Relu", "Sigmoid", "Tanh", "Clip", "Softplus", "Add", "Mul"}
# What the length of a vector is computed with (torch.nn.functional.normalize, and our own output contract).
_LENGTH = frozenset(
    ("ReduceL2", "ReduceSum", "ReduceSumSquare", "Mul", "Pow", "Abs", "Sqrt", "Max", "Clip", "Add", "Expand", "Shape")
)
_REDUCING = frozenset({"ReduceL2", "ReduceSum", "ReduceSumSquare"})


def network_pipeline(
    task: Task,
    *,
    batchnorm: Literal["keep", "insert"] = "keep",
    input_size: tuple[int, int] | None = None,
    instruments: Sequence[Instrument] = (),
) -> Pipeline:
    """A user's single-task network into canonical form, with its head.

    Args:
        task: What it was trained for. Its ``features`` say where the head begins; empty: found.
        batchnorm: "insert" puts a normalization behind every convolution of the trunk that lost it at export.
        input_size: (height, width) of the images, where it is to differ from the exported one.
        instruments: Told about every pass.
    """
    passes = list(import_pipeline(batchnorm=batchnorm, input_size=input_size).passes)
    cut = next(i for i, one in enumerate(passes) if isinstance(one, CutAtFeatures))
    passes[cut] = SelectOutput(task)
    passes.insert(len(passes) - 1, KeepHead(task))  # heads get no normalization
    return Pipeline(passes, instruments=instruments, name="import")


class SelectOutput(InPlacePass):
    """Makes the task's raw prediction the only output.

    Of several outputs it is the one with the task's name. What stands at its end to make another form of it is cut off,
    because losses take the raw form and the emitted model gets the form that the task asks for: ArgMax and Softmax of
    classes, the Sigmoid of edges and saliency, the normalization of unit vectors, a Clip to [0, 1] of keypoints, a
    Transpose to channels last. (The Sigmoid of a depth network belongs to its function and stays.)

    Requires: constants are folded, shapes inferred. Ensures: one image input, one output.

    Raises:
        Refused: There are several outputs and none has the task's name, or nothing is computed.
    """

    changes_outputs = True

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def call(self, model: ir.Model) -> PassResult:
        """Select and cut."""
        graph = model.graph
        outputs = {str(value.name): value for value in graph.outputs}
        found = outputs.get(self.task.name) or (graph.outputs[0] if len(graph.outputs) == 1 else None)
        if found is None:
            msg = (
                f"the network of task {self.task.name!r} has the outputs {', '.join(outputs)}: call the prediction "
                f"{self.task.name!r}, or {NEW_HEADS}"
            )
            raise Refused(msg)
        graph.outputs[:] = [found]
        raw, cut = _raw(found, self.task)
        if raw.producer() is None:
            msg = f"the network of task {self.task.name!r} computes nothing: its output is its input {raw.name!r}"
            raise Refused(msg)
        graph.outputs[:] = [raw]
        for node in [*cut, *_bypassed(raw, self.task)]:
            where = f"{node.op_type} {node.name!r}"
            message = f"{where} at the end of task {self.task.name!r} was cut off: what is trained is the raw form"
            hint = f"the emitted output is {self.task.output}; other forms: output = in the task's table"
            report(model, Diagnostic("head-end-cut", message, str(node.name), hint))
        remove_dead(graph)
        used = [value for value in graph.inputs if value.uses()]
        graph.inputs[:] = used
        image_input(graph)
        return PassResult(model, True)


class KeepHead(InPlacePass):
    """Marks what stands behind the network's feature as the task's head, and makes the prediction fit its contract.

    A dense prediction becomes as large as the image unless the task says ``resolution="native"``; one per image
    becomes [N, C]. The head begins where the nodes are marked as a head already (a model that onnxmtl emitted), or
    else behind the task's ``features``, or behind the tensor at which a classifier would be cut off, or at the last
    layer.

    Requires: shapes are known; one output. Ensures: nodes of the head have ``onnxmtl.head``, weights that nobody else
    uses have the role HEAD; ``onnxmtl.kind`` is "multitask". Numbers are those of the network, but for the resizing.

    Args:
        task: The task; its channels may still be open.

    Raises:
        Refused: The network has no head, or its prediction has another form than the task's.
    """

    changes_outputs = True

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def call(self, model: ir.Model) -> PassResult:
        """Find, mark and fit."""
        graph, task = model.graph, self.task
        (raw,) = graph.outputs
        head, features = _head(graph, task)
        for value in features:
            if feature_dims(value) is None:
                shape = shape_text(value.shape)
                msg = (
                    f"the network of task {task.name!r}: its head reads {value.name!r}, which is {shape}; networks are "
                    "joined by maps [N, C, H, W]: name the map that its head reads as the task's features"
                )
                raise Refused(msg)
        namer = Namer(graph)
        builder = Builder(graph, f"{task.name}_head", task.name, self, 0, namer)
        fitted = _fitted(builder, raw, graph.inputs[0], task)
        graph.outputs[:] = [fitted]
        for node in head:
            node.metadata_props[HEAD_KEY] = task.name
        for node in graph:
            if head_of(node) is not None and node not in head and node not in builder.created:
                del node.metadata_props[HEAD_KEY]  # of a model of other tasks
        for node in head:
            for _, value in weight_slots(node):
                if role_of(value) is not Role.STATISTIC and all(use.node in head for use in value.uses()):
                    set_role(value, Role.HEAD)
        model.metadata_props[KIND_KEY] = "multitask"
        shown = listed([str(value.name) for value in features])
        message = f"task {task.name!r} keeps the network's own head, {counted(len(head), 'node')} behind {shown}"
        hint = "name another feature in the task's table, features = [...], if it begins elsewhere"
        report(model, Diagnostic("head-kept", message, str(next(iter(head)).name), hint))
        return PassResult(model, True)


# The output's form


def _raw(output: ir.Value, task: Task) -> tuple[ir.Value, list[ir.Node]]:
    """The raw prediction behind `output`, and the nodes that are left out."""
    cut: list[ir.Node] = []
    value = output
    while (node := value.producer()) is not None:
        before = _form(node, task)
        if before is None:
            break
        cut.append(node)
        value = before
    # A Cast or Identity alone changes no form; what only they were cut for stays.
    if not any(node.op_type not in ("Cast", "Identity") for node in cut):
        return output, []
    return value, [node for node in cut if node.op_type not in ("Cast", "Identity")]


def _form(node: ir.Node, task: Task) -> ir.Value | None:
    """What a node reads that only makes another form of the task's prediction; None for any other node."""
    x = node.inputs[0] if node.inputs else None
    if x is None or x.is_initializer() or node.domain != "":
        return None
    forms = set(task.spec.outputs)
    last = _rank(x) == 4 and _is_channels_last(x)
    axis = node.attributes.get_int("axis", 0 if node.op_type == "ArgMax" else -1)
    axis += (_rank(x) or 0) if axis < 0 else 0
    over_classes = axis == (3 if last else 1)
    match node.op_type:
        case "Identity" | "Cast":
            return x
        case "ArgMax":
            return x if "argmax" in forms and over_classes else None
        case "Softmax" | "LogSoftmax":
            return x if task.spec.categorical and over_classes else None
        case "Sigmoid":
            return x if "logits" in forms and not task.spec.categorical else None
        case "LpNormalization":
            return x if "unit" in forms and over_classes else None
        case "Div":
            return x if "unit" in forms and _is_length_of(node.inputs[1], x) else None
        case "Clip":
            return x if "clipped" in forms and _bounds(node) == (0.0, 1.0) else None
        case "Transpose":
            return x if task.dense and _to_channels_last(node) else None
    return None


def _bypassed(raw: ir.Value, task: Task) -> list[ir.Node]:
    """Leaves out a Softmax or Sigmoid that is only resized behind it: the logits are resized in its place."""
    node = raw.producer()
    while node is not None and node.op_type in _RESIZING:
        x = node.inputs[0]
        before = None if x is None else x.producer()
        if x is None or before is None or len(x.uses()) != 1:
            return []
        if before.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
            found = _form(before, task)
            if found is None:
                return []
            node.replace_input_with(0, found)
            return [before]
        node = before
    return []


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _is_channels_last(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in ("Softmax", "Sigmoid", "Identity") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Transpose" and _to_channels_last(node)


def _to_channels_last(node: ir.Node) -> bool:
    return list(node.attributes.get_ints("perm") or ()) == [0, 2, 3, 1]


def _is_length_of(length: ir.Value | None, x: ir.Value) -> bool:
    """Whether `length` is computed from `x` and constants alone, by a sum over it."""
    summed, stack, seen = False, [length], set()
    while stack:
        value = stack.pop()
        if value is None or value is x or value.is_initializer() or value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is None or node.op_type not in _LENGTH:
            return False
        summed = summed or node.op_type in _REDUCING
        stack.extend(node.inputs)
    return summed


def _bounds(clip: ir.Node) -> tuple[float, float] | None:
    bounds = [value.const_value for value in clip.inputs[1:3] if value is not None and value.const_value is not None]
    return (float(bounds[0].numpy()), float(bounds[1].numpy())) if len(bounds) == 2 else None


# The head


def _head(graph: ir.Graph, task: Task) -> tuple[dict[ir.Node, None], list[ir.Value]]:
    """The nodes of the head in graph order, and the trunk's tensors that they read."""
    (raw,) = graph.outputs
    marked = [node for node in graph if head_of(node) is not None]
    if marked and not task.features:
        behind = set(marked)
        for node in graph:
            if any(value.producer() in behind for value in reads(node)):
                behind.add(node)
        head = {node: None for node in graph if node in behind}
    else:
        values = [named_value(graph, name) for name in task.features] or _features(graph, task)
        trunk = ancestors(values)
        if raw.producer() in trunk:
            values = _before_last_layer(raw)
            trunk = ancestors(values)
        head = {node: None for node in graph if node not in trunk} if values else {}
    passive = passive_values(graph)
    made = {value: None for node in graph if node not in head for value in node.outputs}
    wanted = {value for node in head for value in reads(node) if value not in passive}
    features = [value for value in made if value in wanted]
    if not features or not any(weight_slots(node) for node in graph if node not in head):
        msg = (
            f"the network of task {task.name!r} has no head to keep behind a feature: name what its head reads, "
            f"features = [...] in the task's table, or {NEW_HEADS}"
        )
        raise Refused(msg)
    return head, features


def _features(graph: ir.Graph, task: Task) -> list[ir.Value]:
    try:
        return find_features(graph)
    except ModelError as error:
        msg = f"the network of task {task.name!r}: {error}"
        raise Refused(msg) from error


def _before_last_layer(raw: ir.Value) -> list[ir.Value]:
    """What the last convolution or linear layer reads."""
    node = raw.producer()
    while node is not None and node.op_type in _BEHIND_LAST_LAYER and not _joins(node):
        x = next((value for value in node.inputs if value is not None and not value.is_initializer()), None)
        node = None if x is None else x.producer()
    x = node.inputs[0] if node is not None and node.op_type in ("Conv", "ConvTranspose", "Gemm") else None
    return [] if x is None or x.producer() is None else [x]


def _joins(node: ir.Node) -> bool:
    return node.op_type in ("Add", "Mul") and sum(v is not None and not v.is_initializer() for v in node.inputs) > 1


def _fitted(builder: Builder, raw: ir.Value, image: ir.Value, task: Task) -> ir.Value:
    """The prediction in the task's rank and size, as a node's output of its own."""
    shape = None if raw.shape is None else list(raw.shape)
    if not task.dense and shape is not None and len(shape) == 4 and shape[2:] == [1, 1]:
        raw = builder.op("Flatten", [raw], name="flat")
        shape = None if raw.shape is None else list(raw.shape)
    rank, layout = (4, "[N, C, H, W]") if task.dense else (2, "[N, C]")
    if shape is None or len(shape) != rank or not isinstance(shape[1], int) or raw.dtype is None:
        msg = (
            f"the network of task {task.name!r} gives {shape_text(raw.shape)}, {task.kind} needs {layout}; {NEW_HEADS}"
        )
        raise Refused(msg)
    if raw.dtype.numpy() != np.float32:
        msg = f"the network of task {task.name!r} gives {raw.dtype}, float32 is needed: name the output of its scores"
        raise Refused(msg)
    if task.dense and task.resolution == "input" and static_size(raw) != static_size(image):
        raw = builder.resize(raw, image, "to_input")
    return raw
