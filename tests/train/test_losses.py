"""Each loss against its equation, written out in numpy loops over what is labelled; gradients; masks."""

from __future__ import annotations

import itertools
import math
import sys
import types
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.errors import DataError, TaskError
from onnxmtl.kinds import KINDS, Task
from onnxmtl.train.labels import nearest, register_valid_rule, valid_mask
from onnxmtl.train.losses import LOSSES, loss_for, masked_mean, parts_for, register_loss

N, H, W = 3, 4, 6
TASKS = {
    "segmentation": Task("t", "segmentation", channels=5),
    "segmentation_weighted": Task("t", "segmentation", channels=5, class_weights=(0.5, 1, 2, 0.25, 3)),
    "depth": Task("t", "depth"),
    "normals": Task("t", "normals"),
    "normals_l1": Task("t", "normals", loss="unit_l1"),
    "edges": Task("t", "edges"),
    "edges_hed": Task("t", "edges", loss="hed_bce"),
    "edges_weighted": Task("t", "edges", loss="weighted_bce"),
    "edges_l1": Task("t", "edges", loss="probability_l1"),
    "saliency": Task("t", "saliency", loss="hed_bce"),
    "keypoints": Task("t", "keypoints"),
    "keypoints_mse": Task("t", "keypoints", loss="mse"),
    "classification": Task("t", "classification", channels=4),
    "regression": Task("t", "regression", channels=2),
    "regression_l1": Task("t", "regression", channels=2, loss="l1"),
    "regression_mse": Task("t", "regression", channels=2, loss="mse"),
}


def sample(task: Task, seed: int, missing: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """A random prediction and target; a share of the labels does not count, in every way the kind knows."""
    rng = np.random.default_rng(seed)
    pred = rng.standard_normal((N, task.channels, H, W) if task.dense else (N, task.channels)) * 2
    gone = rng.random((N, H, W)) < missing
    if task.kind == "segmentation":
        target = rng.integers(0, task.channels, (N, H, W))
        target[gone] = rng.choice([255, -1], gone.sum())
    elif task.kind == "depth":
        target = rng.uniform(0.5, 6, (N, 1, H, W))
        target[:, 0][gone] = rng.choice([0.0, -2.0, np.nan, np.inf], gone.sum())
    elif task.kind == "normals":
        target = rng.standard_normal((N, 3, H, W))
        target /= np.linalg.norm(target, axis=1, keepdims=True)
        target = np.where(gone[:, None], rng.choice([0.0, np.nan]), target)
    elif task.kind in ("edges", "saliency", "keypoints"):
        target = rng.random((N, 1, H, W)) * (rng.random((N, 1, H, W)) < 0.5)
        target[:, 0][gone] = 255
    elif task.kind == "classification":
        target = rng.integers(0, task.channels, N)
        target[rng.random(N) < missing] = rng.choice([255, -1])
    else:
        target = np.where(rng.random((N, task.channels)) < missing, np.nan, rng.standard_normal((N, task.channels)) * 2)
    return pred, target


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - x.max() - math.log(np.exp(x - x.max()).sum())


def reference(task: Task, pred: np.ndarray, target: np.ndarray, labelled: np.ndarray) -> float:
    """The loss by its definition, one label at a time."""
    values: list[float] = []
    weights: list[float] = []
    edges, others = [0.0, 0.0], [0.0, 0.0]
    for n in range(N):
        if not labelled[n]:
            continue
        if task.kind == "classification":
            if 0 <= target[n] < 255:
                values.append(-log_softmax(pred[n])[target[n]])
            continue
        places = [(c,) for c in range(task.channels)] if task.kind == "regression" else list(np.ndindex(H, W))
        for place in places:
            if task.kind == "segmentation":
                label = target[n][place]
                if 0 <= label < 255:
                    weights.append(task.class_weights[label] if task.class_weights else 1.0)
                    values.append(-log_softmax(pred[(n, slice(None), *place)])[label] * weights[-1])
            elif task.kind == "normals":
                p, g = pred[(n, slice(None), *place)], target[(n, slice(None), *place)]
                if np.isfinite(g).all() and g.any():
                    p, g = p / np.linalg.norm(p), g / np.linalg.norm(g)
                    values.append(1 - p @ g if task.loss == "cosine" else float(np.abs(p - g).sum()))
            else:
                index = (n, *place) if task.kind == "regression" else (n, 0, *place)
                p, g = pred[index], target[index]
                if not np.isfinite(g) or (task.kind == "depth" and g <= 0) or g == 255:
                    continue
                if task.loss == "probability_l1":
                    values.append(abs(1 / (1 + math.exp(-p)) - g))
                elif task.loss.endswith("_bce"):
                    q = 1 / (1 + math.exp(-p))
                    edges[0] += g * -math.log(q)
                    edges[1] += g
                    others[0] += (1 - g) * -math.log(1 - q)
                    others[1] += 1 - g
                elif task.loss == "mse":
                    values.append((p - g) ** 2)
                elif task.loss == "smooth_l1":
                    d = abs(p - g)
                    values.append(d * d / 2 if d < 1 else d - 0.5)
                else:
                    values.append(abs(p - g))
    if task.loss == "balanced_bce":
        return sum(0.5 * part / whole for part, whole in (edges, others) if whole > 0)
    if task.loss.endswith("_bce"):
        total = edges[1] + others[1]
        beta = 0.95 if task.loss == "weighted_bce" else others[1] / total if total else 0.0
        return (beta * edges[0] + (1 - beta) * others[0]) / total if total else 0.0
    if weights:
        return sum(values) / sum(weights)
    return mean(values)


@pytest.mark.parametrize("key", list(TASKS))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.4, 0.95]), labelled=st.tuples(*[st.booleans()] * N))
def test_losses_are_their_equations(key, seed, missing, labelled):
    task = TASKS[key]
    pred, target = sample(task, seed, missing)
    p = torch.from_numpy(pred).requires_grad_()
    loss = loss_for(task)(p, torch.from_numpy(target), torch.tensor(labelled))
    assert loss.shape == ()
    # The cosine's denominator is bounded below by 1e-4: relative 1e-8 / |p|².
    assert loss.item() == pytest.approx(reference(task, pred, target, np.array(labelled)), rel=1e-6, abs=1e-6)
    loss.backward()
    assert torch.isfinite(p.grad).all()
    valid = valid_mask(task, torch.from_numpy(target), torch.tensor(labelled))
    if task.kind in ("segmentation", "normals"):  # one label for several channels
        valid = valid.unsqueeze(1)
    outside = ~valid.reshape(*valid.shape, *[1] * (p.ndim - valid.ndim)).expand_as(p)
    assert not p.grad[outside].any()
    if task.loss != "hed_bce":  # which is 0 where there is nothing but edges, or none
        assert bool(p.grad.any()) == bool(valid.any())


