"""What a report says about searched edges is what was decided, and what the emitted model has."""

from __future__ import annotations

import json

import onnx
import pytest
from helpers.compiling import QUICK, TASKS

from onnxmtl.deploy.html.writing import html_of
from onnxmtl.deploy.results import Report
from onnxmtl.deploy.runfiles import read_run
from onnxmtl.policy.fused import Fused
from onnxmtl.runs import read_json
from onnxmtl.workflows import compile, specialize


def run(backbone, out, recipe="mtlnas", **options):
    return compile(backbone, TASKS, recipe=recipe, out=out, **{**QUICK, **options})


def site(edge):
    return f"{edge.target}/{edge.target_layer}<{edge.source}/{edge.source_layer}"


def slices(done):
    """How many features of other networks the fusion units of the emitted model read."""
    nodes = onnx.load(done.model).graph.node
    return sum(len(node.input) - 1 for node in nodes if node.op_type == "Concat" and "/fusion" in node.name)


@pytest.fixture(scope="module")
def searched(backbone, tmp_path_factory):
    return run(backbone, tmp_path_factory.mktemp("fused") / "run")


def test_every_candidate_with_its_probability_and_what_became_of_it(searched):
    fused = searched.report.fused
    assert isinstance(fused, Fused) and [network.task for network in fused.networks] == ["seg", "depth"]
    (decoded,) = (searched.path / "phases").glob("*-decode")
    policy = {s["id"]: dict(zip(s["options"], s["probabilities"][0], strict=True))
              for s in json.loads((decoded / "policy.json").read_text())["sites"]}  # fmt: skip
    assert {site(edge): edge.alpha for edge in fused.edges} == {name: p["edge"] for name, p in policy.items()}
    for edge in fused.edges:
        assert edge.kept == (searched.architecture.choices[site(edge)] == {edge.target: "edge"})
    assert len(fused.kept) == slices(searched)


def test_it_is_in_the_runs_report_and_drawn(searched):
    assert Report.from_json(read_json(searched.path / "report.json")).fused == searched.report.fused
    assert 'id="figure-fusion"' in html_of(read_run(searched.path))


def test_a_specialized_model_has_its_own_edges(searched, tmp_path):
    found = searched.report.fused
    other = {site(edge): {edge.target: "cut" if edge.kept else "edge"} for edge in found.edges}
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"architecture": other}))
    done = specialize(searched.path, architecture=file, out=tmp_path / "run")
    assert [edge.kept for edge in done.report.fused.edges] == [not edge.kept for edge in found.edges]
    assert done.report.fused.alphas == found.alphas  # the policy is the search's
    assert slices(done) == len(done.report.fused.kept) == len(found.edges) - len(found.kept)


@pytest.mark.parametrize(("recipe", "variant"), [("nddr", ""), ("mtlnas", "supernet")])
def test_without_choices_all_edges_are_there_and_none_was_learnt(recipe, variant, backbone, tmp_path):
    done = run(backbone, tmp_path / "run", recipe, variant=variant)
    fused = done.report.fused
    assert all(edge.kept and edge.alpha is None for edge in fused.edges) and fused.edges
    assert slices(done) == len(fused.edges)


def test_random_edges_have_no_probability(backbone, tmp_path):
    fused = run(backbone, tmp_path / "run", policy="random").report.fused
    assert fused.edges and not fused.alphas


def test_other_spaces_have_none(backbone, tmp_path):
    done = run(backbone, tmp_path / "run", "cross-stitch")
    assert done.report.fused is None and 'id="figure-fusion"' not in html_of(read_run(done.path))
