"""Two processes with half a batch each do what one does with the whole batch."""

from __future__ import annotations

import pytest
import torch
from helpers.processes import in_processes
from torch import nn

from onnxmtl.lowering import together

X = torch.linspace(-2, 3, 6 * 3 * 4 * 4, dtype=torch.float64).reshape(6, 3, 4, 4).sin().mul(2)
TARGET = torch.linspace(0, 5, 6 * 3 * 4 * 4, dtype=torch.float64).reshape(6, 3, 4, 4).cos()


def _norm(part: slice) -> dict[str, torch.Tensor]:
    """A normalization and a weight behind it; the loss is this part's share."""
    x = X[part].clone().requires_grad_(True)
    scale = nn.Parameter(torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64))
    shift = nn.Parameter(torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64))
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    y = together.training_norm(x, scale, shift, mean, variance, 0.1, 1e-5)
    loss = ((y - TARGET[part]).square() * y.sigmoid()).sum() / X.numel()
    loss.backward()
    together.sum_gradients([scale, shift])
    total = together.all_sum(loss.detach())
    found = {"mean": mean, "variance": variance, "loss": total, "y": y.detach(), "dx": x.grad}
    return found | {"dscale": scale.grad, "dshift": shift.grad}


def _odd_gradients(rank: int) -> list[float | None]:
    parameters = [nn.Parameter(torch.ones(())) for _ in range(3)]
    for index in ((0, 1), (1,))[rank]:
        parameters[index].grad = torch.tensor(float(10 * rank + index + 1))
    together.sum_gradients(parameters)
    return [None if p.grad is None else float(p.grad) for p in parameters]


def _work(rank: int) -> tuple[dict[str, torch.Tensor], list[float | None]]:
    return _norm(slice(0, 2) if rank == 0 else slice(2, 6)), _odd_gradients(rank)  # unequal parts


@pytest.fixture(scope="module")
def two():
    """What each of two processes found."""
    return in_processes(2, _work)


def test_batch_statistics_and_gradients_are_those_of_the_whole_batch(two):
    whole = _norm(slice(None))
    (first, _), (second, _) = two
    for name in ("mean", "variance", "loss", "dscale", "dshift"):
        torch.testing.assert_close(first[name], whole[name], rtol=1e-12, atol=1e-12)
        assert torch.equal(first[name], second[name])
    for name in ("y", "dx"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), whole[name], rtol=1e-11, atol=1e-12)


def test_a_gradient_that_only_one_process_has(two):
    assert [gradients for _, gradients in two] == [[1.0, 14.0, None]] * 2


def test_alone_nothing_is_added():
    x = torch.ones(3, requires_grad=True)
    assert together.world_size() == 1 and together.rank() == 0
    assert together.all_sum(x) is x


def test_one_value_per_channel_has_no_variance():
    mean, variance = torch.zeros(2), torch.full((2,), 7.0)
    y = together.training_norm(torch.tensor([[3.0, 5.0]]), torch.ones(2), torch.ones(2), mean, variance, 0.5, 1e-5)
    assert mean.tolist() == [1.5, 2.5] and variance.tolist() == [7.0, 7.0]
    torch.testing.assert_close(y, torch.ones(1, 2), rtol=0, atol=1e-3)
