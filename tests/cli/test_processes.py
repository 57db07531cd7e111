"""``--devices 2`` on the command line: the same model as with one process, one line for an error, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.compiling import DATA, TASKS, write_backbone
from typer.testing import CliRunner

from onnxmtl.cli import app
from onnxmtl.deploy.verify import verify
from onnxmtl.ir import load
from onnxmtl.runs import read_json
from onnxmtl.runtime import session

COMMAND = Path(sys.executable).with_name("onnxmtl")
SIZE = ["--batch-size", "4", "--train-size", "12", "--val-size", "4", "--checkpoint-every", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone and data of the user's."""
    path = tmp_path_factory.mktemp("processes")
    write_backbone(path / "net.onnx")
    (path / "own_data.py").write_text(DATA)
    return path


def start(folder: Path, command: str, *words: str, **environment: str) -> subprocess.Popen[str]:
    given = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen([str(COMMAND), command, *words], cwd=folder, env=given, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def compiled(folder: Path, *words: str) -> subprocess.Popen[str]:
    data = () if "--data" in words else ("--data", "own_data:gaps")
    return start(folder, "compile", "net.onnx", "--tasks", TASKS, *SIZE, *data, *words)


def finish(child: subprocess.Popen[str]) -> str:
    out, error = child.communicate(timeout=280)
    assert child.returncode == 0 and not error, error
    return out


def followers(of: int) -> list[int]:
    """The process ids of the children of a process."""
    return [int(word) for word in Path(f"/proc/{of}/task/{of}/children").read_text().split()]


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def outputs(run: Path, model: str = "model.onnx") -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).random((4, 3, 16, 16)).astype(np.float32)
    opened = session(run / model)
    return dict(zip([o.name for o in opened.get_outputs()], opened.run(None, {"image": images}), strict=True))


def assert_same_model(first: Path, second: Path) -> None:
    """Operators, metrics, and what they compute; all but a class that the last bits decide."""
    models = [load(run / "model.onnx") for run in (first, second)]
    assert [node.op_type for node in models[0].graph] == [node.op_type for node in models[1].graph]
    found, expected = outputs(first), outputs(second)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        close = np.isclose(values, expected[name], rtol=2e-3, atol=2e-3)
        assert close.mean() > (0.99 if np.issubdtype(values.dtype, np.integer) else 0.9999), name


@pytest.mark.slow
def test_compile_and_specialize(folder):
    """A search with drawn candidates, baselines, a budget; then another model of it."""
    words = ["--steps", "8", "--samples", "2", "--budget", "params<=0.99x"]
    finish(compiled(folder, *words, "-o", "one"))
    said = finish(compiled(folder, *words, "--devices", "2", "-o", "two"))
    assert said.count("What it can do") == 1
    assert_same_model(folder / "one", folder / "two")
    assert verify(folder / "two").check()
    reports = [read_json(folder / run / "report.json") for run in ("one", "two")]
    assert reports[0]["costs"] == reports[1]["costs"]
    for run, devices in (("one", "1"), ("two", "2")):
        more = ["--weights", "retrained", "--steps", "3", "--devices", devices, "--json", "-o", f"special-{run}"]
        finish(start(folder, "specialize", run, *more))
    assert_same_model(folder / "special-one", folder / "special-two")
    assert verify(folder / "special-two").check()


@pytest.mark.slow
def test_kill_and_resume(folder):
    """Whoever is killed, all end; the run goes on with two processes or with one."""
    words = ["--steps", "30", "--baselines", "none"]
    runs = {"killed-first": 0, "killed-second": 1}
    for run, who in runs.items():
        child = compiled(folder, *words, "--devices", "2", "-o", run)
        while not list((folder / run).glob("checkpoints/*/step-*")):
            assert child.poll() is None, child.communicate()
            time.sleep(0.02)
        others = followers(child.pid)
        assert len(others) == 1
        os.kill([child.pid, *others][who], signal.SIGKILL)
        _, error = child.communicate(timeout=60)
        if who == 1:  # by its own line, or ended by Fabric
            assert child.returncode and len(error.splitlines()) <= 1
        limit = time.monotonic() + 30
        while any(map(running, others)):
            assert time.monotonic() < limit, "a process is left over"
            time.sleep(0.1)
    finish(compiled(folder, *words, "-o", "whole"))
    finish(compiled(folder, *words, "--devices", "2", "--resume", "-o", "killed-first"))
    finish(compiled(folder, *words, "--resume", "-o", "killed-second"))
    for run in runs:
        assert_same_model(folder / run, folder / "whole")


@pytest.mark.slow
def test_an_error_is_told_once(folder):
    """By the first process, in one line, with nothing left behind."""
    for words, expected in (
        (["--data", "own_data:raises"], "sample 3: the data set raised OSError: image 3.png is broken"),
        (["--data", "own_data:gaps", "--budget", "params<=0.01x"], "no architecture of the supermodel is that small"),
        (["--data", "own_data:huge"], "the loss of 'depth' is inf, the training diverged"),
    ):
        child = compiled(folder, *words, "--steps", "6", "--devices", "2", "-o", "broken")
        out, error = child.communicate(timeout=100)
        assert child.returncode == 1 and not out and len(error.splitlines()) == 1, error
        assert error.startswith("error: ") and expected in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--devices", "0"], "Invalid value for '--devices'"),
        (["--devices", "2"], "has no --devices"),  # the tests' own command line would be run again
        (["--accelerator", "tpu"], "'tpu' is not one of"),
    ],
)
def test_devices_that_cannot_be(folder, words, expected):
    found = CliRunner().invoke(app, ["compile", str(folder / "net.onnx"), "--tasks", TASKS, *words])
    assert found.exit_code == 2 and expected in " ".join(found.output.replace("│", " ").split())