@pytest.mark.parametrize("key", list(TASKS))
def test_gradients_are_the_derivatives(key):
    task = TASKS[key]
    pred, target = (array[:2, ..., :2] if task.dense else array for array in sample(task, 4))
    p = torch.from_numpy(pred).requires_grad_()
    loss = loss_for(task)
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.from_numpy(target), None), (p,), atol=1e-6)


@pytest.mark.parametrize("key", list(TASKS))
def test_nothing_labelled_is_zero_with_a_gradient(key):
    task = TASKS[key]
    pred, target = sample(task, 1, missing=0.0)
    for wanted, labelled in ((np.full_like(target, task.fill), None), (target, torch.zeros(N, dtype=torch.bool))):
        p = torch.from_numpy(pred).requires_grad_()
        loss = loss_for(task)(p, torch.from_numpy(wanted), labelled)
        loss.backward()
        assert loss.item() == 0 and p.grad is not None and not p.grad.any()


@pytest.mark.parametrize("key", list(TASKS))
def test_unlabelled_samples_change_nothing(key):
    task = TASKS[key]
    pred, target = sample(task, 2)
    loss = loss_for(task)
    p, t = torch.from_numpy(pred), torch.from_numpy(target)
    labelled = torch.tensor([True, False, True])
    assert loss(p, t, labelled).item() == pytest.approx(loss(p[[0, 2]], t[[0, 2]], None).item(), rel=1e-12)
    filled = t.clone()
    filled[1] = task.fill
    assert loss(p, filled, None).item() == pytest.approx(loss(p, t, labelled).item(), rel=1e-12)


