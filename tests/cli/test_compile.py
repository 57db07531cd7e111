"""``onnxmtl compile`` as a user calls it: what it prints, and what it does with the place for its run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
from helpers.command_line import QUICK, command, refused
from helpers.compiling import TASKS, digests, write_backbone

from onnxmtl import cli

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(one_thread, tmp_path_factory):
    """A directory with a finished run, and what its command gave and printed: (code, out, err)."""
    path = tmp_path_factory.mktemp("trained")
    write_backbone(path / "net.onnx")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(path), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["compile", "net.onnx", "--tasks", TASKS, *QUICK, "--json", "-o", "run"])
    return path, (code, out.getvalue(), err.getvalue())


@pytest.fixture
def finished(trained, folder):
    """That run in the user's directory; what its command gave and printed."""
    path, printed = trained
    shutil.copytree(path / "run", folder / "run")
    return printed


# What it prints


def test_json(finished):
    code, out, err = finished
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [task["task"] for task in found["tasks"]] == ["seg", "depth"]
    assert found["run"] == "run" and os.path.exists(found["model"])


def test_quiet(finished, capsys):
    code, out, err = command(capsys, "--quiet", "--resume")
    assert (code, out, err) == (0, f"run{os.sep}model.onnx\n", "")


def test_for_people(finished, capsys):
    code, out, err = command(capsys, "--resume")
    assert (code, err) == (0, "")
    assert all(word in out for word in ("seg", "depth", "stem", "model.onnx", "constant"))


def test_trace(folder, capsys):
    code, out, err = command(capsys, "--quiet", "--trace-passes", "trace")
    assert (code, out, err) == (0, f"run{os.sep}model.onnx\n", "")
    names = sorted(os.listdir("trace"))
    assert (
        "trace.txt" in names and any("Vcn" in name for name in names) and any("AttachHeads" in name for name in names)
    )


def test_every_option_is_taken(folder, capsys):
    code, _, err = command(
        capsys, "--json", "--recipe", "automtl", "--skip", "grouped1x1", "--norm", "follow", "--granularity", "op",
        "--shared-prefix", "1", "--regularizer", "sharing=0.1", "--regularizer", "multiply_adds=0.5", "--samples", "2",
        "--no-fold", "--seed", "3", "--input-size", "16x32", "--features", "early", "--batchnorm", "insert",
        "--output-stride", "1", "--checkpoint-every", "2",
    )  # fmt: skip
    assert (code, err) == (0, "")
    config = json.loads((folder / "run" / "run.json").read_text())["config"]
    assert config["space"] == {"skip": "grouped1x1", "norm": "follow", "granularity": "op", "shared_prefix": 1}
    assert config["regularizers"] == {"sharing": 0.1, "multiply_adds": 0.5}
    assert (config["samples"], config["fold"], config["seed"], config["input_size"]) == (2, False, 3, [16, 32])
    assert (config["features"], config["batchnorm"], config["output_stride"]) == (["early"], "insert", 1)
    assert "checkpoint_every" not in config


def test_every_other_option_is_taken(folder, capsys):
    code, out, err = command(
        capsys, "--json", "--recipe", "adashare", "--variant", "released", "--without", "sharing", "--without",
        "curriculum", "--weighting", "dwa,temperature=1", "--decode-prefix", "2", "--retrain", "inherit", "--budget",
        "params<=1x,madds<=1x", "--random-draws", "3", "--tensorboard", "events", "--baselines", "hard-sharing",
    )  # fmt: skip
    assert (code, err) == (0, "")
    config = json.loads((folder / "run" / "run.json").read_text())["config"]
    assert (config["recipe"], config["variant"]) == ("adashare", "released")
    assert config["without"] == ["sharing", "curriculum"]
    assert (config["weighting"], config["shared_prefix"], config["retrain"]) == ("dwa,temperature=1", 2, "inherit")
    assert (config["budget"], config["random_draws"]) == ("params<=1x,madds<=1x", 3)
    assert config["baselines"] == ["hard-sharing"] and (config["policy"], config["preset"]) == ("learned", "")
    assert "adashare_sharing" not in config["with_recipe"]["regularizers"]
    assert {row["met"] for row in json.loads(out)["budget"]} == {True}
    assert list((folder / "events").glob("*/events.out.tfevents.*"))


