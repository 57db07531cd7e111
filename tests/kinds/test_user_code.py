"""What users name as ``module:name``, and class weights."""

from __future__ import annotations

import dataclasses
import re
import sys

import numpy as np
import pytest

from onnxmtl.errors import MissingDependencyError, TaskError
from onnxmtl.kinds import KINDS, METRICS, Task, TaskSet, is_named, kind, load_named, load_tasks, mean_metric, metric
from onnxmtl.kinds import registry as registry_module
from onnxmtl.kinds.user_code import load_callable, same_code

SOURCE = """
import dataclasses
from onnxmtl.kinds import kind, mean_metric, register_kind

RIDGES = dataclasses.replace(kind("edges"), name="ridges", losses=("own_code_for_test:loss",))
number = 3

def loss(task, prediction, target, valid):
    return 0

@mean_metric(higher_is_better=False, unit="px", doc="how far off")
def distance(task, prediction, target, valid):
    return 1, 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a module of the user's."""
    (tmp_path / "own_code_for_test.py").write_text(SOURCE)
    (tmp_path / "needy_for_test.py").write_text("import no_such_library\n")
    (tmp_path / "broken_for_test.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    registries = (KINDS, METRICS, registry_module._IMPORTED)
    before = [dict(entries) for entries in registries]
    yield tmp_path
    for entries, kept in zip(registries, before, strict=True):
        entries.clear()
        entries.update(kept)
    sys.modules.pop("own_code_for_test", None)


def test_modules_of_the_current_folder_are_found(folder):
    assert load_named("own_code_for_test:number", "it") == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gone_for_test:x", "it 'gone_for_test:x': there is no module 'gone_for_test', neither installed nor in"),
        ("os.gone:x", "there is no module 'os.gone'"),
        ("broken_for_test:x", "importing 'broken_for_test' raised ZeroDivisionError: division by zero"),
        ("own_code_for_test:numbr", "'numbr' is not there (did you mean 'number'?) in module 'own_code_for_test'"),
        ("own_code_for_test:number", "it 'own_code_for_test:number': 'number' is not callable, it is int"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, spec, message):
    with pytest.raises(TaskError, match=re.escape(message)) as caught:
        load_callable(spec, "it")
    assert "\n" not in str(caught.value)


def test_a_module_that_needs_a_library(folder):
    with pytest.raises(MissingDependencyError, match="its module needs 'no_such_library', which is not installed"):
        load_named("needy_for_test:x", "it")


def test_a_kind_by_its_module(folder):
    (folder / "tasks.toml").write_text(
        '[tasks.ridges]\nkind = "own_code_for_test:RIDGES"\nmetrics = ["best_f", "own_code_for_test:distance"]\n'
    )
    tasks = load_tasks(folder / "tasks.toml")
    assert tasks["ridges"].spec.name == "ridges" and tasks["ridges"].loss == "own_code_for_test:loss"
    assert kind("ridges") is tasks["ridges"].spec
    assert TaskSet.parse("r=own_code_for_test:RIDGES,depth").names == ("r", "depth")
    assert Task("r", "ridges").metrics == ("best_f", "f_at_0.5")
    found = metric("own_code_for_test:distance")
    assert (found.higher_is_better, found.unit, found.doc) == (False, "px", "how far off")
    assert metric("own_code_for_test:distance") is found


def test_a_name_that_is_no_kind(folder):
    with pytest.raises(TaskError, match=r"'own_code_for_test:number' is no onnxmtl\.kinds\.Kind, it is int"):
        TaskSet.parse("r=own_code_for_test:number")
    with pytest.raises(TaskError, match="'many' is no number of classes"):
        TaskSet.parse("seg=segmentation:many")


def test_a_metric_that_says_nothing(folder):
    with pytest.raises(TaskError, match="does not say which way is better: put @mean_metric"):
        metric("own_code_for_test:loss")
    with pytest.raises(TaskError, match=r"unknown metric 'mio' \(did you mean 'miou'\?\)"):
        metric("mio")


def test_json_imports_nothing(folder):
    text = TaskSet.parse("r=own_code_for_test:RIDGES").to_json()
    registry_module._IMPORTED.clear()
    del sys.modules["own_code_for_test"]
    with pytest.raises(TaskError, match="the kind 'own_code_for_test:RIDGES' is Python code of somebody's"):
        TaskSet.from_json(text)
    assert "own_code_for_test" not in sys.modules
    # Losses, metrics and heads are names until they are used.
    text = TaskSet((Task("d", "depth", loss="own_code_for_test:loss", head="own_code_for_test:loss"),)).to_json()
    assert TaskSet.from_json(text)["d"].loss == "own_code_for_test:loss"
    assert "own_code_for_test" not in sys.modules


def test_names():
    assert is_named("a.b:c") and not any(map(is_named, ("a", "a:", ":a", "a:1", "1:a", "a:b:c", "a b:c")))


def test_the_same_code_may_register_again():
    def one():
        pass

    again = type(one)(one.__code__, {}, "one")
    again.__qualname__ = one.__qualname__
    assert same_code(one, again) and same_code(Task, Task)
    assert not same_code(one, mean_metric) and not same_code(Task, TaskSet)
    assert not same_code(lambda: 1, lambda: 2)


# Class weights


def test_class_weights(tmp_path):
    task = Task("s", "segmentation", class_weights=(1, 2, 0.5))
    assert task.channels == 3 and task.class_weights == (1.0, 2.0, 0.5)
    assert TaskSet.from_json(TaskSet((task,)).to_json())["s"] == task
    np.save(tmp_path / "prior.npy", np.array([0.5, 4], np.float32))
    (tmp_path / "a.toml").write_text('[tasks.s]\nkind = "segmentation"\nclass_weights = "prior.npy"\n')
    (tmp_path / "b.toml").write_text('[tasks.s]\nkind = "segmentation"\nclass_weights = [0.5, 4]\n')
    assert load_tasks(tmp_path / "a.toml") == load_tasks(tmp_path / "b.toml")


def test_class_weights_of_the_data_set_fill_in():
    tasks = TaskSet((Task("s", "segmentation"), Task("t", "segmentation", class_weights=(1, 1)), Task("d", "depth")))
    weights = {"s": (1.0, 3.0), "t": (1.0, 3.0), "d": (2.0,)}
    found = tasks.with_classes({"s": 2, "t": 2}, None, weights)
    assert [task.class_weights for task in found] == [(1.0, 3.0), (1.0, 1.0), ()]
    assert dataclasses.replace(found["s"], class_weights=()) == tasks.with_classes({"s": 2, "t": 2})["s"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "segmentation"\nclasses = 3\nclass_weights = [1, 2]', "2 class weights for 3 classes"),
        ('kind = "segmentation"\nclass_weights = [1, -2]', "must be numbers of 0 or more, not all 0"),
        ('kind = "segmentation"\nclass_weights = [0, 0]', "must be numbers of 0 or more, not all 0"),
        ('kind = "segmentation"\nclass_weights = [1, nan]', "must be numbers of 0 or more"),
        ('kind = "segmentation"\nclass_weights = 3', "class_weights must be a list of numbers, or a file.npy, not 3"),
        ('kind = "segmentation"\nclass_weights = "gone.npy"', "gone.npy: No such file"),
        ('kind = "segmentation"\nclass_weights = "bad.npy"', "cannot read the class_weights"),
        ('kind = "segmentation"\nclass_weights = "words.npy"', "words.npy: there are no numbers in it"),
        ('kind = "depth"\nclass_weights = [1]', "depth has no classes, leave class_weights out"),
        ('kind = "depth"\nmetrics = ["abs", "abs"]', "metric 'abs' is listed twice"),
    ],
)
def test_bad_class_weights(tmp_path, text, message):
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    (tmp_path / "tasks.toml").write_text(f"[tasks.s]\n{text}\n")
    with pytest.raises(TaskError, match=message) as caught:
        load_tasks(tmp_path / "tasks.toml")
    assert "\n" not in str(caught.value) and "[tasks.s]" in str(caught.value)
