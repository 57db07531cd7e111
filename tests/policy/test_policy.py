"""Policies: softmax, and reading the logits of a supermodel by (site, task)."""

import numpy as np
import onnx_ir as ir
import pytest
from scipy.special import softmax

from onnxmtl.analysis.table import Option, Site, SiteTable
from onnxmtl.errors import ModelError
from onnxmtl.ir import make_choice, new_initializer
from onnxmtl.policy import Policy


def table(tasks: tuple[str, ...] = ("a", "b"), last: tuple[int, ...] = ()) -> SiteTable:
    options = tuple(Option(name, 1, 1, 0, True, False) for name in ("shared", "own"))
    sites = (Site("s0", 0, 0, "vcn", ("c",), options), Site("s1", 1, 1, "vcn", ("d",), options, last))
    return SiteTable(tasks, sites)


def supermodel(logits: dict[tuple[str, str], list[float]]) -> ir.Model:
    """A chain of Choices between x and -x, in no particular order, with misleading names of logits."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    negative = ir.Node("", "Neg", [x], name="neg")
    negative.outputs[0].name = "minus"
    graph = ir.Graph([x], [], nodes=[negative], opset_imports={"": 21}, name="g")
    for i, ((site, task), values) in enumerate(logits.items()):
        value = new_initializer(graph, f"s9/task{i}", np.array(values, np.float32))
        options = [(f"o{o}", negative.outputs[0]) for o in range(len(values))]
        node = make_choice(options, value, site=site, task=task, name=f"choice{i}", output=f"y{i}")
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=10)


def test_probabilities_are_softmax_at_any_scale():
    logits = (np.array([[0.0, 1.0], [1e4, -1e4]]), np.array([[3.0, 3.0], [-5.0, 2.0]]))
    policy = Policy(table(), logits)
    for found, wanted in zip(policy.probabilities(), logits, strict=True):
        np.testing.assert_allclose(found, softmax(wanted, axis=1), rtol=1e-14)
    for found, wanted in zip(policy.probabilities(2.0), logits, strict=True):
        np.testing.assert_allclose(found, softmax(wanted / 2, axis=1), rtol=1e-14)


def test_entropy_runs_from_uniform_to_decided():
    sites = table(last=(0,))
    assert Policy.uniform(sites).entropy() == pytest.approx(1.0)
    decided = tuple(np.array([[50.0, -50], [50, -50]]) for _ in range(2))
    assert Policy(sites, decided).entropy() == pytest.approx(0.0, abs=1e-12)
    # Task b does not reach the second site: its row does not count.
    half = (np.array([[50.0, -50], [50, -50]]), np.array([[0.0, 0], [50, -50]]))
    assert Policy(sites, half).entropy() == pytest.approx(1 / 3)


def test_logits_are_found_by_site_and_task():
    model = supermodel({("s1", "b"): [4, 3], ("s0", "a"): [1, 2], ("s0", "b"): [5, 6], ("s1", "a"): [8, 7]})
    policy = Policy.of_model(model, table())
    np.testing.assert_array_equal(policy.logits[0], [[1, 2], [5, 6]])
    np.testing.assert_array_equal(policy.logits[1], [[8, 7], [4, 3]])


def test_absent_tasks_need_no_logits():
    model = supermodel({("s1", "b"): [4, 3], ("s0", "a"): [1, 2], ("s0", "b"): [5, 6]})
    np.testing.assert_array_equal(Policy.of_model(model, table(last=(1,))).logits[1], [[0, 0], [4, 3]])
    with pytest.raises(ModelError, match="site 's1', task 'a' needs 2 logits, found none"):
        Policy.of_model(model, table())


def test_wrong_or_diverged_logits_are_refused():
    model = supermodel({("s1", "b"): [4, 3], ("s0", "a"): [1, 2, 3], ("s0", "b"): [5, 6]})
    with pytest.raises(ModelError, match=r"site 's0', task 'a' needs 2 logits, found shape \[3\]"):
        Policy.of_model(model, table(last=(1,)))
    with pytest.raises(ModelError, match="site 's1' are not finite"):
        Policy(table(), (np.zeros((2, 2)), np.array([[np.nan, 0], [0, 0]])))
    with pytest.raises(ValueError, match="shapes"):
        Policy(table(), (np.zeros((2, 3)), np.zeros((2, 2))))