def test_options_of_a_search_of_edges_are_taken(folder, capsys):
    code, _, err = command(
        capsys, "--json", "--recipe", "mtlnas", "--relaxation", "gumbel", "--without", "entropy", "--samples", "1",
        "--space-option", "own=0.9", "--space-option", "within=2", "--space-option", "activation=relu",
    )  # fmt: skip
    assert (code, err) == (0, "")
    config = json.loads((folder / "run" / "run.json").read_text())["config"]
    assert config["space"] == {"own": 0.9, "within": 2, "activation": "relu"}
    assert (config["relaxation"], config["without"], config["samples"]) == ("gumbel", ["entropy"], 1)
    stage = config["with_recipe"]["stages"][1]
    assert stage["relaxation"] == "gumbel" and config["with_recipe"]["space_options"] == config["space"]


def test_specialize(finished, folder, capsys):
    code = cli.main(["specialize", "run", "--budget", "madds<=0.9x", "-o", "small", "--json"])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    found = json.loads(printed.out)
    assert found["run"] == "small" and [row["met"] for row in found["budget"]] == [True]
    assert cli.main(["verify", "small", "--quiet"]) == 0
    capsys.readouterr()
    for words, code, text in (
        (["run", "--resume"], 2, "--output"),
        (["run", "--weights", "new"], 2, "--weights"),
        (["gone"], 1, "error: gone is no run"),
        (["run", "-o", "small"], 1, "small holds a run already"),
        (["run", "--budget", "madds<=0.001x"], 1, "no architecture of the supermodel is that small"),
    ):
        assert cli.main(["specialize", *words]) == code
        printed = capsys.readouterr()
        assert text in printed.err and "Traceback" not in printed.err and printed.out == ""
        assert code == 2 or printed.err.count("\n") == 1
    assert not (folder / "runs").exists()


def test_resume_of_a_finished_run_reports(finished, folder, capsys):
    before = digests(folder / "run")
    assert command(capsys, "--json", "--resume") == finished
    assert digests(folder / "run") == before


# The output


def test_a_directory_that_is_not_empty(folder, capsys):
    (folder / "full").mkdir()
    (folder / "full" / "keep.txt").write_text("keep me")
    refused(capsys, folder, out="full", words="full is not empty (it has 'keep.txt')")
    refused(capsys, folder, "--resume", out="full", words="it has no run.json")


def test_a_file(folder, capsys):
    (folder / "taken").write_text("keep me")
    refused(capsys, folder, out="taken", words="taken exists and is no directory")
    refused(capsys, folder, out="taken/run", words="cannot write taken/run")


def test_a_run(finished, folder, capsys):
    refused(capsys, folder, words="run holds a run already; resume it")
    refused(capsys, folder, "--resume", "--seed", "7", words="seed was 0 in the run and is 7 now")


def test_an_empty_directory_is_taken(folder, capsys):
    (folder / "run").mkdir()
    code, out, err = command(capsys)
    assert (code, err) == (0, ""), "quiet off a terminal but for the answer"
    assert "model.onnx" in out


@pytest.mark.parametrize("limit", [1, 1_000, 10_000, 60_000, 120_000])
def test_a_full_disk(folder, capsys, limit):
    """No file may grow beyond `limit` bytes: what a full disk does to whoever writes (EFBIG for ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        refused(capsys, folder, "--checkpoint-every", "1", words="cannot write run", written=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (folder / "run" / "model.onnx").exists()
    if (folder / "run" / "run.json").exists():  # with room again it goes on
        assert command(capsys, "--resume", "--quiet")[0] == 0


def test_a_full_disk_in_the_middle_of_the_training(finished, folder, capsys):
    """A limit between the graphs, which are written first, and the states of the training."""
    (folder / "run").rename(folder / "whole")
    sizes = [path.stat().st_size for path in (folder / "whole" / "phases" / "01-import").iterdir()]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) + 1, before[1]))
    try:
        refused(capsys, folder, "--checkpoint-every", "1", words="cannot write run/checkpoints", written=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert command(capsys, "--resume", "--quiet")[0] == 0
    assert digests(folder / "run") == digests(folder / "whole")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_no_permission(folder, capsys):
    (folder / "locked").mkdir(mode=0o500)
    refused(capsys, folder, out="locked/run", words="Permission denied")


def test_another_process_prints_the_answer_alone_and_writes_the_same_bytes(finished, folder):
    """No warning and nothing besides the line; a set of strings is in another order there than here, too."""
    program = "import sys, torch; torch.set_num_threads(1); from onnxmtl.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, "compile", "net.onnx", "--tasks", TASKS, *QUICK, "--quiet", "-o", "again"]
    other = {**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=other)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"again{os.sep}model.onnx\n", "")
    here, there = digests(folder / "run"), digests(folder / "again")
    assert {name for name in here if here[name] != there[name]} <= {"report.json"}  # it has the model's path
    assert here.keys() == there.keys()
