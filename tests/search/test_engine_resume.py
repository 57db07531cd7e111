"""A stage of the search, or a training, that is killed and goes on ends with the same bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.graphs import small_resnet
from helpers.searching import STAGE, changed, disjoint, killed, search, setting, state

from onnxmtl.lowering import to_torch
from onnxmtl.runs import Checkpoints
from onnxmtl.search import Curriculum
from onnxmtl.search.engine import train_weights
from onnxmtl.train.optimizers import OptimizerSpec

RESUMED = {
    "soft": (STAGE, "static"),
    "hard": (dataclasses.replace(STAGE, relaxation="hard-gumbel"), "static"),
    "curriculum": (dataclasses.replace(STAGE, curriculum=Curriculum(0.9, "share")), "static"),
    "in turn": (dataclasses.replace(STAGE, sequential=True, sample="fresh"), "static"),
    "epochs": (dataclasses.replace(STAGE, unit="epoch", first="weights"), "static"),
    "best": (dataclasses.replace(STAGE, keep="best"), "uncertainty"),
    "uncertainty": (STAGE, "uncertainty"),
    "dwa": (dataclasses.replace(STAGE, alternate=(1, 2)), "dwa"),
    "gradnorm": (STAGE, "gradnorm"),
}


# The state of an optimizer does not depend on the kind of the stage.
QUICK = [*((kind, "adam") for kind in RESUMED), ("soft", "sgd"), ("in turn", "sgd")]
MORE = [pytest.param(kind, "sgd", marks=pytest.mark.slow) for kind in RESUMED if (kind, "sgd") not in QUICK]


@pytest.mark.parametrize(("kind", "optimizer"), [*QUICK, *MORE])
def test_a_resumed_stage_equals_an_uninterrupted_one(tmp_path, kind, optimizer):
    """Weights, logits, statistics, the state of the weighting and the history, bit for bit."""
    stage, weighting = RESUMED[kind]
    spec = OptimizerSpec(optimizer, lr=1e-2, momentum=0.9, schedule="cosine")
    stage = dataclasses.replace(stage, weights=spec)
    whole = search(stage, steps=9, weighting=weighting)
    history = whole.run()
    checkpoints = Checkpoints(tmp_path)
    last, resumed = killed(lambda: search(stage, steps=9, weighting=weighting, checkpoint_every=2), (4, 7), checkpoints)
    assert checkpoints.latest_checkpoint()[0] == 8
    assert not changed(state(whole), state(last))
    assert resumed.to_json() == history.to_json() and len(history.points) == 9
    mine, theirs = whole.state(), last.state()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert any(name.startswith("weighting/") for name in mine) == (weighting != "static")
    assert any(name.startswith("best/") for name in mine) == (kind == "best")


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("weighting", ["static", "uncertainty", "gradnorm"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, sequential, weighting):
    """train_weights, killed by its listener."""
    spec = OptimizerSpec(lr=1e-2, schedule="step", decay=0.5, every=3)
    options = {"name": "post", "weighting": weighting, "sequential": sequential}
    modules = [to_torch(small_resnet({"seg": 3, "depth": 1})) for _ in range(3)]
    history = train_weights(modules[0], setting(), spec, 8, **options)

    def dying(done, steps, figures):
        if done == 5:
            raise KeyboardInterrupt

    where = {"checkpoints": Checkpoints(tmp_path), **options}
    with pytest.raises(KeyboardInterrupt):
        train_weights(modules[1], setting(checkpoint_every=2), spec, 8, listener=dying, **where)
    resumed = train_weights(modules[2], setting(checkpoint_every=2), spec, 8, **where)
    assert resumed.to_json() == history.to_json()
    assert all(torch.equal(t, modules[2].tensors()[n]) for n, t in modules[0].tensors().items())
    assert [p.figures["lr/weights"] for p in history.points] == pytest.approx([1e-2] * 3 + [5e-3] * 3 + [2.5e-3] * 2)


def test_disjoint_data_sets_resume(tmp_path):
    whole = search(data=disjoint(), steps=6)
    history = whole.run()
    last, resumed = killed(lambda: search(data=disjoint(), steps=6, checkpoint_every=2), (3,), Checkpoints(tmp_path))
    assert not changed(state(whole), state(last)) and resumed.to_json() == history.to_json()
