"""The adapter of torchjd against torchjd's own way, and against the papers' algorithms."""

from __future__ import annotations

import importlib.util
import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchjd.aggregation import IMTLG, MGDA, AlignedMTL, ConFIG, Mean, PCGrad, Sum  # noqa: TID251
from torchjd.autojac import jac_to_grad, mtl_backward  # noqa: TID251

from onnxmtl.errors import MissingDependencyError
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.train.weighting import WeightingSpec, make_weighting, parse_weighting
from onnxmtl.train.weighting.torchjd import load_aggregator

TASKS = TaskSet(tuple(Task(name, "regression", weight=weight) for name, weight in (("a", 1.0), ("b", 3.0), ("c", 0.5))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Linear(4, 5)
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(3))
        self.unused = nn.Linear(2, 2)
        self.double()

    def forward(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        features = torch.tanh(self.trunk(x))
        wanted = (x[:, :1], -2 * x[:, :1], x[:, 1:2])  # the first two pull apart
        losses = ((head(features) - y).square().mean() for head, y in zip(self.heads, wanted, strict=True))
        return features, dict(zip("abc", losses, strict=True))


def adapted(method: str, net: Net, losses=None, scale: float = 1.0) -> None:
    weighting = make_weighting(parse_weighting(method), TASKS)
    losses = losses or net()[1]
    shared = [*net.trunk.parameters(), *net.unused.parameters()]
    weighting.backward(losses, shared=shared, backward=lambda t: (scale * t).backward(), step=0, steps=1)


@pytest.mark.parametrize("aggregator", [MGDA, IMTLG, ConFIG, AlignedMTL, Mean, Sum, PCGrad], ids=lambda a: a.__name__)
def test_against_torchjds_own_way(aggregator):
    ours, theirs = Net(), Net()
    torch.manual_seed(0)
    adapted(f"torchjd:{aggregator.__name__}", ours)
    features, losses = theirs()
    torch.manual_seed(0)
    mtl_backward([loss * task.weight for loss, task in zip(losses.values(), TASKS, strict=True)], features=features)
    jac_to_grad(list(theirs.trunk.parameters()), aggregator())
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if name.startswith("unused"):
            assert a.grad is None
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12, msg=name)


def test_sum_is_the_usual_gradient():
    ours, plain = Net(), Net()
    adapted("torchjd:Sum", ours, scale=1024.0)  # every gradient goes through `backward`
    (1024.0 * make_weighting(WeightingSpec(), TASKS).total(plain()[1])).backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_tasks_without_a_label_have_no_say():
    """MGDA's shortest vector would be that of the task whose gradient is 0."""
    net = Net()
    losses = net()[1]
    losses["c"] = losses["c"] * 0
    adapted("torchjd:MGDA", net, losses)
    two = Net()
    adapted("torchjd:MGDA", two, {name: two()[1][name] for name in "ab"} | {})
    assert net.trunk.weight.grad.any() and not net.heads[2].weight.grad.any()
    torch.testing.assert_close(net.trunk.weight.grad, two.trunk.weight.grad)


def test_a_parameter_of_two_of_three_tasks():
    """It takes part with a row of 0 for the third; one that is not listed as shared gets the sum."""
    p, q = (torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    losses = {"a": (p * q).sum(), "b": (p * q).square().sum(), "c": p.sum()}
    rows = [[torch.autograd.grad(loss * t.weight, x, retain_graph=True, allow_unused=True)[0] for x in (p, q)]
            for loss, t in zip(losses.values(), TASKS, strict=True)]  # fmt: skip
    rows[2][1] = torch.zeros(2, dtype=torch.float64)
    weighting = make_weighting(WeightingSpec("torchjd:MGDA"), TASKS)
    weighting.backward(losses, shared=[p, q], backward=lambda t: t.backward(), step=0, steps=1)
    expected = MGDA()(torch.stack([torch.cat(row) for row in rows]))
    torch.testing.assert_close(torch.cat([p.grad, q.grad]), expected)
    p.grad = q.grad = None
    losses = {"a": (p * q).sum(), "b": (p * q).square().sum(), "c": p.sum()}
    weighting.backward(losses, shared=[p], backward=lambda t: t.backward(), step=0, steps=1)
    torch.testing.assert_close(q.grad, rows[0][1] + rows[1][1])


def test_pcgrad_is_algorithm_one_of_yu():
    """g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j where they conflict; for two tasks no order is drawn."""
    a, b = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([-3.0, 1.0, 0.5])
    expected = (a - (a @ b) / (b @ b) * b) + (b - (b @ a) / (a @ a) * a)
    torch.testing.assert_close(load_aggregator("PCGrad", {})(torch.stack([a, b])), expected)


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_upgrad_projects_onto_the_dual_cone(seed, tasks, size):
    """A(J) = mean of the projections of the rows onto {x: J x ≥ 0}; each by trying every active set."""
    jacobian = np.random.default_rng(seed).standard_normal((tasks, size))

    def project(row: np.ndarray) -> np.ndarray:
        best = None
        for k in range(tasks + 1):
            for active in itertools.combinations(range(tasks), k):
                rows = jacobian[list(active)]
                # onto {x: rows x = 0}
                x = row - np.linalg.pinv(rows) @ rows @ row if k else row
                if (jacobian @ x >= -1e-9).all() and (
                    best is None or np.linalg.norm(x - row) < np.linalg.norm(best - row)
                ):
                    best = x
        assert best is not None
        return best

    expected = np.mean([project(row) for row in jacobian], 0)
    found = load_aggregator("UPGrad", {})(torch.from_numpy(jacobian)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert (jacobian @ found >= -1e-7).all()  # no task gets worse


def test_without_torchjd(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(
        MissingDependencyError, match=r'gradient methods need torchjd: pip install "onnxmtl\[torchjd\]"'
    ):
        make_weighting(WeightingSpec("torchjd:MGDA"), TASKS)


def test_without_what_an_aggregator_needs(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None if name == "cvxpy" else real(name))
    with pytest.raises(MissingDependencyError, match=r"CAGradWeighting requires .*cvxpy.* pip install") as caught:
        make_weighting(parse_weighting("torchjd:CAGrad,c=0.4"), TASKS)
    assert "\n" not in str(caught.value)
