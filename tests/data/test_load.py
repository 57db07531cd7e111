"""Data sets by name: built-in, and a user's module:callable with everything that can be wrong with it."""

from __future__ import annotations

import sys
import textwrap

import numpy as np
import pytest

from onnxmtl.data import batch_at, load_data
from onnxmtl.errors import DataError, MissingDependencyError
from onnxmtl.kinds import TaskSet

TASKS = TaskSet.parse("seg=segmentation,depth")
GOOD = """
    import numpy as np

    class Data:
        def __init__(self, n):
            self.n = n
        def __len__(self):
            return self.n
        def __getitem__(self, i):
            return np.full((3, 8, 9), i, np.float32), {"seg": np.zeros((8, 9), np.int64)}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the working directory and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    names = []

    def write(text, name="mine"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(GOOD) + textwrap.dedent(text))
        names.append(name)
        sys.modules.pop(name, None)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


def load(spec, tasks=TASKS, **rest):
    return load_data(spec, tasks, size=(16, 16), seed=0, **rest)


def test_scenes():
    data = load("scenes", train_size=5, val_size=3)
    assert (data.name, len(data.train), len(data.val)) == ("scenes", 5, 3)
    tasks = TASKS.with_classes(data.classes, data.class_names)
    assert tasks["seg"].channels == 9 and tasks["seg"].class_names[0] == "floor"
    batch = batch_at(data.train, tasks, batch_size=3, seed=0, stream="s", step=0)
    assert list(batch.targets["seg"].shape) == [3, 16, 16]
    assert not np.array_equal(data.train[0][0], data.val[0][0])


@pytest.mark.parametrize(
    ("spec", "words"),
    [("scene", "did you mean 'scenes'"), ("nyu", "did you mean 'nyuv2'"), ("own", "use scenes, .*, or module:call")],
)
def test_unknown_names(spec, words):
    with pytest.raises(DataError, match=words):
        load(spec)


@pytest.mark.parametrize("option", ["train_size", "val_size"])
def test_sizes_below_one(option):
    with pytest.raises(DataError, match=f"{option} must be 1 or more, it is 0"):
        load("scenes", **{option: 0})


def test_class_counts_must_agree():
    with pytest.raises(DataError, match="'scenes' has 9 classes for task 'seg', the task says 13"):
        load("scenes", TaskSet.parse("seg=segmentation:13"))


def test_a_pair_of_data_sets(module):
    name = module("def make(): return Data(6), Data(4)")
    data = load(f"{name}:make")
    assert (data.name, len(data.train), len(data.val)) == ("mine:make", 6, 4)
    assert (data.input.channels, data.input.height, data.input.width) == (3, 8, 9)
    assert dict(data.classes) == {}
    image, targets = data.train[5]
    assert image.shape == (3, 8, 9) and set(targets) == {"seg"}
    assert len(load(f"{name}:make", train_size=2, val_size=9).train) == 2
    with pytest.raises(IndexError):
        data.train[6]


@pytest.mark.parametrize(
    "signature", ["tasks", "*, tasks", "task_set", "tasks=None", "tasks, /", "cache=False, *, tasks, **rest"]
)
def test_the_callable_may_take_the_tasks(module, signature):
    argument = signature.replace("*, ", "").split(",")[0].split("=")[0] if "cache" not in signature else "tasks"
    name = module(
        f"def make({signature}):\n    assert {argument}.names == ('seg', 'depth')\n    return Data(3), Data(3)"
    )
    assert len(load(f"{name}:make").train) == 3


def test_a_data_source_and_its_classes(module):
    name = module(
        """
        from onnxmtl.data import DataSource, InputSpec
        def make():
            return DataSource("toy", Data(2), Data(2), InputSpec(3, 8, 9, range=(0, 5)), {"seg": 7})
        def wrong():
            return DataSource("toy", Data(2), Data(2), InputSpec(3, 8, 8))
        """
    )
    data = load(f"{name}:make")
    assert data.name == "toy" and data.input.range == (0, 5) and data.classes == {"seg": 7}
    with pytest.raises(DataError, match="has 7 classes for task 'seg', the task says 5"):
        load(f"{name}:make", TaskSet.parse("seg=segmentation:5"))
    with pytest.raises(DataError, match=r"declared as \[3, 8, 8\], its first image is \[3, 8, 9\]"):
        load(f"{name}:wrong")


def test_classes_from_the_training_set(module):
    name = module(
        """
        def make():
            data = Data(2)
            data.class_names = {"seg": ["cat", "dog"]}
            return data, Data(2)
        """
    )
    data = load(f"{name}:make")
    assert data.classes == {"seg": 2} and data.class_names == {"seg": ("cat", "dog")}


def test_units_of_the_users_data(module):
    name = module(
        """
        from onnxmtl.data import DataSource, InputSpec
        def pair(units={"depth": "feet"}):
            data = Data(2)
            data.units = units
            return data, Data(2)
        def bad(): return pair({"depth": 3})
        def whole(): return DataSource("x", Data(2), Data(2), InputSpec(3, 8, 9), units={"depth": "miles"})
        """
    )
    assert load(f"{name}:pair").units == {"depth": "feet"}
    assert load(f"{name}:whole").units == {"depth": "miles"}
    with pytest.raises(DataError, match="the unit of 'depth' must be a text, it is 3"):
        load(f"{name}:bad")
    # What a set says of tasks that it is not taken for does not count.
    assert load(f"depth={name}:whole;seg={name}:pair").units == {"depth": "miles"}


def test_the_scenes_say_their_units():
    tasks = TaskSet.parse("seg=segmentation,far=depth,normals,pitch=regression")
    found = load_data("scenes", tasks, size=(32, 32), seed=0, train_size=2, val_size=2)
    assert found.units == {"far": "metres", "pitch": "radians"}


def test_a_sample_that_does_not_fit_names_the_part(module):
    name = module(
        """
        class Late(Data):
            def __getitem__(self, i):
                if i == 2:
                    raise OSError("no disk\\nleft")
                image, targets = super().__getitem__(i)
                return image, {"seg": targets["seg"][:4]} if i == 1 else targets
        def make(): return Data(2), Late(3)
        """
    )
    data = load(f"{name}:make")
    with pytest.raises(
        DataError, match=r"data 'mine:make', val: sample 1, task 'seg': expected int64 \[8, 9\] for segm"
    ):
        data.val[1]
    with pytest.raises(DataError, match=r"val: sample 2: the data set raised OSError: no disk left$"):
        data.val[2]


@pytest.mark.parametrize(
    ("text", "attribute", "words"),
    [
        ("", "make", "'make' is not there"),
        ("def makes(): pass", "make", r"did you mean 'makes'"),
        ("make = 3", "make", "'make' is not callable"),
        ("def make(): raise ValueError('bad\\nnews')", "make", "raised ValueError: bad news$"),
        ("def make(): return None", "make", "returned nothing: return .train, val."),
        ("def make(): return Data(3)", "make", "returned a Data"),
        ("def make(): return Data(3), 4", "make", r"returned 2 items \(Data, int\)"),
        ("def make(): return Data(3), Data(3), Data(3)", "make", "returned 3 items"),
        ("def make(): return Data(3), Data(0)", "make", "the val set is empty"),
        ("def make(a, b): return Data(3), Data(3)", "make", "raised TypeError"),
        ("raise RuntimeError('at import')", "make", "importing 'mine' raised RuntimeError: at import"),
        ("1 +", "make", "importing 'mine' raised SyntaxError"),
    ],
)
def test_what_can_be_wrong_with_it(module, text, attribute, words):
    name = module(text)
    with pytest.raises(DataError, match=words) as caught:
        load(f"{name}:{attribute}")
    assert "\n" not in str(caught.value) and "mine:" in str(caught.value)


def test_modules_that_are_not_there(module):
    with pytest.raises(DataError, match="there is no module 'no_such_module', neither installed nor in"):
        load("no_such_module:make")
    name = module("import no_such_library\ndef make(): pass")
    with pytest.raises(MissingDependencyError, match="its module needs 'no_such_library', which is not installed"):
        load(f"{name}:make")
    with pytest.raises(DataError, match="write module:callable"):
        load(":make")
