"""The output contract: each output in the form its task asks for, and metadata that says what goes in and comes out.

Requires a multi-task model whose outputs are the tasks' raw predictions. Ensures outputs of the same names, after

    probabilities   Softmax over the classes; Sigmoid where there is one channel (edges)
    argmax          index of the best class, int64, without the channel axis
    unit            divided by its length over the channels; a zero vector stays zero
    clipped         clipped to [0, 1]
    logits, raw     nothing

and ``onnxmtl.contract`` in the metadata, JSON::

    {"version": 1,
     "input": {"name": …, "dtype": …, "shape": […], …what the caller knows: layout, range, mean, scale, colour…},
     "outputs": {task: {"kind": …, "output": …, "resolution": …, "unit": …, "classes": …, "class_names": […],
                        "dtype": …, "shape": […]}}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Namer
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes._builder import Builder

CONTRACT_KEY = "onnxmtl.contract"
VERSION = 1

# Shorter vectors than this are divided by it: 0 / 0 would be nan.
_SHORTEST = 1e-12


class ApplyOutputContract(InPlacePass):
    """Append each task's last step and write the contract.

    Args:
        tasks: The tasks, in the order of the model's outputs.
        input_spec: What the images are, JSON-able: layout, range, mean, scale, size, colour.

    Raises:
        Refused: The outputs are not the tasks, or the contract was applied before.
    """

    def __init__(self, tasks: TaskSet, input_spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.tasks = tasks
        self.input_spec = dict(input_spec)

    def requires(self, model: ir.Model) -> None:
        """Check that the outputs are the tasks' raw predictions."""
        if CONTRACT_KEY in model.metadata_props:
            msg = "the output contract is applied already: a softmax or argmax would run twice"
            raise Refused(msg)
        found = tuple(str(value.name) for value in model.graph.outputs)
        if found != self.tasks.names:
            msg = f"the outputs of the model are {', '.join(found)}, the tasks are {', '.join(self.tasks.names)}"
            raise Refused(msg)
        for task in self.tasks:
            if task.output not in _STEPS:
                msg = f"task {task.name!r}: nothing is known to make the output form {task.output!r}"
                raise Refused(msg)

    def call(self, model: ir.Model) -> PassResult:
        """Append the steps; names of the outputs stay."""
        graph = model.graph
        namer = Namer(graph)
        for index, task in enumerate(self.tasks):
            step = _STEPS[task.output]
            if step is None:
                continue
            raw = graph.outputs[index]
            raw.name = namer.unique(f"{task.name}_raw")
            # Nothing random is built here, so the seed does not matter.
            builder = Builder(graph, f"{task.name}_output", task.name, self, 0, namer)
            final = step(builder, raw)
            final.name = task.name
            graph.outputs[index] = final
        contract = {"version": VERSION, "input": self._input(graph.inputs[0]), "outputs": self._outputs(graph)}
        model.metadata_props[CONTRACT_KEY] = json.dumps(contract, ensure_ascii=False)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """Check that the outputs kept their names."""
        found = tuple(value.name for value in model.graph.outputs)
        assert found == self.tasks.names, f"outputs {found} are not the tasks {self.tasks.names}"

    def _input(self, image: ir.Value) -> dict[str, Any]:
        return {"name": image.name, **_tensor(image), **self.input_spec}

    def _outputs(self, graph: ir.Graph) -> dict[str, Any]:
        return {task.name: _entry(task, value) for task, value in zip(self.tasks, graph.outputs, strict=True)}


def _entry(task: Task, value: ir.Value) -> dict[str, Any]:
    """What one output means."""
    units = {"logits": "", "probabilities": "probability", "argmax": "class index", "unit": "unit vector"}
    return {
        "kind": task.kind,
        "output": task.output,
        "resolution": task.resolution if task.dense else None,
        "unit": units.get(task.output, task.prediction_unit),
        "classes": task.channels if task.spec.categorical else None,
        "class_names": list(task.class_names),
        **_tensor(value),
    }


def _tensor(value: ir.Value) -> dict[str, Any]:
    """Element type (numpy's name) and shape; symbolic dimensions by name, unknown ones null."""
    dims = list(value.shape) if value.shape is not None else []
    return {
        "dtype": str(value.dtype.numpy()) if value.dtype is not None else None,
        "shape": [dim if isinstance(dim, int) else dim.value for dim in dims] if value.shape is not None else None,
    }


def _probabilities(builder: Builder, raw: ir.Value) -> ir.Value:
    if raw.shape is not None and len(raw.shape) > 1 and raw.shape[1] == 1:
        return builder.op("Sigmoid", [raw])
    return builder.op("Softmax", [raw], {"axis": 1})


def _argmax(builder: Builder, raw: ir.Value) -> ir.Value:
    return builder.op("ArgMax", [raw], {"axis": 1, "keepdims": 0})


def _unit(builder: Builder, raw: ir.Value) -> ir.Value:
    dtype = raw.dtype.numpy() if raw.dtype is not None else np.float32
    axes = builder.constant("axes", np.array([1], dtype=np.int64))
    length = builder.op("ReduceL2", [raw, axes], {"keepdims": 1}, name="length")
    shortest = builder.constant("shortest", np.array(max(_SHORTEST, np.finfo(dtype).tiny), dtype=dtype))
    return builder.op("Div", [raw, builder.op("Max", [length, shortest], name="safe_length")])


def _clipped(builder: Builder, raw: ir.Value) -> ir.Value:
    dtype = raw.dtype.numpy() if raw.dtype is not None else np.float32
    bounds = [builder.constant(name, np.array(bound, dtype=dtype)) for name, bound in (("low", 0), ("high", 1))]
    return builder.op("Clip", [raw, *bounds])


_STEPS: dict[str, Callable[[Builder, ir.Value], ir.Value] | None] = {
    "logits": None,
    "raw": None,
    "probabilities": _probabilities,
    "argmax": _argmax,
    "unit": _unit,
    "clipped": _clipped,
}
