"""A fine feature for the heads that need one, where the user named none.

Heads with a decoder (DeepLabv3+, R-ASPP as BMTAS has it) read a feature of stride 4 besides the coarse one; the import
of a classification network finds only the latter.
"""

from __future__ import annotations

import json

import onnx_ir as ir

from onnxmtl.analysis.blocks import boundaries
from onnxmtl.analysis.features import KIND_KEY, describe, feature_dims, read_features, write_features
from onnxmtl.ir import Diagnostic, report
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused
from onnxmtl.kinds import DECODER_HEADS, TaskSet
from onnxmtl.passes._decoders import FINE_STRIDE


class AddFineFeature(InPlacePass):
    """Makes one more feature of a backbone that has a single one, for tasks whose heads have a decoder.

    It is the last tensor where the network can be cut whose stride is 4, or the coarsest below 4 if there is none,
    and becomes the first feature. A model that needs nothing of the kind stays as it is.

    Requires: a normalized backbone. Ensures: the features are the outputs, from fine to coarse.

    Args:
        tasks: Whose heads and features count.

    Raises:
        Refused: No tensor fits; names the tasks and what to do.
    """

    changes_outputs = True
    preserves_numerics = True

    def __init__(self, tasks: TaskSet) -> None:
        super().__init__()
        self.tasks = tasks

    def requires(self, model: ir.Model) -> None:
        """Check that it is a backbone."""
        if model.metadata_props.get(KIND_KEY) != "backbone":
            raise Refused("fine features are added to a backbone; import the model first")

    def call(self, model: ir.Model) -> PassResult:
        """Add the output."""
        wanting = [task for task in self.tasks if task.head in DECODER_HEADS and not task.features]
        if not wanting or len(read_features(model)) > 1:
            return PassResult(model, False)
        graph, (coarse,) = model.graph, model.graph.outputs
        found = None
        for boundary in boundaries(graph):
            (value,) = boundary.values
            if value in (coarse, *graph.inputs) or feature_dims(value) is None or value.is_graph_output():
                continue
            stride = describe(graph, [value])[0].stride
            if stride <= FINE_STRIDE and stride < describe(graph, [coarse])[0].stride:
                found = value
        if found is None:
            names = ", ".join(repr(task.name) for task in wanting)
            msg = (
                f"task {names}: the head {wanting[0].head} needs a feature of stride {FINE_STRIDE} or less besides "
                f"{coarse.name!r}, and the network has none where it can be cut; name two with --features, or take "
                "another head"
            )
            raise Refused(msg)
        graph.outputs.insert(0, found)
        fine = write_features(model)[0]
        node = found.producer()
        message = f"the decoders read {fine.name!r} too ({fine.channels} channels, stride {fine.stride})"
        hint = "name other features with --features if this is not it"
        report(model, Diagnostic("fine-feature", message, str(node.name) if node is not None else "", hint))
        return PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Check that the record matches the outputs."""
        names = [entry["name"] for entry in json.loads(model.metadata_props["onnxmtl.features"])]
        assert names == [value.name for value in model.graph.outputs]
