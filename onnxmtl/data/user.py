"""A user's own data set: ``module:callable``, with an error of one line for all that can be wrong with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from onnxmtl.data.batch import Checked
from onnxmtl.data.dataset import Dataset, DataSource, InputSpec
from onnxmtl.errors import DataError, OnnxMTLError
from onnxmtl.kinds import TaskSet, load_callable, one_line


def user_source(spec: str, tasks: TaskSet, train_size: int | None, val_size: int | None) -> DataSource:
    """The source that ``module:callable`` makes; see :func:`onnxmtl.data.load_data`.

    Raises:
        DataError: The module, the callable or what it returns cannot be used; one line.
        MissingDependencyError: The module needs one that is not installed.
    """
    made = _call(spec, _find(spec), tasks)
    classes: Mapping[str, int] = {}
    class_names: Mapping[str, tuple[str, ...]] = {}
    declared: InputSpec | None = None
    name = spec
    rest: dict[str, Any] = {}
    if isinstance(made, DataSource):
        name, declared = made.name, made.input
        train, val, classes, class_names = made.train, made.val, made.classes, made.class_names
        rest = {"class_weights": made.class_weights, "test": made.test, "units": made.units}
    elif isinstance(made, tuple | list) and len(made) == 2 and all(map(_is_dataset, made)):
        train, val = made
        classes = _mapping(train, "classes")
        class_names = {task: tuple(names) for task, names in _mapping(train, "class_names").items()}
        rest = {"units": _mapping(train, "units")}
    else:
        msg = f"data {spec!r} returned {_shape_of(made)}: return (train, val), two data sets with len() and [index]"
        raise DataError(msg)
    for task, unit in rest["units"].items():
        if not isinstance(unit, str):
            msg = f"data {spec!r}: the unit of {task!r} must be a text, it is {unit!r}"
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
    return DataSource(name, parts[0], parts[1], declared, classes, class_names, **rest)


def _find(spec: str) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        msg = f"cannot read {spec!r}: write module:callable, as in own_data:make"
        raise DataError(msg)
    found: Callable[..., Any] = load_callable(spec, "data", DataError)
    return found


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
        msg = f"data {spec!r} raised {one_line(error)}"
        raise DataError(msg) from error


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