@pytest.mark.parametrize("key", [key for key, task in TASKS.items() if task.dense])
def test_labels_come_down_to_a_native_prediction(key):
    task = TASKS[key]
    pred, target = sample(task, 3)
    p, t = torch.from_numpy(pred), torch.from_numpy(target)
    large = t.repeat_interleave(2, -1).repeat_interleave(3, -2)
    assert loss_for(task)(p, large, None).item() == pytest.approx(loss_for(task)(p, t, None).item(), rel=1e-12)


@pytest.mark.parametrize(("have", "want"), [(30, 11), (46, 43), (60, 13), (480, 60), (321, 41), (7, 14)])
def test_nearest_is_exact_where_floats_are_not(have, want):
    """The centre of pixel i is at (i + 1/2) · have / want, a whole number for (30, 11), i = 5: pixel 15, not 14."""
    found = nearest(torch.arange(have).reshape(1, 1, have), (1, want))[0, 0].tolist()
    assert found == [int(Fraction(2 * i + 1, 2) * Fraction(have, want)) for i in range(want)]


def test_nearest_takes_the_label_at_the_centre():
    labels = torch.arange(7)[None, None].expand(1, 7, 7)
    assert nearest(labels, (7, 3))[0, 0].tolist() == [1, 3, 5]
    assert nearest(labels, (7, 14))[0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    values = torch.rand(2, 1, 9, 5)
    expected = torch.nn.functional.interpolate(values, size=(4, 7), mode="nearest-exact")
    torch.testing.assert_close(nearest(values, (4, 7)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("key", list(TASKS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(key, dtype):
    task = TASKS[key]
    pred, target = sample(task, 5)
    exact = loss_for(task)(torch.from_numpy(pred), torch.from_numpy(target), None)
    if target.dtype == np.float64:
        target = target.astype(np.float32)
    p = torch.from_numpy(pred).to(dtype).requires_grad_()
    loss = loss_for(task)(p, torch.from_numpy(target), None)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(p.grad).all()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("key", list(TASKS))
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e4])
def test_gradients_are_finite_at_extreme_predictions(key, size):
    task = TASKS[key]
    pred, target = sample(task, 6)
    p = torch.from_numpy(np.sign(pred) * size).float().requires_grad_()
    wanted = torch.from_numpy(target.astype(np.float32) if target.dtype == np.float64 else target)
    loss = loss_for(task)(p, wanted, None)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(p.grad).all()


def test_an_undecided_edge_loss_is_log_two_however_rare_edges_are():
    target = torch.zeros(1, 1, 10, 10)
    target[..., 0, 0] = 1
    loss = loss_for(TASKS["edges"])(torch.zeros(1, 1, 10, 10), target, None)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_labels_that_are_not_the_tasks_are_refused():
    target = torch.zeros(1, 2, 2, dtype=torch.long)
    target[0, 0, 0] = 5
    with pytest.raises(DataError, match="a label is 5, the classes go from 0 to 4 and 255"):
        loss_for(TASKS["segmentation"])(torch.zeros(1, 5, 2, 2), target, None)
    with pytest.raises(DataError, match=r"labels of edges go from 0 to 254, they must be within \[0, 1\] or 255"):
        loss_for(TASKS["edges"])(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 254.0]]]]), None)


