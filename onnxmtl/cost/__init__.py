"""What models cost: counted on a graph, and expected under the probabilities of a search. Without torch."""
