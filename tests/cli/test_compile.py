"""``onnxmtl compile`` as a user calls it: what it prints, and one line for everything that can be wrong."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from helpers.compiling import DATA, TASKS, digests, write_backbone
from helpers.graphs import GraphBuilder
from helpers.networks import parse
from onnx import helper

from onnxmtl import cli
from onnxmtl.ir import save

QUICK = ("--steps", "6", "--batch-size", "2", "--train-size", "8", "--val-size", "4", "--baselines", "none")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's directory: a backbone ``net.onnx`` and a module ``mine`` with data sets."""
    write_backbone(tmp_path / "net.onnx")
    (tmp_path / "mine.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.delenv("ONNXMTL_DEBUG", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
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


def command(capsys, *arguments, model="net.onnx", tasks=TASKS, out="run", quick=QUICK):
    given = {arguments[i] for i in range(len(arguments))}
    pairs = [word for flag, value in zip(quick[::2], quick[1::2], strict=False) if flag not in given
             for word in (flag, value)]  # fmt: skip
    words = ["compile", str(model), "--tasks", tasks, *pairs, *map(str, arguments)]
    code = cli.main([*words, "-o", str(out)] if out else words)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def everything(folder):
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in str(path)
    }


def refused(capsys, folder, *arguments, words: str, written: bool = False, **options) -> str:
    """One line on stderr, exit code 1, nothing overwritten; nothing written either, unless training had begun."""
    before = everything(folder)
    code, out, err = command(capsys, *arguments, **options)
    after = everything(folder)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert words in err and "a bug of onnxmtl" not in err, err
    assert {path: after[path] for path in before} == before
    if not written:
        assert after == before
    assert not [path for path in after if path.name.endswith(".tmp")]
    return err


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


# The file


def test_no_file(folder, capsys):
    refused(capsys, folder, model="gone.onnx", words="gone.onnx: no such file")


