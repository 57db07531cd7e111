"""One search for each weight of a regularizer: what is written, what is resumed, what is refused."""

from __future__ import annotations

import json
import math

import pytest
from helpers.bmtas import BMTAS, TWO
from helpers.compiling import TASKS, digests, write_backbone

from onnxmtl.deploy.sweep import spelled
from onnxmtl.errors import RunError
from onnxmtl.search import recipe_named
from onnxmtl.workflows.sweep import sweep

OPTIONS = {**BMTAS, "steps": 6, "space": {"groups": 2}, "baselines": ("single-task", "hard-sharing")}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("net") / "net.onnx", size=16)


@pytest.fixture(scope="module")
def done(net, tmp_path_factory):
    return sweep(net, TWO, weights=[5, 0], out=tmp_path_factory.mktemp("sweep") / "sweep", **OPTIONS)


def test_what_is_written(done):
    points = done.sweep.points
    assert [point.weight for point in points] == [0.0, 5.0] and done.sweep.recipe == "bmtas"
    for point in points:
        report = json.loads((done.path / point.run / "report.json").read_text())
        assert report["costs"]["found"]["multiply_adds"] == point.multiply_adds
        assert report["delta"]["found"] == pytest.approx(point.delta)
        assert set(point.tasks) == set(TWO.names)
        config = json.loads((done.path / point.run / "run.json").read_text())["config"]
        assert config["regularizers"] == {"multiply_adds": point.weight}
        assert point.share == pytest.approx(point.multiply_adds / done.sweep.separate)
    known = [*((p.multiply_adds, p.delta) for p in points), done.sweep.shared]
    for point in points:
        worse = [k for k in known if k[0] <= point.multiply_adds and k[1] >= point.delta]
        assert point.efficient == (set(worse) == {(point.multiply_adds, point.delta)})
    assert json.loads((done.path / "sweep.json").read_text())["points"][1]["weight"] == 5.0
    page = (done.path / "sweep.html").read_text()
    assert "Δ against multiply-adds" in page and (done.path / "sweep.svg").read_text().count("<title>") >= 4


def test_a_finished_sweep_is_read_again(net, done):
    before = digests(done.path)
    with pytest.raises(RunError, match="not empty"):
        sweep(net, TWO, weights=[0], out=done.path, **OPTIONS)
    again = sweep(net, TWO, weights=[0, 5], out=done.path, resume=True, **OPTIONS)
    assert again.sweep == done.sweep and digests(done.path) == before


class Dying:
    """An observer that interrupts the search of one of the weights."""

    def __init__(self, text):
        self.text, self.here, self.name = text, False, ""

    def note(self, text):
        self.here = text.startswith(self.text)

    def stage(self, name, total, start=0):
        self.name = name

    def update(self, step, losses, cost=None):
        if self.here and (self.name, step) == ("search", 2):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on(net, done, tmp_path):
    """In the search of the second weight; what a killed writing of the table leaves is no hindrance."""
    out = tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt):
        sweep(net, TWO, weights=[0, 5], out=out, observer=Dying("multiply_adds 5"), checkpoint_every=2, **OPTIONS)
    assert not (out / "sweep.json").exists()
    again = sweep(net, TWO, weights=[0, 5], out=out, resume=True, checkpoint_every=2, **OPTIONS)
    assert again.sweep == done.sweep and digests(out) == digests(done.path)


@pytest.mark.parametrize("weights", [[], [1, 1], [-1], [float("nan")]])
def test_a_sweep_needs_weights(net, tmp_path, weights):
    with pytest.raises(RunError, match="a sweep needs different weights of multiply_adds from 0 on"):
        sweep(net, TASKS, weights=weights, out=tmp_path / "sweep", **BMTAS)
    assert not (tmp_path / "sweep").exists()


def test_weights_are_told_apart():
    weights = [0.0, 1.0, 0.3, 1e-3, 0.1, 0.10000001, math.pi, 1234567.0, 1234568.0]
    assert len({spelled(weight) for weight in weights}) == len(weights)
    assert [spelled(weight) for weight in weights[:5]] == ["0", "1", "0.3", "0.001", "0.1"]
    assert all(float(spelled(weight)) == weight for weight in weights)


@pytest.mark.slow
def test_weights_that_are_nearly_equal_have_runs_of_their_own(net, tmp_path):
    weights = [0.1, 0.10000001]
    done = sweep(net, TWO, weights=weights, out=tmp_path / "sweep", **{**OPTIONS, "steps": 3, "baselines": ()})
    assert [point.run for point in done.sweep.points] == ["multiply_adds-0.1", "multiply_adds-0.10000001"]


def test_only_a_sweep_is_resumed(net, done, tmp_path):
    """Nothing is written into a run, or into a directory that is not there."""
    run = done.path / done.sweep.points[0].run
    for folder, why in (
        (tmp_path / "gone", "it does not exist"),
        (net, "it is no directory"),
        (run, r"it is no sweep of multiply_adds \(it has 'certificate.json'\)"),
    ):
        before = digests(run)
        with pytest.raises(RunError, match=f"cannot resume .*: {why}; give"):
            sweep(net, TWO, weights=[0], out=folder, resume=True, **OPTIONS)
        assert digests(run) == before and not (tmp_path / "gone").exists()
    fixed = {**OPTIONS, "regularizers": {"multiply_adds": 1.0}}
    with pytest.raises(RunError, match=r"it is no sweep of parameters \(it has 'multiply_adds-0'\)"):
        sweep(net, TWO, regularizer="parameters", weights=[0], out=done.path, resume=True, **fixed)


def test_a_sweep_searches(net, tmp_path):
    for options, words in (
        ({"layout": "tree.json"}, "--layout leaves nothing to search"),
        ({"architecture": "architecture.json"}, "--architecture leaves nothing to search"),
        ({"policy": "random"}, "leave out --policy random"),
    ):
        with pytest.raises(RunError, match=words):
            sweep(net, TWO, weights=[0], out=tmp_path / "sweep", **{**OPTIONS, **options})


def test_one_pull_towards_low_costs_at_a_time(net, tmp_path):
    """The released loss would stay beside the exact one: at weight 0 there would still be a resource loss.

    Without baselines there are costs only.
    """
    options = {**OPTIONS, "variant": "released", "steps": 3, "baselines": ()}
    with pytest.raises(
        RunError, match=r"recipe 'bmtas \(released\)' weighs costs by bmtas_released, which would pull beside mult"
    ):
        sweep(net, TWO, weights=[0, 1], out=tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()
    own = recipe_named("bmtas", "released")  # as an object, which a user may have changed
    asked = {**options, "variant": "", "recipe": own, "regularizers": {"bmtas_released": 0.0}}
    done = sweep(net, TWO, weights=[1], out=tmp_path / "sweep", **asked)
    (point,) = done.sweep.points
    assert done.sweep.recipe == "bmtas (released)"
    assert (point.delta, point.share, point.efficient) == (None, None, False) and point.tree
    assert not (done.path / "sweep.svg").exists() and (done.path / "sweep.html").exists()
    assert done.sweep.shared is None
