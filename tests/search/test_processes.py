"""Two processes, each with half of every batch, train what one process trains with all of it; in float64 to 1e-9.

Starting processes takes seconds, so one pair of them trains everything; the tests compare.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder
from helpers.processes import in_processes

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import DataSource, InputSpec, Parts
from onnxmtl.errors import DataError, RunError
from onnxmtl.ir import Role
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch, together
from onnxmtl.lowering.agreement import agreed, from_first, spread
from onnxmtl.passes.spaces import space
from onnxmtl.runs import Checkpoints
from onnxmtl.search import recipe_named
from onnxmtl.search.engine import SearchStage, Setting, train_weights
from onnxmtl.train.optimizers import OptimizerSpec

TASKS = TaskSet.parse("seg=segmentation:3,depth,normals,edges,room=classification:4")
CHANNELS = {"seg": 3, "depth": 1, "normals": 3, "edges": 1, "room": 4}
STEPS = 6
SPEC = OptimizerSpec("adam", lr=1e-2, weight_decay=1e-3)
WEIGHTINGS = ["static", "uncertainty", "dwa,period=2", "gradnorm", "torchjd:UPGrad"]
SEARCHES = [
    ("automtl", "", "pre-train"),
    ("automtl", "", "policy-train"),
    ("automtl", "released", "policy-train"),
    ("adashare", "", "policy"),
    ("bmtas", "", "search"),
]
RESUMED = SEARCHES[1:4:2]
FEW = 2  # steps of those that normalize much and so wait much for each other; where later steps are like the first ones
SHORT = {SEARCHES[0]: FEW, SEARCHES[4]: 3}  # the last one: two for the policy come first


class Images:
    """Many labels are missing, most of them in some of the samples: halves of a batch have different counts."""

    def __len__(self):
        return 18

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.random((3, 8, 8)).astype(np.float32)
        seg = (image.sum(0) * 0.99).astype(np.int64)
        seg[: index % 8] = -1
        depth = image[:1] + 1
        depth[:, :, : index % 5] = 0
        found = {
            "seg": seg,
            "depth": depth,
            "normals": image / np.linalg.norm(image, axis=0),
            "edges": (image[:1] > 0.2 + 0.6 * (index % 2)).astype(np.float32),
            "room": np.int64(index % 4),
        }
        missing = {0: (), 1: ("depth", "room"), 2: ("seg", "normals", "edges", "room")}[index % 3]
        return image, {name: value for name, value in found.items() if name not in missing}


class Double:
    """Fabric's part of a step."""

    device = "cpu"

    @staticmethod
    def backward(loss: torch.Tensor) -> None:
        loss.backward()


def double(model):
    """The module in float64, for images as they are read."""
    module = to_torch(model, dtype=torch.float64)
    module.register_forward_pre_hook(lambda _, given: (given[0].double(), *given[1:]))
    return module


def setting(train=None, **changes) -> Setting:
    data = DataSource("images", train or Images(), Images(), InputSpec(3, 8, 8))
    return dataclasses.replace(Setting(TASKS, data, 3, 4, Double()), **changes)


def build(of_space: str = "", **options):
    """Three blocks, four dense heads and a classifier."""
    b = GraphBuilder(0)
    x = b.block(b.image, 4, name="stem")
    x = b.residual(b.residual(x, 4), 6, stride=2)
    b.task = "room"
    pooled = b.node("Flatten", [b.node("GlobalAveragePool", [x], ["N", 6, 1, 1])], ["N", 6])
    weight, bias = b.weight("room.w", b.rng.normal(0, 1, (4, 6))), b.weight("room.b", np.zeros(4))
    room = b.node("Gemm", [pooled, weight, bias], ["N", 4], transB=1)
    room.name = "room"
    model = b.heads(x, {name: count for name, count in CHANNELS.items() if name != "room"})
    model.graph.outputs.append(room)
    if of_space:
        space(of_space, **options)(model)
    return model


def multitask(weighting: str, checkpoints=None, listener=None, **changes):
    """A model without Choices: its figures per step, and its weights at the end."""
    module = double(build())
    where = setting(checkpoint_every=1, **changes)
    history = train_weights(module, where, SPEC, STEPS, name="train", weighting=weighting,
                            checkpoints=checkpoints, listener=listener)  # fmt: skip
    return outcome(history, module)


def penalized():
    """A sluice network, whose subspaces are to be orthogonal: every process knows the whole penalty."""
    module = double(build("sluice"))
    history = train_weights(module, setting(), SPEC, FEW, name="train", penalized={"orthogonality": 0.1})
    return outcome(history, module)


def search(name: str, variant: str, which: str, checkpoints=None, listener=None):
    """A stage of a recipe, with its regularizers."""
    recipe = recipe_named(name, variant)
    model = build(recipe.space, **recipe.space_options)
    module = double(model)
    for key, weight in module.parameters_with(Role.OWN).items() if recipe.space == "branch" else ():
        # Equal copies leave the policy no gradient but rounding errors, of which Adam would make steps.
        weight.data += 0.1 * torch.randn(
            weight.shape, generator=torch.Generator().manual_seed(len(key)), dtype=weight.dtype
        )
    stage = next(stage for stage in recipe.stages if stage.name == which)
    where = setting(checkpoint_every=1)
    steps = SHORT.get((name, variant, which), STEPS)
    found = SearchStage(module, site_table(model), recipe, stage, where, steps, weighting="dwa,period=2")
    return outcome(found.run(checkpoints, listener), module)


