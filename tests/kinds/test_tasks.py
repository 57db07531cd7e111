"""Task, TaskSet: short form, TOML, JSON, and every mistake told in one line."""

from __future__ import annotations

import json
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.data import load_data
from onnxmtl.errors import TaskError
from onnxmtl.frontends.onnx import load
from onnxmtl.kinds import KINDS, Task, TaskSet, kind, load_tasks
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.pipelines import import_pipeline

SAMPLES = Path(__file__).parents[2] / "samples" / "tasks"

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
words = st.text(min_size=1, max_size=8)


@st.composite
def tasks(draw, name=None):
    spec = kind(draw(st.sampled_from(list(KINDS))))
    channels = spec.default_channels if spec.fixed_channels else draw(st.integers(2, 300))
    metrics = tuple(draw(st.lists(st.sampled_from(spec.metrics), min_size=1, unique=True)))
    return Task(
        name=draw(names) if name is None else name,
        kind=spec.name,
        channels=channels,
        head=draw(st.sampled_from([*spec.heads, "pkg.mod:head", "dir/my head.onnx"])),
        width=draw(st.integers(0, 512)),
        features=tuple(draw(st.lists(words, max_size=3, unique=True))),
        weight=draw(st.floats(1e-3, 1e3)),
        output=draw(st.sampled_from(spec.outputs)),
        resolution=draw(st.sampled_from(["input", "native"])) if spec.dense else "input",
        loss=draw(st.sampled_from(spec.losses)),
        metrics=metrics,
        primary=draw(st.sampled_from(metrics)),
        ignore=draw(st.sampled_from([-1, 300, 1000])),
        class_names=tuple(f"c{i}" for i in range(channels)) if spec.categorical and draw(st.booleans()) else (),
    )


@st.composite
def task_sets(draw):
    chosen = draw(st.lists(names, min_size=1, max_size=5, unique_by=str.casefold))
    return TaskSet(tuple(draw(tasks(name=name)) for name in chosen))


@given(task_sets())
def test_json_round_trip(task_set):
    text = task_set.to_json()
    assert TaskSet.from_json(text) == task_set
    assert TaskSet.from_json(text).to_json() == text
    json.loads(text)


def test_short_form():
    found = TaskSet.parse(" seg=segmentation:13, depth ,normals,classification:1000")
    assert found.names == ("seg", "depth", "normals", "classification")
    assert [t.kind for t in found] == ["segmentation", "depth", "normals", "classification"]
    assert [t.channels for t in found] == [13, 1, 3, 1000]
    assert [t.ignore for t in found] == [255, 255, 255, -1]  # 255 is one of the thousand classes
    assert TaskSet.parse("segmentation").tasks[0].channels == 0


def test_defaults_come_from_the_kind():
    task = Task("n", "normals")
    assert (task.channels, task.head, task.loss, task.output) == (3, "aspp", "cosine", "unit")
    assert task.metrics == kind("normals").metrics and task.primary == "mean_angle"
    assert task.weight == kind("normals").weight and task.dense and task.spec is kind("normals")
    assert Task("d", "depth", metrics=("rel", "rmse")).primary == "rel"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no tasks given"),
        ("seg=segmentatoin:13", r"unknown task kind 'segmentatoin' \(did you mean 'segmentation'\?\)"),
        ("seg=segmentation:x", "'x' is no number of classes"),
        ("seg=segmentation:0", "'0' is no number of classes"),
        ("seg=segmentation:1", "needs two classes or more"),
        ("depth:2", r"depth has 1 channel\(s\), not 2: leave the number out"),
        ("a=b=c", "cannot read the task 'a=b=c'"),
        ("depth,,normals", "cannot read the task ''"),
        ("1d=depth", "letters, digits and underscores"),
        ("a-b=depth", "letters, digits and underscores"),
        ("=depth", "letters, digits and underscores"),
        ("d/e=depth", "letters, digits and underscores"),
        ("depth,depth", "two tasks are named 'depth' and 'depth'"),
        ("a=depth,A=depth", "two tasks are named 'a' and 'A'"),
    ],
)
def test_mistakes_in_the_short_form(text, message):
    with pytest.raises(TaskError, match=message) as caught:
        load_tasks(text)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet=string.ascii_letters + "=:,. 0123456789\n[]", max_size=30))
