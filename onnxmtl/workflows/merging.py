"""Already trained models in one file, what they share computed once: :func:`merge`."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxmtl.cost.count import Costs, count
from onnxmtl.deploy.differences import compare_parts
from onnxmtl.deploy.merge import Cost, MergeReport, check_parity
from onnxmtl.deploy.parity import Reference, compare_outputs
from onnxmtl.errors import ModelError, RunError, TaskError
from onnxmtl.frontends.source import file_of, kind_of, read
from onnxmtl.frontends.validity import blamed
from onnxmtl.ir import diagnostics, listed, save, save_external, to_bytes
from onnxmtl.ir.external import external_tensors
from onnxmtl.ir.io import EXTERNAL_DATA_BYTES, weight_bytes
from onnxmtl.ir.passes import PassError
from onnxmtl.passes.merge_metadata import Said, check_contracts, write_merged_metadata
from onnxmtl.passes.merge_models import Part, canonical_parts, merge_models, number_parts
from onnxmtl.runs.atomic import disk_errors, sync, temporary_name


def merge(
    models: Sequence[Any],
    output: str | os.PathLike[str],
    *,
    tasks: Sequence[str] = (),
    check: bool = True,
) -> MergeReport:
    """Write one model with the outputs of several; nodes that compute the same are there once.

    Models share what they have equal to the last bit, from the input on: a trunk that was frozen, its running
    statistics included. Nothing is approximated or averaged.

    Args:
        models: Two or more: paths of ``.onnx`` files or run directories, or what :func:`onnxmtl.load` takes without
            an example input. They are not changed.
        output: The file to write; must not exist. Weights lie beside it, in ``<output>.data``, if those of one of the
            models did or if they are too large for one file.
        tasks: One name per model, for its output; ``<name>_<output>`` if it has several. Empty: outputs keep their
            names, and those that clash are named after the files.
        check: Whether all outputs are compared with those of the single models in ONNX Runtime.

    Returns:
        What is shared, what is not and why, what it saves, and how well outputs agree.

    Raises:
        ModelError: A model cannot be read or merged with the others: other input, a supermodel, another version of a
            library of operators.
        TaskError: Names for the outputs are missing or used twice.
        VerificationError: The merged model computes something else (by more than 1e-5, relative, which converting an
            opset may do); nothing is written.
        RunError: `output` exists, or the disk refuses.
    """
    if len(models) < 2:
        msg = f"merging takes two models or more, not {len(models)}"
        raise ModelError(msg)
    target = Path(output)
    _refuse_existing(target)
    names = _titles(models)
    read_models = [read(model) for model in models]
    outputs = _output_names(names, read_models, tasks)
    parts = [Part(*one) for one in zip(names, read_models, outputs, strict=True)]
    references, sizes = [], []
    for part, model in zip(parts, models, strict=True):
        is_file = kind_of(model) == "onnx"
        source = file_of(model) if is_file else to_bytes(part.model) if check else b""
        sizes.append(_bytes_of(source, part.model))
        references.append(source)
    beside = any(True for part in parts for _ in external_tensors(part.model))
    said = [Said(*one) for one in zip(names, read_models, outputs, strict=True)]
    check_contracts(said)
    old_outputs = [[str(value.name) for value in part.model.graph.outputs] for part in parts]
    try:
        inputs = canonical_parts(parts)
    except PassError as error:
        raise _fault(error, models) from error
    fed = [{str(value.name): inputs[value] for value in part.model.graph.inputs} for part in parts]
    costs = [
        Cost.of(part.name, len(part.model.graph), _counted(part.model), size)
        for part, size in zip(parts, sizes, strict=True)
    ]
    numbers = number_parts(parts, inputs)
    pairs = tuple(compare_parts(one, two, numbers) for one, two in itertools.combinations(parts, 2))
    remarks = [f"{part.name}: {remark}" for part in parts for remark in diagnostics(part.model)]
    merged = merge_models(parts, inputs, numbers)
    remarks += write_merged_metadata(merged, said)
    checked = [
        Reference(part.name, source, fed[i], dict(zip(old_outputs[i], part.outputs, strict=True)))
        for i, (part, source) in enumerate(zip(parts, references, strict=True))
    ]
    report = MergeReport(
        model=str(target),
        outputs={new: (part.name, old) for part, olds in zip(parts, old_outputs, strict=True)
                 for old, new in zip(olds, part.outputs, strict=True)},
        parts=tuple(costs),
        merged=Cost.of(target.name, len(merged.graph), _counted(merged), 0),
        pairs=pairs,
        parity=(),
        remarks=tuple(remarks),
    )  # fmt: skip
    return _written(merged, target, report, checked if check else [], beside)


def _written(
    merged: ir.Model, target: Path, report: MergeReport, references: Sequence[Reference], beside: bool
) -> MergeReport:
    """Write into a folder beside the target, check there, then move the file, or both files, into place."""
    folder = temporary_name(target)
    try:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            external = beside or weight_bytes(merged) > EXTERNAL_DATA_BYTES
            file = (save_external if external else save)(merged, folder / target.name)
        parity = compare_outputs(file, references) if references else ()
        check_parity(parity)
        with disk_errors(target):
            _refuse_existing(target)
            written = sorted(folder.iterdir(), key=lambda path: path == file)  # the model last: it needs the other
            size = sum(path.stat().st_size for path in written)
            for path in written:
                sync(path)
                path.rename(target.parent / path.name)
            sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return dataclasses.replace(report, parity=parity, merged=dataclasses.replace(report.merged, file_bytes=size))


def _refuse_existing(target: Path) -> None:
    if target.suffix.lower() != ".onnx":
        msg = f"{target}: the merged model is an ONNX file; choose a name that ends in .onnx"
        raise RunError(msg)
    for path in (target, target.with_name(f"{target.name}.data")):
        if os.path.lexists(path):
            msg = f"{path} exists; nothing was written: choose another name or remove it"
            raise RunError(msg)


def _titles(models: Sequence[Any]) -> list[str]:
    """A name for each model, after its file or its folder; a number behind those that are used twice."""
    found = []
    for index, model in enumerate(models):
        if kind_of(model) not in ("onnx", "prototxt"):
            found.append(f"model{index + 1}")
            continue
        path = file_of(model).absolute()
        found.append(path.parent.name if path.name == "model.onnx" and path.parent.name else path.stem)
    twice = {name for name, times in Counter(found).items() if times > 1}
    seen: Counter[str] = Counter()
    taken = set(found)
    for index, name in enumerate(found):
        if name not in twice:
            continue
        seen[name] += 1
        while seen[name] > 1 and f"{name}_{seen[name]}" in taken:
            seen[name] += 1
        if seen[name] > 1:
            found[index] = f"{name}_{seen[name]}"
            taken.add(found[index])
    return found


def _output_names(names: Sequence[str], models: Sequence[ir.Model], tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """What the outputs of each model are called in the merged one."""
    old = [[str(value.name) for value in model.graph.outputs] for model in models]
    if tasks:
        if len(tasks) != len(models):
            msg = f"--tasks gives {len(tasks)} names ({', '.join(tasks)}) for {len(models)} models: one for each"
            raise TaskError(msg)
        if not all(tasks):
            msg = "--tasks has an empty name: give one for each model, as --tasks seg,depth"
            raise TaskError(msg)
        found = [_called(task, each) for task, each in zip(tasks, old, strict=True)]
    else:
        clashing = {name for name, times in Counter(itertools.chain(*old)).items() if times > 1}
        found = [
            tuple(new if was in clashing else was for was, new in zip(each, _called(_word(name), each), strict=True))
            for name, each in zip(names, old, strict=True)
        ]
    twice = [name for name, times in Counter(itertools.chain(*found)).items() if times > 1]
    if twice:
        msg = f"two outputs of the merged model would be called {listed(twice)}: name them by --tasks, one per model"
        raise TaskError(msg)
    return found


def _called(task: str, outputs: Sequence[str]) -> tuple[str, ...]:
    return (task,) if len(outputs) == 1 else tuple(f"{task}_{name}" for name in outputs)


def _word(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _counted(model: ir.Model) -> Costs | None:
    try:
        return count(model)
    except ModelError:  # a shape that nobody knows: the costs are unknown, the merge is not
        return None


def _bytes_of(source: Path | bytes, model: ir.Model) -> int:
    """Of a file and the files its weights lie in."""
    if isinstance(source, bytes):
        return len(source)
    return sum(os.path.getsize(path) for path in {str(source), *(tensor.path for tensor in external_tensors(model))})


def _fault(error: PassError, models: Sequence[Any]) -> Exception:
    """Whose fault a failed pass is: that of the first model that is no valid ONNX, or ours."""
    found: Exception = error
    for model in models:
        found = blamed(error, lambda model=model: read(model), str(model) if kind_of(model) == "onnx" else "the model")  # type: ignore[misc]
        if found is not error:
            break
    return found