def test_a_directory(folder, capsys):
    (folder / "models").mkdir()
    refused(capsys, folder, model="models", words="is a directory")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello world\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(200), np.random.default_rng(0).bytes(4000), b"\x00" * 64],
    ids=["empty", "text", "png", "noise", "zeros"],
)
def test_not_onnx(folder, capsys, content):
    (folder / "bad.onnx").write_bytes(content)
    refused(capsys, folder, model="bad.onnx", words="bad.onnx: ")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated(folder, capsys, share):
    data = (folder / "net.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(data[: int(len(data) * share)])
    refused(capsys, folder, model="cut.onnx", words="truncated")


def test_an_empty_graph(folder, capsys):
    image = helper.make_tensor_value_info("x", 1, [1, 3, 16, 16])
    onnx.save(helper.make_model(helper.make_graph([], "g", [image], [image])), folder / "empty.onnx")
    refused(capsys, folder, model="empty.onnx", words="the graph is empty")


MLP = """<ir_version: 10, opset_import: ["" : 21]> mlp (float[N, 8] x) => (float[N, 4] y)
<float[8, 4] w = {ONES}> { h = MatMul (x, w) y = Relu (h) }""".replace("ONES", ", ".join(["1"] * 32))
FLAT = """<ir_version: 10, opset_import: ["" : 21]> flat (float[N, 3, 4, 4] x) => (float[N, 4] y)
<float[48, 4] w = {ONES}> { f = Flatten (x) h = MatMul (f, w) y = Relu (h) }""".replace("ONES", ", ".join(["1"] * 192))


@pytest.mark.parametrize(("text", "words"), [(MLP, "image [N, C, H, W]"), (FLAT, "feature")])
def test_no_convolutions(folder, capsys, text, words):
    save(parse(text), folder / "mlp.onnx")
    refused(capsys, folder, model="mlp.onnx", words=words)


@pytest.mark.parametrize("shapes", [True, False])
def test_unknown_operators_are_all_listed_by_name(folder, capsys, shapes):
    proto = onnx.load(folder / "net.onnx")
    first, second = [node for node in proto.graph.node if node.op_type == "Relu"][:2]
    for node, op, name in ((first, "Fancy", "fancy_one"), (second, "Wild", "wild_two")):
        node.op_type, node.name, node.domain = op, name, "my.domain"
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    if not shapes:
        del proto.graph.value_info[:]
    onnx.save(proto, folder / "custom.onnx")
    err = refused(capsys, folder, model="custom.onnx", words="Fancy")
    assert "'fancy_one'" in err and "'wild_two'" in err and "Wild" in err
    assert err.count("fancy_one") == 1, "once, whatever the number of tasks"


def test_unknown_operators_behind_the_features_do_no_harm(folder, capsys):
    proto = onnx.load(folder / "net.onnx")
    (pool,) = [node for node in proto.graph.node if node.op_type == "GlobalAveragePool"]
    pool.op_type, pool.domain = "Fancy", "my.domain"
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    onnx.save(proto, folder / "custom.onnx")
    assert command(capsys, "--features", "late", model="custom.onnx")[0] == 0


def test_two_images(folder, capsys):
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    b.graph.inputs.append(other := onnx_ir.Value(name="second", type=b.image.type, shape=b.image.shape))
    b.graph.outputs.append(b.node("Add", [x, b.conv(other, 4)], x.shape))
    save(onnx_ir.Model(b.graph, ir_version=10), folder / "two.onnx")
    refused(capsys, folder, model="two.onnx", words="one input")


# Tasks


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("seg=segmentatoin", "did you mean 'segmentation'"),
        ("seg==", "cannot read the task"),
        ("", "no tasks given"),
        ("seg=segmentation:many", "'many' is no number of classes"),
        ("seg=segmentation:-3", "seg"),
        ("depth,depth", "two tasks are named"),
        ("image=depth", "the model's input has that name"),
        ("my task=depth", "my task"),
        ("gone.toml", "gone.toml"),
        ("syntax.toml", "syntax.toml"),
        ("key.toml", "unknown key 'wieght'"),
        ("top.toml", "unknown key 'x'"),
        ("feature.toml", "no feature 'nowhere'"),
        ("head.toml", "the head 'no_such_module:head': there is no module"),
        ("loss.toml", "the loss 'math:sine': 'sine' is not there (did you mean 'sin'?) in module 'math'"),
        ("metric.toml", "the metric 'math:sin' does not say which way is better"),
        ("own=json:JSONDecoder", "the task kind 'json:JSONDecoder' is no onnxmtl.kinds.Kind, it is type"),
    ],
)
def test_tasks(folder, capsys, tasks, words):
    (folder / "syntax.toml").write_text('[tasks.seg\nkind="depth"')
    (folder / "key.toml").write_text('[tasks.seg]\nkind = "depth"\nwieght = 3\n')
    (folder / "top.toml").write_text("x = 1\n")
    (folder / "feature.toml").write_text('[tasks.seg]\nkind = "depth"\nfeatures = ["nowhere"]\n')
    (folder / "head.toml").write_text('[tasks.seg]\nkind = "depth"\nhead = "no_such_module:head"\n')
    (folder / "loss.toml").write_text('[tasks.seg]\nkind = "depth"\nloss = "math:sine"\n')
    (folder / "metric.toml").write_text('[tasks.seg]\nkind = "depth"\nmetrics = ["abs", "math:sin"]\n')
    refused(capsys, folder, tasks=tasks, words=words)