def disjoint():
    """Two data sets, of which each labels tasks of its own."""
    return multitask("static", train=Parts([(Images(), ("seg", "edges")), (Images(), ("depth", "normals", "room"))]))


def outcome(history, module):
    points = [dict(point.figures) for point in history.points]
    return points, {name: tensor.detach().clone() for name, tensor in module.tensors().items()}


def everything(folder: Path):
    """All trainings that are compared. What those of RESUMED leave in their middle is kept in `folder`."""
    found = {f"weighting {name}": multitask(name) for name in WEIGHTINGS}
    for names in SEARCHES:
        states = listener = None
        if names in RESUMED:
            source, target = (folder / part / "-".join(names) for part in ("whole", "killed"))
            states = Checkpoints(source)
            if together.rank() == 0:
                listener = functools.partial(keep, source=source, target=target)
        found[" ".join(("search", *names))] = search(*names, checkpoints=states, listener=listener)
    return found | {"disjoint": disjoint(), "penalized": penalized()}


def keep(done: int, steps: int, figures, *, source: Path, target: Path) -> None:
    """Keep a copy of the checkpoint in the middle, as a kill would leave it."""
    if done == STEPS // 2 and not target.exists():
        shutil.copytree(source, target)


def resumed(folder: Path):
    """Trainings that go on from what is kept in `folder`."""
    states = {names: Checkpoints(folder / "killed" / "-".join(names)) for names in RESUMED}
    return {" ".join(names): search(*names, checkpoints=kept) for names, kept in states.items()}


def errors(rank: int) -> list[str]:
    """What is raised in this process when something fails in one of them, or both."""

    def fail(*ranks: int):
        if rank in ranks:
            msg = f"sample {rank} is broken"
            raise DataError(msg)
        return rank

    def first():
        msg = "the disk is full"
        raise OSError(msg)

    assert agreed(fail) == rank
    assert from_first(lambda: {"a": [rank, math.inf]}) == {"a": [0, math.inf]}
    tensor = torch.full((2,), float(rank))
    spread([tensor])
    assert tensor.tolist() == [0.0, 0.0]
    found = []
    for work in (lambda: agreed(lambda: fail(1)), lambda: agreed(lambda: fail(0, 1)), lambda: from_first(first)):
        try:
            work()
        except Exception as error:
            found.append(f"{type(error).__name__}: {error} {getattr(error, 'told_elsewhere', False)}")
    with together.alone():
        assert together.world_size() == 1 and from_first(lambda: rank) == rank and agreed(lambda: rank) == rank
    return found


def work(rank: int, folder: str):
    """What each of two processes does."""
    path = Path(folder)
    found = everything(path / "two")
    again = resumed(path / "one")  # what a single process has left
    return found, again, errors(rank)


@pytest.fixture(scope="module")
def trained():
    """(name -> outcome with one process, with the first of two, with the second; and what else `work` returned)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        single = everything(path / "one")
        first, second = in_processes(2, work, folder)
        yield single, first, second, resumed(path / "two")


NAMES = [
    *(f"weighting {name}" for name in WEIGHTINGS),
    *(" ".join(("search", *names)) for names in SEARCHES),
    "disjoint",
    "penalized",
]
LENGTHS = {" ".join(("search", *names)): steps for names, steps in SHORT.items()} | {"penalized": FEW}


def same(found, expected) -> None:
    points, tensors = found
    assert [sorted(point) for point in points] == [sorted(point) for point in expected[0]]
    for point, other in zip(points, expected[0], strict=True):
        for name, value in point.items():
            np.testing.assert_allclose(value, other[name], rtol=1e-9, atol=1e-11, err_msg=name)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[1][name], rtol=1e-7, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_what_one_does(name, trained):
    single, (first, _, _), (second, _, _), _ = trained
    same(first[name], single[name])
    points = single[name][0]
    assert len(points) == LENGTHS.get(name, STEPS) and any(key.startswith("loss/") for point in points for key in point)
    assert all(torch.equal(tensor, second[name][1][key]) for key, tensor in first[name][1].items())
    assert repr(first[name][0]) == repr(second[name][0])  # decisions are taken by them


def test_halves_have_different_labels():
    """Else nothing above says anything about counts: in some steps one half has no label of a task."""
    data, gaps = Images(), 0
    for step in range(STEPS):
        halves = [setting().batches(data, "train", step)[0].labelled["room"][part] for part in (slice(2), slice(2, 4))]
        gaps += halves[0].any() != halves[1].any()
    assert gaps


def test_another_number_of_processes_goes_on(trained):
    single, (_, again, _), _, killed = trained
    for name in killed:
        same(killed[name], single[f"search {name}"])
        same(again[name], single[f"search {name}"])


def test_an_error_in_one_process_ends_all(trained):
    _, (_, _, first), (_, _, second), _ = trained
    assert first == [
        "DataError: sample 1 is broken False",
        "DataError: sample 0 is broken False",
        "OSError: the disk is full False",
    ]
    assert second == [
        "DataError: sample 1 is broken True",
        "DataError: sample 0 is broken True",
        "RunError: process 0: OSError: the disk is full True",
    ]


def test_alone_everything_is_called_as_it_is():
    assert agreed(lambda: 3) == 3 and from_first(lambda: (1, 2)) == (1, 2)
    with pytest.raises(RunError):
        agreed(lambda: (_ for _ in ()).throw(RunError("no")))