@pytest.mark.parametrize("key", list(TASKS))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.4, 0.95]), cuts=st.sets(st.integers(1, N - 1)))
def test_parts_add_up_over_any_split_of_a_batch(key, seed, missing, cuts):
    """What several processes need: each divides its sums by the counts of all."""
    task = TASKS[key]
    pred, target = (torch.from_numpy(array) for array in sample(task, seed, missing))
    labelled = torch.from_numpy(np.random.default_rng(seed).random(N) < 0.7)
    bounds = [0, *sorted(cuts), N]
    rows = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    parts = [parts_for(task)(pred[row], target[row], labelled[row]) for row in rows]
    counts = torch.stack([part.counts for part in parts]).sum(0)
    whole = parts_for(task)(pred, target, labelled)
    torch.testing.assert_close(counts, whole.counts)
    total = sum(part.value(counts).item() for part in parts)
    assert total == pytest.approx(whole.value().item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("key", list(TASKS))
def test_an_empty_batch_is_zero(key):
    task = TASKS[key]
    pred, target = (torch.from_numpy(array[:0]).requires_grad_(array.dtype == np.float64) for array in sample(task, 0))
    loss = loss_for(task)(pred, target.detach(), None)
    loss.backward()
    assert loss.item() == 0


def test_class_weights_are_torchs():
    task = TASKS["segmentation_weighted"]
    pred, target = (torch.from_numpy(array) for array in sample(task, 7))
    expected = torch.nn.functional.cross_entropy(
        pred, target.where(target >= 0, 255), torch.tensor(task.class_weights).double(), ignore_index=255
    )
    assert loss_for(task)(pred, target, None).item() == pytest.approx(expected.item(), rel=1e-12)
    nothing = task.replace(class_weights=(0, 0, 0, 0, 1.0))
    assert loss_for(nothing)(pred, torch.zeros_like(target), None).item() == 0


def test_hed_against_its_paper():
    """L = −β Σ_edges log p − (1 − β) Σ_others log(1 − p), β = |others| / |all| (HED, Eq. 2), here per pixel."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(200) * 3, (rng.random(200) < 0.1).astype(float)
    p, beta = 1 / (1 + np.exp(-x)), (y == 0).sum() / y.size
    expected = -beta * np.log(p[y == 1]).sum() - (1 - beta) * np.log(1 - p[y == 0]).sum()
    found = loss_for(TASKS["edges_hed"])(
        torch.from_numpy(x.reshape(1, 1, 10, 20)), torch.from_numpy(y.reshape(1, 1, 10, 20))
    )
    assert found.item() * 200 == pytest.approx(expected)
    balanced = loss_for(TASKS["edges"])(
        torch.from_numpy(x.reshape(1, 1, 10, 20)), torch.from_numpy(y.reshape(1, 1, 10, 20))
    )
    assert found.item() == pytest.approx(2 * beta * (1 - beta) * balanced.item())


# Losses of users


@pytest.fixture
def module():
    found = types.ModuleType("own_losses_for_test")
    sys.modules[found.__name__] = found
    yield found
    del sys.modules[found.__name__]


def test_a_users_loss(module):
    module.scalar = lambda task, p, g, valid: ((p - g)[valid] ** 4).mean()
    module.parts = lambda task, p, g, valid: masked_mean((p - torch.where(valid, g, 0)) ** 4, valid)
    pred, target = (torch.from_numpy(array) for array in sample(TASKS["depth"], 3))
    values = [(p - g) ** 4 for p, g in zip(pred.ravel().tolist(), target.ravel().tolist(), strict=True) if 0 < g < 99]
    for name in ("scalar", "parts"):
        loss = loss_for(Task("t", "depth", loss=f"own_losses_for_test:{name}"))
        assert loss(pred, target, None).item() == pytest.approx(sum(values) / len(values), rel=1e-12)
        p = pred.clone().requires_grad_()
        nothing = loss(p, torch.zeros_like(target), None)  # the mean over nothing is nan
        nothing.backward()
        assert nothing.item() == 0 and not p.grad.any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "task 't': the loss 'own_losses_for_test:gone': 'gone' is not there in module"),
        ("number", "the loss 'own_losses_for_test:number': 'number' is not callable, it is int"),
        ("broken", "the loss 'own_losses_for_test:broken' failed: ZeroDivisionError: division by zero"),
        ("vector", r"returned a tensor \[2\]: return a scalar tensor, such as masked_mean\(values, valid\)"),
        ("nothing", "returned NoneType: return a scalar"),
    ],
)
def test_a_bad_loss_is_told_in_one_line(module, name, message):
    module.number = 3
    module.broken = lambda *a: 1 / 0
    module.vector = lambda task, p, g, valid: p.flatten()
    module.nothing = lambda *a: None
    with pytest.raises(TaskError, match=message) as caught:
        loss_for(Task("t", "depth", loss=f"own_losses_for_test:{name}"))(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert "\n" not in str(caught.value)


def test_every_kinds_losses_exist():
    assert {name for kind in KINDS.values() for name in kind.losses} <= set(LOSSES)


def test_registering_twice_is_refused():
    with pytest.raises(TaskError, match="loss 'l1' is registered already"):
        register_loss("l1")(LOSSES["mse"])
    with pytest.raises(TaskError, match="has a rule"):
        register_valid_rule("depth")(valid_mask)
