"""What models cost: counted on a graph, and expected under the probabilities of a search. Without torch."""

from onnxmtl.cost.selected import count_architecture

__all__ = ["count_architecture"]
