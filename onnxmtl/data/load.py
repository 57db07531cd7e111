"""Data sets by name: those that onnxmtl knows, a user's own as ``module:callable``, or one for each task."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from onnxmtl.data.dataset import DataSource
from onnxmtl.data.parts import Parts
from onnxmtl.data.sources import NAMES, Request, data_options, named_source
from onnxmtl.data.user import user_source
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet, close_match

_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
__all__ = ["NAMES", "data_options", "load_data", "named_source", "split_spec"]

_TASKS = r"[A-Za-z_]\w*(?:\s*\+\s*[A-Za-z_]\w*)*"
_FOR_TASKS = re.compile(rf"\s*({_TASKS})\s*=\s*(.+?)\s*")


def load_data(
    spec: str,
    tasks: TaskSet,
    *,
    size: tuple[int, int],
    seed: int,
    channels: int = 3,
    train_size: int | None = None,
    val_size: int | None = None,
    options: Mapping[str, str] = _NO_OPTIONS,
) -> DataSource:
    """The data source that a ``--data`` option names.

    Args:
        spec: One of three forms.

            * A name, and where its files are: ``scenes``, ``multifashion``, ``nyuv2:PATH`` (:data:`NAMES`).
            * ``module:callable``. The callable takes nothing or the tasks, and returns a pair of data sets (train,
              val) or a :class:`DataSource`; its module is looked up in the current directory, too. The classes of a
              pair come from the mappings `classes` and `class_names` (task -> number, task -> names) of its training
              set, if it has them, and the units of its labels from `units` (task -> text).
            * Disjoint data sets: ``seg+depth=nyuv2:PATH;parts=own:make``, tasks and the set that labels them. A set
              named twice is two sets: ``seg=nyuv2;depth=nyuv2`` shows each task other images, as AutoMTL's code does.
        tasks: What must be labelled; classes may be open.
        size: Height and width of the images; user data cannot choose.
        seed: Of what named data sets draw.
        channels: Of the images, as the model takes them; user data cannot choose.
        train_size: Training samples; at most so many, the first ones, where they are files or the user's.
        val_size: Validation samples, likewise.
        options: Of the named data set, see :func:`data_options`; with disjoint sets ``TASK.option`` means one of them.

    Raises:
        DataError: No such data, no labels for a task's kind, or a class count unlike a task's own; one line.
    """
    for name, count in (("train_size", train_size), ("val_size", val_size)):
        if count is not None and count < 1:
            msg = f"{name} must be 1 or more, it is {count}"
            raise DataError(msg)
    request = Request(tasks, size, seed, channels, None, train_size, val_size, options)
    disjoint = split_spec(spec)
    if disjoint:
        return _disjoint_source(disjoint, request)
    return _open(spec, request)


def _open(spec: str, request: Request) -> DataSource:
    name, _, path = spec.partition(":")
    if name in NAMES:
        file = Path(path).expanduser() if path else None
        source = named_source(name).open(dataclasses.replace(request, path=file))
    elif ":" in spec:
        if request.options:
            msg = f"data {spec!r} takes no options, {', '.join(request.options)} are for {', '.join(NAMES)}"
            raise DataError(msg)
        source = user_source(spec, request.tasks, request.train_size, request.val_size)
    else:
        hint = close_match(spec, NAMES)
        msg = f"unknown data {spec!r}{hint}: use {', '.join(NAMES)}, or module:callable for your own"
        raise DataError(msg)
    _check_classes(spec, source, request.tasks)
    return source


def split_spec(spec: str) -> list[tuple[tuple[str, ...], str]]:
    """(tasks, spec of their data) of a spec for disjoint data sets; nothing if it names one for all tasks.

    Items are separated by ``;``, or by commas if every item then names its tasks.
    """
    items = [item for item in spec.split(";" if ";" in spec else ",") if item.strip()]
    found = [_FOR_TASKS.fullmatch(item) for item in items]
    if None in found and ";" not in spec:
        items = [spec]  # a comma may be part of a path
        found = [_FOR_TASKS.fullmatch(spec)]
    if not any(found):
        return []
    for item, match in zip(items, found, strict=True):
        if match is None:
            msg = f"cannot read {item.strip()!r} of --data: write tasks=NAME:PATH for each set, as in seg+depth=nyuv2"
            raise DataError(msg)
    return [(tuple(name.strip() for name in m[1].split("+")), m[2]) for m in found if m is not None]


def _disjoint_source(specs: Sequence[tuple[tuple[str, ...], str]], request: Request) -> DataSource:
    """Several sources as one; every option goes to all of them, or with ``TASK.option`` to the one of that task."""
    tasks = request.tasks
    for names, spec in specs:
        for name in names:
            if name not in tasks:
                msg = f"data {spec!r} is for task {name!r}, which is not there{close_match(name, tasks.names)}"
                raise DataError(msg)
    missing = [name for name in tasks.names if not any(name in names for names, _ in specs)]
    if missing:
        msg = f"no data for task {missing[0]!r}: name a set for each task, as in {missing[0]}=NAME:PATH"
        raise DataError(msg)
    sources = []
    for names, spec in specs:
        own = {
            key.rpartition(".")[2]: value
            for key, value in request.options.items()
            if "." not in key or key.partition(".")[0] in names
        }
        part = TaskSet(tuple(tasks[name] for name in names))
        sources.append(_open(spec, dataclasses.replace(request, tasks=part, options=own)))
    unknown = [key for key in request.options if "." in key and key.partition(".")[0] not in tasks]
    if unknown:
        msg = f"option {unknown[0]!r} of the data: there is no task {unknown[0].partition('.')[0]!r}"
        raise DataError(msg)
    first = sources[0].input
    for (group, spec), source in zip(specs, sources, strict=True):
        if source.input != first:
            fields = [field.name for field in dataclasses.fields(first)]
            other = [field for field in fields if getattr(first, field) != getattr(source.input, field)]
            msg = (
                f"data {spec!r} and {specs[0][1]!r} differ in the {' and '.join(other)} of their images: one network "
                f"takes one kind of image; those of files have the option normalise, as in {group[0]}.normalise=unit"
            )
            raise DataError(msg)
    labels = [names for names, _ in specs]
    tests = [source.test for source in sources]
    groups = list(zip(labels, sources, strict=True))
    return DataSource(
        name=";".join(f"{'+'.join(names)}={source.name}" for names, source in groups),
        train=Parts(list(zip([source.train for source in sources], labels, strict=True))),
        val=Parts(list(zip([source.val for source in sources], labels, strict=True))),
        input=first,
        classes={task: count for source in sources for task, count in source.classes.items()},
        class_names={task: names for source in sources for task, names in source.class_names.items()},
        class_weights={task: weights for source in sources for task, weights in source.class_weights.items()},
        units={name: source.units[name] for group, source in groups for name in group if name in source.units},
        test=None if None in tests else Parts(list(zip([t for t in tests if t is not None], labels, strict=True))),
    )


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