def test_any_text_gives_tasks_or_one_line(text):
    message = ""
    try:
        TaskSet.parse(text)
    except TaskError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "asp"}, r"head 'asp' does not fit depth \(did you mean 'aspp'\?\)"),
        (
            {"head": "pooled"},
            "head 'pooled' does not fit depth; use aspp, light, deeplabv3plus, raspp, module:callable or a file.onnx",
        ),
        ({"output": "argmax"}, "output 'argmax' does not fit depth; use raw"),
        ({"resolution": "half"}, "resolution 'half' is unknown"),
        ({"loss": "cosine"}, "loss 'cosine' does not fit depth; use l1"),
        ({"metrics": ("miou",)}, "metric 'miou' does not fit depth"),
        ({"primary": "miou"}, "primary metric 'miou' is not among its metrics"),
        ({"weight": 0.0}, "weight must be a positive number"),
        ({"weight": float("inf")}, "weight must be a positive number"),
        ({"width": -1}, "width must not be negative"),
        ({"class_names": ("a",)}, "depth has no classes"),
        ({"features": ("a", "a")}, "a feature is listed twice"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(TaskError, match=message) as caught:
        Task("d", "depth", **fields)
    assert str(caught.value).startswith("task 'd': ")


def test_classes_names_and_ignore_must_agree():
    assert Task("s", "segmentation", class_names=("a", "b", "c")).channels == 3
    with pytest.raises(TaskError, match="2 class names for 3 classes"):
        Task("s", "segmentation", channels=3, class_names=("a", "b"))
    with pytest.raises(TaskError, match="ignore = 255 is also a class: set ignore = -1"):
        Task("s", "segmentation", channels=300)
    with pytest.raises(TaskError, match="one prediction per image, leave resolution out"):
        Task("r", "regression", resolution="native")


# TaskSet


def test_a_task_set_is_ordered_and_indexed_by_name():
    found = TaskSet.parse("b=depth,a=normals")
    assert list(found) == [found["b"], found["a"]] and len(found) == 2
    assert "a" in found and "c" not in found
    with pytest.raises(TaskError, match="no task is named 'c'; tasks: b, a"):
        found["c"]


def test_open_channels_are_filled_from_the_data():
    found = TaskSet.parse("seg=segmentation,big=classification,pose=regression,depth").with_classes(
        {"seg": 3, "big": 1000, "other": 5}, {"seg": ["a", "b", "c"], "depth": ["x"]}
    )
    assert [t.channels for t in found] == [3, 1000, 1, 1]
    assert found["seg"].class_names == ("a", "b", "c") and found["depth"].class_names == ()
    assert (found["seg"].ignore, found["big"].ignore) == (255, -1)


def test_classes_that_disagree_or_stay_open_are_refused():
    with pytest.raises(TaskError, match="has 13 classes, the data set has 7: write 7 or leave"):
        TaskSet.parse("seg=segmentation:13").with_classes({"seg": 7})
    with pytest.raises(TaskError, match="needs its number of classes, the data set does not tell: write seg=seg"):
        TaskSet.parse("seg=segmentation").with_classes({})


# TOML


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.toml")), ids=lambda p: p.name)
def test_samples_can_be_read(path):
    found = load_tasks(path)
    assert TaskSet.from_json(found.to_json()) == found


def test_the_sample_of_all_kinds_has_all_kinds_and_all_keys():
    path = SAMPLES / "all-kinds.toml"
    found = load_tasks(path)
    assert {t.kind for t in found} == set(KINDS)
    text = path.read_text()
    keys = {"classes", "head", "width", "features", "weight", "output", "resolution", "loss", "metrics", "primary"}
    keys |= {"ignore", "class_names", "class_weights", "channels", "kind", "unit"}
    assert all(f"\n{key} = " in text for key in keys)


def test_the_sample_of_all_kinds_fits_the_scenes():
    data = load_data("scenes", load_tasks(SAMPLES / "all-kinds.toml"), size=(32, 32), seed=0, train_size=1, val_size=1)
    found = load_tasks(SAMPLES / "all-kinds.toml").with_classes(data.classes, data.class_names)
    assert {name: found[name].channels for name in data.classes} == data.classes
    assert {name: found[name].class_names for name in data.class_names} == data.class_names
    model = import_pipeline()(load(SAMPLES.parent / "backbones" / "vgg-small.onnx")).model
    outputs = AttachHeads(found, 0)(model).model.graph.outputs
    assert [value.name for value in outputs] == list(found.names)


def test_mean_and_std_of_a_network_of_its_own():
    """Written to JSON only where they are given: models of one backbone have nothing of the kind."""
    seg, depth = load_tasks(SAMPLES / "networks.toml")
    assert seg.mean == (0.485, 0.456, 0.406) and seg.std == (0.229, 0.224, 0.225) and depth.mean == depth.std == ()
    assert seg.to_dict()["std"] == [0.229, 0.224, 0.225] and not {"mean", "std"} & depth.to_dict().keys()
    for mean, std, said in (
        ((0.5,), (), "1 mean\\(s\\) and 0 std\\(s\\)"),
        ((0.5,), (0.0,), "std above 0"),
        ((0.5,), (-1.0,), "std above 0"),
        ((float("nan"),), (1.0,), "finite"),
        ((0.5,), (float("inf"),), "finite"),
    ):
        with pytest.raises(TaskError, match=f"task 'x': .*{said}"):
            Task("x", "depth", mean=mean, std=std)


def test_toml_reads_every_key(tmp_path):
    path = tmp_path / "tasks.toml"
    path.write_text(
        """
        [tasks.seg]
        kind = "segmentation"
        classes = 3
        head = "heads/my.onnx"
        width = 64
        features = ["low", "high"]
        weight = 2
        output = "argmax"
        resolution = "native"
        loss = "cross_entropy"
        metrics = ["pixel_accuracy", "miou"]
        primary = "pixel_accuracy"
        ignore = -1
        class_names = ["a", "b", "c"]
        """
    )
    assert load_tasks(path)["seg"] == Task(
        "seg",
        "segmentation",
        channels=3,
        head=str(tmp_path / "heads/my.onnx"),
        width=64,
        features=("low", "high"),
        weight=2.0,
        output="argmax",
        resolution="native",
        metrics=("pixel_accuracy", "miou"),
        primary="pixel_accuracy",
        ignore=-1,
        class_names=("a", "b", "c"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no task in it: write a table \[tasks.NAME\]"),
        ("tasks = 3", "no task in it"),
        ("[task.seg]\nkind='depth'", r"unknown key 'task' \(did you mean 'tasks'\?\)"),
        ("[tasks]\nseg = 'depth'", r"\[tasks.seg\]: a task is a table with a kind, not 'depth'"),
        ("[tasks.seg]\nclases = 3", r"\[tasks.seg\]: unknown key 'clases' \(did you mean 'classes'\?\)"),
        ("[tasks.seg]\nclasses = 3", r"\[tasks.seg\]: the kind is missing"),
        ("[tasks.seg]\nkind = 'depht'", r"\[tasks.seg\]: unknown task kind 'depht' \(did you mean 'depth'\?\)"),
        ("[tasks.seg]\nkind = 3", r"\[tasks.seg\]: kind must be a string, not 3"),
        ("[tasks.seg]\nkind = 'segmentation'\nclasses = '3'", "classes must be a whole number, not '3'"),
        ("[tasks.seg]\nkind = 'segmentation'\nclasses = true", "classes must be a whole number, not True"),
        ("[tasks.seg]\nkind = 'segmentation'\nclasses = 3.0", "classes must be a whole number, not 3.0"),
        ("[tasks.seg]\nkind = 'segmentation'\nclasses = -3", "channels must not be negative"),
        ("[tasks.seg]\nkind = 'regression'\nclasses = 3\nchannels = 3", "classes and channels mean the same"),
        ("[tasks.seg]\nkind = 'depth'\nweight = 'x'", "weight must be a number, not 'x'"),
        ("[tasks.seg]\nkind = 'depth'\nweight = nan", "weight must be a positive number"),
        ("[tasks.seg]\nkind = 'depth'\nfeatures = 'a'", "features must be a list of strings, not 'a'"),
        ("[tasks.seg]\nkind = 'depth'\nfeatures = [1]", r"features must be a list of strings, not \[1\]"),
        ("[tasks.'a b']\nkind = 'depth'", r"\[tasks.'a b'\]: task 'a b': a task's name is letters"),
        ("[tasks.a]\nkind='depth'\n[tasks.A]\nkind='depth'", "two tasks are named"),
        ("[tasks.a]\nkind='depth'\n[tasks.a]\nkind='depth'", "not a TOML file: Cannot declare"),
        ("[tasks.a\nkind='depth'", "not a TOML file: .*line 1"),
    ],
)
def test_mistakes_in_a_task_file_name_file_and_table(tmp_path, text, message):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(TaskError, match=message) as caught:
        load_tasks(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_task_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path / "folder.toml"):
        if path.name == "folder.toml":
            path.mkdir()
        with pytest.raises(TaskError, match="cannot read the task file"):
            load_tasks(path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# \xe9")
    with pytest.raises(TaskError, match="not a TOML file"):
        load_tasks(latin)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"tasks": [1]}',
        '{"tasks": [{"kind": "depth"}]}',
        '{"tasks": []}',
        '{"tasks": [{"name": "a"}]}',
    ],
)
def test_json_that_is_no_task_list(text):
    with pytest.raises(TaskError) as caught:
        TaskSet.from_json(text)
    assert "\n" not in str(caught.value)


def test_kinds_need_no_heavy_library():
    code = (
        "import onnxmtl.kinds, sys; print([m for m in ('torch', 'onnx', 'numpy', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
