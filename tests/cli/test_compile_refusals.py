"""``onnxmtl compile`` as a user calls it: one line for every file, task, data set and option that cannot be."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest
from helpers.command_line import command, everything, refused
from helpers.graphs import GraphBuilder
from helpers.networks import parse
from onnx import helper

from onnxmtl.ir import save

pytestmark = pytest.mark.usefixtures("one_thread")


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
