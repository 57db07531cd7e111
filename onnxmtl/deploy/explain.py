"""Why a rewrite did not apply, node by node: what passes said, and what they would say. Without torch.

A backbone is imported, and the search space and the folding of its normalizations are tried on copies. Of a run, what
its phases recorded is read. An emitted model is put through finalize's passes once more: they change nothing, and say
why.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from onnxmtl.analysis.shortcuts import refused_additions
from onnxmtl.errors import ModelError, OnnxMTLError, RunError
from onnxmtl.frontends.source import Dialect, read
from onnxmtl.ir import Diagnostic, diagnostics, is_supermodel
from onnxmtl.ir.passes import PassBase
from onnxmtl.passes.finalize import DedupInitializers, FoldBatchNorm, separated
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select.merge import MergeEqualNodes
from onnxmtl.passes.spaces.why import explain_sites, explain_skips
from onnxmtl.runs import read_json, write_json

DIAGNOSTICS_FILE = "diagnostics.json"


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One thing that was not done, or was done and is worth knowing.

    Attributes:
        stage: When: ``import``, ``space``, ``select`` or ``finalize``.
        code: Stable short name of the reason.
        node: The node's name, or "" for the whole model.
        reason: One sentence.
        hint: What to do about it; "" if nothing needs doing.
    """

    stage: str
    code: str
    node: str
    reason: str
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """How a backbone is imported; as the arguments of :func:`onnxmtl.passes.normalize.normalize`.

    Attributes:
        features: Names of feature tensors or nodes; empty: they are found.
        output_stride: No feature is coarser; 0 keeps the strides.
        batchnorm: ``insert`` puts normalization back where it was folded.
        input_size: (height, width); None keeps the file's.
    """

    features: tuple[str, ...] = ()
    output_stride: int = 0
    batchnorm: Literal["keep", "insert"] = "keep"
    input_size: tuple[int, int] | None = None


def explain(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    options: ImportOptions | None = None,
) -> tuple[Explanation, ...]:
    """Explain a backbone file, an emitted model or a run directory.

    Args:
        path: A file that :func:`onnxmtl.frontends.source.read` takes, or the directory of a run.
        weights: For a prototxt: its ``.caffemodel``.
        dialect: Of a prototxt.
        options: For a backbone: how it is imported.

    Raises:
        OnnxMTLError: The file cannot be read, the run has recorded nothing, or what is no backbone has options.
    """
    target = Path(path)
    chosen = options or ImportOptions()
    if (target / "phases").is_dir():
        _refuse_options(target, "a run", chosen != ImportOptions() or weights is not None or dialect != "auto")
        return tuple(_of_run(target))
    model = read(path, weights=weights, dialect=dialect)
    if is_supermodel(model):
        _refuse_options(target, "a supermodel", chosen != ImportOptions())
        return (*_stage("import", diagnostics(model)), *_tried("select", model, [MergeEqualNodes()]))
    if any(key.startswith("onnxmtl.") for key in model.metadata_props):
        _refuse_options(target, "a model that onnxmtl emitted", chosen != ImportOptions())
        return tuple(_of_multitask(separated(model)))
    return tuple(_of_backbone(model, chosen))


def _refuse_options(path: Path, kind: str, given: bool) -> None:
    if given:
        msg = f"{path}: is {kind}; options of the import are for backbones only, leave them out"
        raise ModelError(msg)


def write_diagnostics(folder: Path, **stages: ir.Model) -> None:
    """Write what was said about models of a run: ``write_diagnostics(folder, space=supermodel)``."""
    entries = [entry for stage, model in stages.items() for entry in _stage(stage, diagnostics(model))]
    write_json(folder / DIAGNOSTICS_FILE, [dataclasses.asdict(entry) for entry in entries])


def _of_run(folder: Path) -> Iterator[Explanation]:
    files = sorted(folder.glob(f"phases/*/{DIAGNOSTICS_FILE}"))
    if not files:
        msg = f"{folder}: the run has not recorded anything yet; give it time, or the backbone's file instead"
        raise RunError(msg)
    for file in files:
        try:
            yield from (Explanation(**entry) for entry in read_json(file))
        except TypeError as error:
            msg = f"{file}: is not of this version of onnxmtl; explain the model's file instead"
            raise RunError(msg) from error


def _of_backbone(model: ir.Model, options: ImportOptions) -> Iterator[Explanation]:
    try:
        backbone = normalize(
            model,
            features=options.features or None,
            output_stride=options.output_stride or None,
            batchnorm=options.batchnorm,
            input_size=options.input_size,
        )
    except ModelError as error:
        if options != ImportOptions():  # most likely at fault
            raise
        yield from _stage("import", diagnostics(model))
        yield Explanation("import", "refused", "", str(error))
        return
    yield from _stage("import", diagnostics(backbone))
    found = (*explain_sites(backbone.graph), *explain_skips(backbone.graph), *refused_additions(backbone.graph))
    yield from _stage("space", found)
    yield from _tried("finalize", backbone, [FoldBatchNorm()])


def _of_multitask(model: ir.Model) -> Iterator[Explanation]:
    yield from _stage("space", explain_sites(model.graph))
    yield from _tried("select", model, [MergeEqualNodes()])
    yield from _tried("finalize", model, [FoldBatchNorm(), DedupInitializers()])


def _tried(stage: str, model: ir.Model, passes: list[PassBase]) -> Iterator[Explanation]:
    """What the passes say about a copy of `model`."""
    copy = model.clone()
    try:
        Pipeline(passes, name="explanation")(copy)
    except OnnxMTLError as error:
        yield Explanation(stage, "refused", "", str(error))
    yield from _stage(stage, diagnostics(copy))


def _stage(stage: str, found: Iterable[Diagnostic]) -> Iterator[Explanation]:
    return (Explanation(stage, remark.code, remark.node, remark.message, remark.hint) for remark in found)


def as_json(found: Iterable[Explanation]) -> list[dict[str, Any]]:
    """As JSON values."""
    return [dataclasses.asdict(entry) for entry in found]
