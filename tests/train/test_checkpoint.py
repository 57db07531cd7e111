"""States on disk come back bit for bit; what cannot be read is told."""

from __future__ import annotations

import resource

import pytest
import torch
from helpers.graphs import small_resnet

from onnxmtl.errors import RunError
from onnxmtl.lowering import to_torch
from onnxmtl.passes.spaces import Vcn
from onnxmtl.train.checkpoint import load_extra, load_state, load_weights, save_state, save_weights
from onnxmtl.train.optimizers import OptimizerSpec, build_optimizer


def module_of(seed: int = 0):
    model = small_resnet(seed=seed)
    Vcn()(model)
    return to_torch(model)


def train(module, optimizers, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for number in range(steps):
        images = torch.randn(2, 3, 8, 8, generator=generator)
        loss = sum((out**2).mean() for out in module(images).values())
        for name, optimizer in optimizers.items():
            optimizer.zero_grad()
            if name == "policy" and number % 2:
                loss = loss * 1.5
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()


def optimizers_of(module, name: str):
    parameters = list(module.parameters_with().items())
    half = len(parameters) // 2
    return {
        "weights": build_optimizer(OptimizerSpec(name, lr=1e-3), dict(parameters[:half])),
        "policy": build_optimizer(OptimizerSpec("adam", lr=1e-2), dict(parameters[half:])),
    }


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_state_comes_back_bit_for_bit(tmp_path, name):
    first = module_of()
    optimizers = optimizers_of(first, name)
    train(first, optimizers, 3, seed=0)
    save_state(tmp_path, first, optimizers, {"step": 3})

    second = module_of(seed=9)
    others = optimizers_of(second, name)
    assert load_state(tmp_path, second, others) == {"step": 3}
    for key, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[key]), key
    for key, optimizer in optimizers.items():
        mine, theirs = optimizer.state_dict(), others[key].state_dict()
        assert mine["param_groups"] == theirs["param_groups"] and mine["state"].keys() == theirs["state"].keys()
        for index, fields in mine["state"].items():
            assert fields.keys() == theirs["state"][index].keys()
            for field, value in fields.items():
                found = theirs["state"][index][field]
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(found))
                assert torch.as_tensor(value).dtype == torch.as_tensor(found).dtype, field

    for module, both in ((first, optimizers), (second, others)):
        module.train()
        train(module, both, 3, seed=1)
    assert all(torch.equal(a, second.tensors()[key]) for key, a in first.tensors().items())


def test_optimizers_that_never_stepped_have_no_state(tmp_path):
    module = module_of()
    save_state(tmp_path, module, optimizers_of(module, "adam"), {})
    other = optimizers_of(module, "adam")
    load_state(tmp_path, module, other)
    assert all(not optimizer.state_dict()["state"] for optimizer in other.values())


def test_parameters_without_a_gradient_have_no_state(tmp_path):
    """Options that never ran: their state must not turn up on loading."""
    module = module_of()
    parameters = module.parameters_with()
    optimizer = build_optimizer(OptimizerSpec(), parameters)
    some = list(parameters.values())[::3]
    for parameter in some:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_state(tmp_path, module, {"weights": optimizer}, {})
    other = build_optimizer(OptimizerSpec(), parameters)
    load_state(tmp_path, module, {"weights": other})
    assert sorted(other.state_dict()["state"]) == list(range(0, len(parameters), 3))


def test_weights_alone(tmp_path):
    first, second = module_of(), module_of(seed=3)
    save_weights(tmp_path / "w", first)
    held = {name: tensor.data_ptr() for name, tensor in second.tensors().items()}
    load_weights(tmp_path / "w", second)
    assert all(torch.equal(a, second.tensors()[key]) for key, a in first.tensors().items())
    assert held == {name: tensor.data_ptr() for name, tensor in second.tensors().items()}, "in place"


def test_equal_states_are_equal_bytes(tmp_path):
    for name in "ab":
        save_weights(tmp_path / name, module_of())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_of_another_model(tmp_path):
    save_weights(tmp_path / "w", module_of())
    with pytest.raises(RunError, match="belongs to another model"):
        load_weights(tmp_path / "w", to_torch(small_resnet()))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "gone"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, damage):
    module, file = module_of(), tmp_path / "w"
    save_weights(file, module)
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"truncated": data[: len(data) // 2], "text": b"hello" * 100, "empty": b""}[damage])
    with pytest.raises(RunError, match="cannot be read as a checkpoint") as found:
        load_weights(file, module)
    assert "\n" not in str(found.value)


def test_a_full_disk_is_an_os_error(tmp_path):
    """safetensors has an error of its own, which nobody above would know as a full disk."""
    module = module_of()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as found:
            save_weights(tmp_path / "w", module)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.filename == str(tmp_path / "w")


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        save_weights(tmp_path / "gone" / "w", module_of())


def test_further_tensors(tmp_path):
    """What a weighting of losses has to remember."""
    module = module_of()
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    given = {"log_variance/seg": torch.tensor(0.25), "history": torch.arange(6.0).reshape(2, 3).T}
    save_state(tmp_path / "with", module, {}, {}, given)
    save_state(tmp_path / "without", module, {}, {})
    found = load_extra(tmp_path / "with")
    assert found.keys() == given.keys() and all(torch.equal(found[name], given[name]) for name in given)
    assert load_extra(tmp_path / "without") == {}