# Data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("scene", "did you mean 'scenes'"),
        ("no_such_module:make", "no module 'no_such_module'"),
        ("mine:mak", "'mak' is not there"),
        ("mine:", "module:callable"),
        ("mine:broken", "raised ValueError: no such disk"),
        ("mine:nothing", "returned nothing"),
        ("mine:lonely", "training set has 1"),
        ("mine:unlabelled", "no sample with a valid label for task 'depth'"),
        ("mine:raises", "sample 3: the data set raised OSError: image 3.png is broken and this is a second line"),
        ("mine:missing_file", "sample 3: the data set raised FileNotFoundError"),
        ("mine:shape", "sample 3, task 'depth': expected float32 [1, 16, 16]"),
        ("mine:dtype", "sample 3, task 'seg': expected int64"),
        ("mine:classes_out_of_range", "sample 3, task 'seg': class"),
    ],
)
def test_data(folder, capsys, data, words):
    refused(capsys, folder, "--data", data, words=words)


def test_other_classes_than_the_tasks(folder, capsys):
    refused(capsys, folder, "--data", "mine:fine", tasks="seg=segmentation:5,depth", words="3 classes")


def test_divergence(folder, capsys):
    refused(capsys, folder, "--data", "mine:huge", words="the loss of 'depth' is inf", written=True)


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--recipe", "automlt"), "unknown recipe 'automlt'; there are: adashare, automtl"),
        (("--variant", "papr"), "recipe 'automtl' has no variant 'papr'"),
        (("--preset", "nyu"), "has no preset 'nyu'"),
        (("--without", "curriculum"), "has no curriculum to leave out"),
        (("--weighting", "gradnrm"), "unknown method"),
        (("--budget", "params<=lots"), "the budget's part 'params<=lots'"),
        (("--budget", "madds<=0.01x"), "no architecture of the supermodel is that small"),
        (("--baselines", "separate"), "--baselines takes none, or names of"),
        (("--data-option", "size=3"), "size"),
        (("--regularizer", "sharign=1"), "unknown regularizer 'sharign'; there are:"),
        (("--regularizer", "sharing=nan"), "sharing"),
        (("--regularizer", "sharing=-1"), "0 or more"),
        (("--features", "nowhere"), "'nowhere'"),
        (("--val-size", "1"), "validation set has 1"),
        (("--input-size", "2x2"), "too small"),
        (("--norm", "per_task", "--granularity", "block"), "granularity='block'"),
        (("--resume",), "cannot resume run: it does not exist"),
        (("--recipe", "nddr", "--relaxation", "gumbel"), "recipe 'nddr' trains no policy"),
        (("--recipe", "mtlnas", "--space-option", "owm=0.9"), "search space 'fusion' takes no setting 'owm'"),
        (("--recipe", "mtlnas", "--space-option", "within=two"), "search space 'fusion': within is int, not 'two'"),
    ],
)
def test_options(folder, capsys, options, words):
    refused(capsys, folder, *options, words=words)


@pytest.mark.parametrize(
    "options",
    [
        ("--steps", "-3"),
        ("--steps", "0"),
        ("--steps", "many"),
        ("--batch-size", "1"),
        ("--batch-size", "-4"),
        ("--seed", "-1"),
        ("--samples", "-1"),
        ("--train-size", "-1"),
        ("--val-size", "-1"),
        ("--shared-prefix", "-1"),
        ("--output-stride", "-8"),
        ("--checkpoint-every", "0"),
        ("--input-size", "0x0"),
        ("--input-size", "wide"),
        ("--regularizer", "sharing"),
        ("--data-option", "nothing"),
        ("--space-option", "within"),
        ("--relaxation", "average"),
        ("--policy", "wild"),
        ("--retrain", "never"),
        ("--random-draws", "0"),
        ("--skip", "sometimes"),
        ("--norm", "both"),
        ("--no-such-option",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(folder, capsys, options):
    before = everything(folder)
    code, out, err = command(capsys, *options)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert options[0] in err
    assert everything(folder) == before


def test_resume_needs_to_be_told_where(folder, capsys):
    code, _, err = command(capsys, "--resume", out=None)
    assert code == 2 and "--output" in err


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


def test_as_a_process(folder):
    """No warning, no traceback, nothing besides the line, from the installed command too."""
    program = "import sys; from onnxmtl.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, "compile", "gone.onnx", "-t", TASKS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: gone.onnx: no such file\n")
