"""What a run in the space ``fusion`` did with every candidate edge, for its report."""

from __future__ import annotations

from onnxmtl.analysis.networks import network_layers
from onnxmtl.passes.spaces import Fusion, space
from onnxmtl.passes.spaces.fusion import site_id
from onnxmtl.passes.spaces.separate import Separate
from onnxmtl.policy import Architecture
from onnxmtl.policy.fused import Fused, FusedEdge, FusedLayer, FusedNetwork
from onnxmtl.runs import read_json
from onnxmtl.workflows.phases.decoding import POLICY_FILE
from onnxmtl.workflows.phases.job import Job


def fused_of(job: Job, architecture: Architecture) -> Fused | None:
    """The networks of a run and the edges between them, with their α where they were searched; None in other spaces.

    Without Choices (NDDR-CNN, the SuperNets) all candidate edges are kept.
    """
    if job.recipe.space != "fusion":
        return None
    made = space("fusion", **job.recipe.space_options)
    assert isinstance(made, Fusion)
    graphs = job.graphs
    networks = graphs.separate or graphs.rewrite(graphs.multitask, [Separate()], "separate")
    layers = network_layers(networks)
    alphas = _alphas(job)
    edges = []
    for edge in made.candidates(layers):
        site = site_id(edge)
        taken = architecture.choices.get(site, {}).get(edge.target_task, "cut" if made.choices else "edge")
        edges.append(
            FusedEdge(
                edge.target_task,
                edge.target_layer,
                edge.source_task,
                edge.source_layer,
                kept=taken == "edge",
                alpha=alphas.get(site),
            )
        )
    found = [
        FusedNetwork(task, tuple(FusedLayer(one.name, one.stride, one.channels) for one in of_task))
        for task, of_task in layers.items()
    ]
    return Fused(tuple(found), tuple(edges))


def _alphas(job: Job) -> dict[str, float]:
    """Site -> probability of its edge in the policy that was learnt; nothing where none was."""
    file = next(job.session.path.glob(f"phases/*-decode/{POLICY_FILE}"), None)
    content = {} if file is None else read_json(file)
    if content.get("source") in (None, "random"):
        return {}
    return {site["id"]: site["probabilities"][0][site["options"].index("edge")] for site in content["sites"]}
