"""Networks side by side and the edges between them: what a search for fusion had to decide, and what it decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

CERTAIN = 0.02  # how near to 0 or 1 an α counts as converged
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class FusedLayer:
    """A layer of one task's network.

    Attributes:
        name: Of the tensor behind it, as sites are named.
        stride: Of that tensor against the image; 0 where it is not known.
        channels: Of that tensor; 0 where it is not known.
    """

    name: str
    stride: int = 0
    channels: int = 0


@dataclasses.dataclass(frozen=True)
class FusedNetwork:
    """The network of one task: its layers in the order in which they run."""

    task: str
    layers: tuple[FusedLayer, ...]


@dataclasses.dataclass(frozen=True)
class FusedEdge:
    """From a layer of one network to the fusion unit behind a layer of another.

    Attributes:
        target, target_layer: Task and layer that receive.
        source, source_layer: Task and layer that give.
        kept: Whether the emitted model has it.
        alpha: Probability of the edge where the search ended (MTL-NAS's α); None if nothing was searched.
    """

    target: str
    target_layer: str
    source: str
    source_layer: str
    kept: bool
    alpha: float | None = None


@dataclasses.dataclass(frozen=True)
class Fused:
    """All networks of a fused model, and all edges that there could be between them.

    Attributes:
        networks: One per task, in the tasks' order.
        edges: Candidates, kept or not; in the order of the networks.
    """

    networks: tuple[FusedNetwork, ...]
    edges: tuple[FusedEdge, ...]

    def __post_init__(self) -> None:
        known = {(network.task, layer.name) for network in self.networks for layer in network.layers}
        for edge in self.edges:
            for end in ((edge.target, edge.target_layer), (edge.source, edge.source_layer)):
                if end not in known:
                    msg = f"an edge ends at layer {end[1]!r} of task {end[0]!r}, which has no such layer"
                    raise ValueError(msg)

    @property
    def layers(self) -> dict[str, tuple[FusedLayer, ...]]:
        """Task -> its layers."""
        return {network.task: network.layers for network in self.networks}

    @property
    def kept(self) -> tuple[FusedEdge, ...]:
        """The edges that the emitted model has."""
        return tuple(edge for edge in self.edges if edge.kept)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The α of all edges that have one."""
        return tuple(edge.alpha for edge in self.edges if edge.alpha is not None)

    def certain(self, within: float = CERTAIN) -> int:
        """How many α lie within `within` of 0 or 1 (MTL-NAS, Fig. A1: the outer bins)."""
        return sum(min(alpha, 1 - alpha) <= within + _ROUNDING for alpha in self.alphas)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Fused:
        """Read what :meth:`to_dict` made.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        networks = [
            FusedNetwork(str(network["task"]), tuple(FusedLayer(**layer) for layer in network["layers"]))
            for network in content["networks"]
        ]
        return cls(tuple(networks), tuple(FusedEdge(**edge) for edge in content["edges"]))
