"""Whatever the user has, as a prototxt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.frontends import prototxt as caffe
from onnxmtl.frontends.prototxt.export import SaveDialect
from onnxmtl.frontends.source import Dialect, file_of, kind_of, read
from onnxmtl.frontends.validity import blamed
from onnxmtl.ir import Diagnostic, diagnostics
from onnxmtl.ir.passes import PassError
from onnxmtl.passes.normalize.batch import DynamicBatch
from onnxmtl.passes.normalize.batchnorm import ReportFoldedBatchNorm
from onnxmtl.passes.normalize.features import CutAtFeatures
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.untie import UntieWeights
from onnxmtl.passes.pipelines import Pipeline, import_pipeline

# What a backbone needs to be trained, and a network that is only written does not: Caffe shares weights and has one
# batch size, and the classifier stays.
_LARGEST = 2**31  # of a weight that a node computes, in bytes: what a .caffemodel holds
_FOR_TRAINING = (DynamicBatch, UntieWeights, ReportFoldedBatchNorm)


def export_prototxt(
    model: Any,
    prototxt: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    example_input: Any = None,
    *,
    dialect: SaveDialect = "caffe",
    features: Sequence[str] | None = (),
    source_weights: str | os.PathLike[str] | None = None,
    source_dialect: Dialect = "auto",
) -> tuple[Diagnostic, ...]:
    """Write a network as ``.prototxt``, and its weights as ``.caffemodel``.

    Args:
        model: What :func:`onnxmtl.load` takes: a path, a torch module, a graphsurgeon graph, an ONNX model.
        prototxt: Where to write the network; a file of that name is replaced, but never `model` itself.
        weights: Where to write the weights; None: nowhere.
        example_input: For a torch module.
        dialect: To write: ``caffe`` or ``automtl``.
        features: Tensor or node names to end the network at; None finds the tensor before the classifier; empty:
            the whole network.
        source_weights: Of a prototxt that is read: its ``.caffemodel``.
        source_dialect: Of a prototxt that is read.

    Returns:
        What was repaired in the model, and what the user should know about the files.

    Raises:
        ModelError: One message with all nodes that the format cannot say, or why the model cannot be read; nothing is
            written then.
        RunError: The disk refuses.
    """
    sources = [file_of(model)] if kind_of(model) in ("onnx", "prototxt") else []
    _keep([*sources, *([] if source_weights is None else [Path(source_weights)])], [prototxt, weights])
    network = read(model, example_input, weights=source_weights, dialect=source_dialect)
    _fix_batch(network)
    dropped = _FOR_TRAINING if features is None or features else (*_FOR_TRAINING, CutAtFeatures)
    passes = import_pipeline(features=list(features) if features else None).passes
    kept = [
        FoldConstants(limit=_LARGEST) if isinstance(pass_, FoldConstants) else pass_
        for pass_ in passes
        if not isinstance(pass_, dropped)
    ]
    pipeline = Pipeline(kept, name="export")
    try:
        network = pipeline(network).model
    except PassError as error:
        where = str(model) if sources else f"the {type(model).__name__}"
        raise blamed(
            error, lambda: read(model, example_input, weights=source_weights, dialect=source_dialect), where
        ) from error
    remarks = caffe.save(network, prototxt, weights, dialect=dialect)
    return (*diagnostics(network), *remarks)


def _fix_batch(model: ir.Model) -> None:
    """An open batch is 1 in a prototxt; all shape arithmetic folds then."""
    for value in model.graph.inputs:
        if value.shape and not value.is_initializer() and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([1, *list(value.shape)[1:]])


def _keep(sources: Sequence[Path], targets: Sequence[str | os.PathLike[str] | None]) -> None:
    """Refuse to write over what is read.

    Raises:
        ModelError: A target is one of the sources.
    """
    for target in targets:
        for source in sources:
            if target is not None and os.path.exists(target) and source.exists() and os.path.samefile(source, target):
                msg = f"{target}: is the model that is read; nothing was written: choose another name"
                raise ModelError(msg)
