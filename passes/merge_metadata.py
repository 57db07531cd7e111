"""What several models say about themselves, said of the model that they were merged into.

Requires that all parts were made by onnxmtl, or none: the contract of a merged model is complete or is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxmtl.errors import ModelError, TaskError
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize.contract import CONTRACT_KEY, VERSION
from onnxmtl.passes.finalize.metadata import KIND_KEY, PARTS_KEY, VERSION_KEY, WriteMetadata, parts
from onnxmtl.passes.heads import TASKS_KEY

MERGED_KEY = "onnxmtl.merged"
"""JSON: [{"name": …, "outputs": {name in the merged model: name in the part}}, …], a merged model's parts in order."""

_OF_A_GRAPH = frozenset((KIND_KEY, VERSION_KEY, PARTS_KEY, CONTRACT_KEY, TASKS_KEY, MERGED_KEY))


class Said:
    """What one part says; read before its model is used up.

    Args:
        name: The part's name.
        model: As it was read.
        outputs: Names of its outputs in the merged model.

    Raises:
        ModelError: Its contract or its tasks, which onnxmtl wrote, are damaged.
    """

    def __init__(self, name: str, model: ir.Model, outputs: Sequence[str]) -> None:
        self.name = name
        self.outputs = {str(value.name): new for value, new in zip(model.graph.outputs, outputs, strict=True)}
        self.properties = dict(model.metadata_props)
        self.final = self.properties.get(KIND_KEY) == "final"
        self.contract = self._contract()
        self.tasks = self._tasks()

    def _contract(self) -> dict[str, Any] | None:
        text = self.properties.get(CONTRACT_KEY)
        if text is None:
            return None
        try:
            found = json.loads(text)
            if found["version"] != VERSION or {*found["outputs"]} != {*self.outputs}:
                raise ValueError
            return {"input": dict(found["input"]), "outputs": {k: dict(v) for k, v in found["outputs"].items()}}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            msg = f"{self.name}: its metadata {CONTRACT_KEY!r} is damaged; emit the model again, or remove it"
            raise ModelError(msg) from error

    def _tasks(self) -> TaskSet | None:
        text = self.properties.get(TASKS_KEY)
        if text is None:
            return None
        try:
            found = TaskSet.from_json(text)
        except TaskError as error:
            msg = f"{self.name}: its metadata {TASKS_KEY!r} is damaged ({error}); emit the model again, or remove it"
            raise ModelError(msg) from error
        if set(found.names) != {*self.outputs}:
            return None
        return TaskSet(tuple(task.replace(name=self.outputs[task.name]) for task in found))


def check_contracts(said: Sequence[Said]) -> None:
    """Refuse parts that want different images: one image cannot be both.

    Raises:
        ModelError: Range, mean, scale, colour or layout of two contracts differ.
    """
    known = [one for one in said if one.contract is not None]
    for one in known[1:]:
        first, other = (_image(part) for part in (known[0], one))
        for key in sorted({*first, *other}):
            if first.get(key) != other.get(key):
                msg = (
                    f"{known[0].name} takes images of {key} {first.get(key)}, {one.name} of {key} {other.get(key)}: "
                    "merged they would get the same image; train or emit them for the same images"
                )
                raise ModelError(msg)


def _image(said: Said) -> dict[str, Any]:
    assert said.contract is not None
    return {key: value for key, value in said.contract["input"].items() if key not in ("name", "dtype", "shape")}


def write_merged_metadata(model: ir.Model, said: Sequence[Said]) -> tuple[str, ...]:
    """Write the metadata of a merged model.

    What all parts say alike is kept, what they say differently becomes ``<part>/<key>``; of ours, contract and tasks
    are joined if every part has them, ``onnxmtl.parts`` is told anew, and :data:`MERGED_KEY` names the parts.

    Returns:
        Remarks for the user.
    """
    remarks = []
    properties = model.metadata_props
    for key in sorted({key for one in said for key in one.properties if key not in _OF_A_GRAPH}):
        values = {one.properties.get(key) for one in said}
        if len(values) == 1:
            properties[key] = said[0].properties[key]
        else:
            properties.update({f"{one.name}/{key}": one.properties[key] for one in said if key in one.properties})
    contracts = [one.contract for one in said if one.contract is not None]
    if len(contracts) == len(said):
        properties[CONTRACT_KEY] = json.dumps(_joined(model, said), ensure_ascii=False)
    elif contracts:
        without = ", ".join(one.name for one in said if one.contract is None)
        remarks.append(f"no output contract is written: {without} has none")
    tasks = [one.tasks for one in said if one.tasks is not None]
    if len(tasks) == len(said):
        properties[TASKS_KEY] = TaskSet(tuple(task for each in tasks for task in each)).to_json()
    entries = [{"name": one.name, "outputs": {new: old for old, new in one.outputs.items()}} for one in said]
    properties[MERGED_KEY] = json.dumps(entries, ensure_ascii=False)
    if all(one.final for one in said):
        WriteMetadata()(model)
    else:
        properties[PARTS_KEY] = json.dumps(parts(model.graph), ensure_ascii=False)
    return tuple(remarks)


def _joined(model: ir.Model, said: Sequence[Said]) -> dict[str, Any]:
    shape: Mapping[str, Any] = {}
    image = model.graph.inputs[0]
    if image.shape is not None:
        shape = {"shape": [dim if isinstance(dim, int) else dim.value for dim in image.shape]}
    first = said[0].contract
    assert first is not None
    outputs: dict[str, Any] = {}
    for one in said:
        assert one.contract is not None
        outputs.update({one.outputs[name]: entry for name, entry in one.contract["outputs"].items()})
    return {"version": VERSION, "input": {**first["input"], "name": image.name, **shape}, "outputs": outputs}
