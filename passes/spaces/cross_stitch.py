"""Cross-stitch units (Misra et al. 2016, Eq. 1): separate networks that mix their features after chosen layers.

    x̃_t = Σ_s α_ts ⊙ x_s

x_s is what the layer of task s's network computes, x̃_t what task t goes on with; α_ts is trained, one number per tensor
or one per channel of task t. It begins as `own` for s = t and as (1 − own)/(T − 1) for the others, T being the number
of tasks that meet there. With own = 1 each task computes exactly what its own network does.

Requires a multi-task graph. Ensures that every task has a network of its own (:mod:`onnxmtl.passes.spaces.separate`)
with units between them and no Choices; nothing is to select. Features of another network that have another size or
number of channels are resized and projected by a 1x1 convolution that begins as a rectangular identity.
"""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from onnxmtl.ir import Namer
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused
from onnxmtl.passes._builder import static_channels
from onnxmtl.passes.spaces._mixing import (
    At,
    Level,
    TrunkBuilder,
    meeting_layers,
    named_values,
    replace,
    require_at,
    require_share,
    require_tasks,
    users,
)


class CrossStitch(InPlacePass):
    """Turn a multi-task graph into separate networks with cross-stitch units.

    Args:
        per: One weight per pair of tasks and ``tensor``, or per ``channel``. (Bruggemann et al. 2020 found the first
            to be more stable.)
        own: What a task's own features weigh to begin with, from 0 to 1; BMTAS has 0.8.
        at: After the last layers of the ``stages``, or after all ``layers`` (residual blocks, as AdaShare has them).
        stem: Whether a first layer without a shortcut before residual blocks has a unit too.
    """

    def __init__(
        self,
        *,
        per: Literal["tensor", "channel"] = "tensor",
        own: float = 0.8,
        at: At = "stages",
        stem: bool = False,
    ) -> None:
        self.per = per
        self.own = own
        self.at = at
        self.stem = stem

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads or with Choices, a single task, and settings that mean nothing."""
        require_tasks(model, "cross_stitch")
        require_share(self.own, "own", "cross_stitch")
        require_at(self.at, "cross_stitch")
        if self.per not in ("tensor", "channel"):
            raise Refused(f"cross_stitch: per is 'tensor' or 'channel', not {self.per!r}")

    def call(self, model: ir.Model) -> PassResult:
        """Insert the units in place.

        Raises:
            Refused: No two networks have layers of one stride.
        """
        _, found = meeting_layers(model, self.at, self.stem, "cross_stitch")
        namer, values = Namer(model.graph), named_values(model.graph)
        for level in found:
            self._unit(model.graph, level, values, namer)
        model.graph.sort()
        return PassResult(model, modified=True)

    def _unit(self, graph: ir.Graph, level: Level, values: dict[str, ir.Value], namer: Namer) -> None:
        features = {task: values[layer.value] for task, layer in level.items()}
        readers = {task: users(x) for task, x in features.items()}
        for task, x in features.items():
            builder = TrunkBuilder.of(graph, f"{level[task].value}/cross_stitch", self, namer)
            terms = []
            for source, y in features.items():
                with builder.scope(source):
                    weight = self.own if source == task else (1 - self.own) / (len(level) - 1)
                    channels = static_channels(x) if self.per == "channel" else 0
                    terms.append(builder.weighted(builder.brought(y, x), weight, "alpha", channels))
            replace(graph, x, builder.total(terms), readers[task], namer)
