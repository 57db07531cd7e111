"""Data sets by name: the built-in scenes, or a user's own as ``module:callable``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from onnxmtl.data.batch import Checked
from onnxmtl.data.dataset import Dataset, DataSource, InputSpec
from onnxmtl.errors import DataError, MissingDependencyError, OnnxMTLError
from onnxmtl.kinds import TaskSet, close_match

BUILT_IN = ("scenes",)


def load_data(
    spec: str,
    tasks: TaskSet,
    *,
    size: tuple[int, int],
    seed: int,
    train_size: int | None = None,
    val_size: int | None = None,
) -> DataSource:
    """The data source that a ``--data`` option names.

    Args:
        spec: "scenes", or "module:callable". The callable takes nothing or the tasks, and returns a pair of data sets
            (train, val) or a :class:`DataSource`; its module is looked up in the current directory, too. The classes
            of a pair come from the mappings `classes` and `class_names` (task -> number, task -> names) of its
            training set, if it has them.
        tasks: What must be labelled; classes may be open.
        size: Height and width of the images; only built-in data can choose.
        seed: Of built-in data.
        train_size: Training samples; for user data at most so many, the first ones.
        val_size: Validation samples, likewise.

    Raises:
        DataError: No such data, no labels for a task's kind, or a class count unlike a task's own; one line.
    """
    for name, count in (("train_size", train_size), ("val_size", val_size)):
        if count is not None and count < 1:
            msg = f"{name} must be 1 or more, it is {count}"
            raise DataError(msg)
    if spec == "scenes":
        from onnxmtl.data.scenes import scenes

        source = scenes(tasks, size=size, seed=seed, train_size=train_size, val_size=val_size)
    elif ":" in spec:
        source = _user_source(spec, tasks, train_size, val_size)
    else:
        hint = close_match(spec, BUILT_IN)
        msg = f"unknown data {spec!r}{hint}: use {' or '.join(BUILT_IN)}, or module:callable for your own"
        raise DataError(msg)
    _check_classes(spec, source, tasks)
    return source


def _check_classes(spec: str, source: DataSource, tasks: TaskSet) -> None:
    for task in tasks:
        count = source.classes.get(task.name, 0)
        if count and task.channels and count != task.channels:
            word = "classes" if task.spec.categorical else "channels"
            msg = (
                f"data {spec!r} has {count} {word} for task {task.name!r}, the task says {task.channels}: "
                f"write {count} or leave the number out"
            )
            raise DataError(msg)


def _user_source(spec: str, tasks: TaskSet, train_size: int | None, val_size: int | None) -> DataSource:
    made = _call(spec, _find(spec), tasks)
    classes: Mapping[str, int] = {}
    class_names: Mapping[str, tuple[str, ...]] = {}
    declared: InputSpec | None = None
    name = spec
    if isinstance(made, DataSource):
        name, declared = made.name, made.input
        train, val, classes, class_names = made.train, made.val, made.classes, made.class_names
    elif isinstance(made, tuple | list) and len(made) == 2 and all(map(_is_dataset, made)):
        train, val = made
        classes = _mapping(train, "classes")
        class_names = {task: tuple(names) for task, names in _mapping(train, "class_names").items()}
    else:
        msg = f"data {spec!r} returned {_shape_of(made)}: return (train, val), two data sets with len() and [index]"
        raise DataError(msg)
    classes = {**{task: len(names) for task, names in class_names.items()}, **classes}
    parts = []
    for part, dataset, limit in (("train", train, train_size), ("val", val, val_size)):
        if not len(dataset):
            msg = f"data {spec!r}: the {part} set is empty"
            raise DataError(msg)
        parts.append(Checked(dataset, tasks, f"data {spec!r}, {part}", limit))
    channels, height, width = (int(n) for n in parts[0][0][0].shape)
    if declared is None:
        declared = InputSpec(channels, height, width, colour="RGB" if channels == 3 else "")
    elif (declared.channels, declared.height, declared.width) != (channels, height, width):
        said = [declared.channels, declared.height, declared.width]
        msg = f"data {spec!r}: its input is declared as {said}, its first image is {[channels, height, width]}"
        raise DataError(msg)
    return DataSource(name, parts[0], parts[1], declared, classes, class_names)


def _find(spec: str) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        msg = f"cannot read {spec!r}: write module:callable, as in own_data:make"
        raise DataError(msg)
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            msg = f"data {spec!r}: there is no module {error.name!r}, neither installed nor in {here}"
            raise DataError(msg) from error
        msg = f"data {spec!r}: its module needs {error.name!r}, which is not installed"
        raise MissingDependencyError(msg) from error
    except Exception as error:  # the user's module: anything can come
        msg = f"data {spec!r}: importing {module_name!r} raised {_one_line(error)}"
        raise DataError(msg) from error
    found: Any = getattr(module, attribute, None)
    if not callable(found):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        what = "is not callable" if hasattr(module, attribute) else f"is not there{close_match(attribute, names)}"
        msg = f"data {spec!r}: {attribute!r} {what} in module {module_name!r} ({module.__file__})"
        raise DataError(msg)
    return found  # type: ignore[no-any-return]


def _call(spec: str, make: Callable[..., Any], tasks: TaskSet) -> Any:
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    wants_tasks = bool(needed) or any(p.name == "tasks" for p in parameters)
    try:
        if not wants_tasks:
            return make()
        named = any(p.name == "tasks" and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        return make(tasks=tasks) if named else make(tasks)
    except OnnxMTLError:
        raise
    except Exception as error:  # the user's code: anything can come
        msg = f"data {spec!r} raised {_one_line(error)}"
        raise DataError(msg) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_dataset(value: Any) -> bool:
    return isinstance(value, Dataset) and not isinstance(value, str | bytes | Mapping)


def _shape_of(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"{len(value)} items ({', '.join(type(item).__name__ for item in value[:4])})"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _mapping(dataset: Any, name: str) -> Mapping[str, Any]:
    value = getattr(dataset, name, {})
    if not isinstance(value, Mapping):
        # torchvision's data sets have a list there.
        return {}
    return value
