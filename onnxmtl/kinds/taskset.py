"""The list of tasks: short form, TOML, JSON.

Short form: ``seg=segmentation:13,depth,normals`` (name=kind:classes; the name defaults to the kind).
TOML: one table per task, see ``samples/tasks``::

    [tasks.seg]
    kind = "segmentation"
    classes = 13
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmtl.errors import TaskError
from onnxmtl.kinds.registry import KINDS, is_known
from onnxmtl.kinds.task import DEFAULT_IGNORE, Task, task_from_table
from onnxmtl.kinds.user_code import close_match, is_named

_SHORT = re.compile(r"(?:(?P<name>[^=:]*)=)?(?P<kind>[^=:]+)(?::(?P<classes>[^=:]*))?")


@dataclasses.dataclass(frozen=True)
class TaskSet:
    """Tasks in the order of the model's outputs, with unique names.

    Raises:
        TaskError: No task, or two names that differ at most in case (they become file names).
    """

    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks:
            msg = "no tasks given: write e.g. seg=segmentation:13,depth,normals"
            raise TaskError(msg)
        seen: dict[str, str] = {}
        for task in self.tasks:
            other = seen.setdefault(task.name.casefold(), task.name)
            if other != task.name or sum(t.name == task.name for t in self.tasks) > 1:
                msg = f"two tasks are named {other!r} and {task.name!r}: give one another name, as in name=kind"
                raise TaskError(msg)

    # Access

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(task.name for task in self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        msg = f"no task is named {name!r}{close_match(name, self.names)}; tasks: {', '.join(self.names)}"
        raise TaskError(msg)

    # Changes

    def with_classes(
        self,
        classes: Mapping[str, int],
        class_names: Mapping[str, Sequence[str]] | None = None,
        class_weights: Mapping[str, Sequence[float]] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> TaskSet:
        """Fill in what was left open from what a data set says: channels, names and weights of classes, units.

        Args:
            classes: Task name -> number of classes (or channels). Names of other tasks are skipped.
            class_names: Task name -> names of its classes; used where the task has none.
            class_weights: Task name -> weights of its classes in the loss; used where the task has none.
            units: Task name -> unit of what it predicts; used where the task has none and predicts a quantity.

        Raises:
            TaskError: A task gives another number than the data set, or is still open.
        """
        done = []
        for task in self.tasks:
            count = classes.get(task.name, 0)
            names = tuple((class_names or {}).get(task.name, ())) if task.spec.categorical else ()
            if count and task.channels and count != task.channels:
                word = "classes" if task.spec.categorical else "channels"
                msg = (
                    f"task {task.name!r} has {task.channels} {word}, the data set has {count}: "
                    f"write {count} or leave the number out"
                )
                raise TaskError(msg)
            channels = task.channels or count
            if not channels:
                msg = (
                    f"task {task.name!r} needs its number of classes, the data set does not tell: "
                    f"write {task.name}={task.kind}:N"
                )
                raise TaskError(msg)
            changes: dict[str, Any] = {"channels": channels, "ignore": _ignore(task, channels)}
            if not task.class_names and len(names) == channels:
                changes["class_names"] = names
            weights = tuple((class_weights or {}).get(task.name, ())) if task.spec.categorical else ()
            if not task.class_weights and len(weights) == channels:
                changes["class_weights"] = weights
            if not task.unit and task.spec.measured:
                changes["unit"] = (units or {}).get(task.name, "")
            done.append(task.replace(**changes))
        return TaskSet(tuple(done))

    # Text forms

    @classmethod
    def parse(cls, text: str) -> TaskSet:
        """Read the short form, e.g. ``seg=segmentation:13,depth,normals``.

        Raises:
            TaskError: Unknown kind, bad name, bad number, name used twice.
        """
        tasks = []
        for item in text.split(",") if text.strip() else []:
            match = _SHORT.fullmatch(item.strip())
            if match is None:
                msg = f"cannot read the task {item.strip()!r}: write name=kind:classes, as in seg=segmentation:13"
                raise TaskError(msg)
            kind, classes = match["kind"].strip(), match["classes"]
            if classes is not None and kind not in KINDS and is_named(f"{kind}:{classes.strip()}"):
                kind, classes = f"{kind}:{classes.strip()}", None  # a kind of the user's
            if classes is not None and not re.fullmatch(r"[1-9][0-9]{0,5}", classes.strip()):
                msg = f"task {item.strip()!r}: {classes.strip()!r} is no number of classes, write e.g. segmentation:13"
                raise TaskError(msg)
            name = kind.partition(":")[2] or kind if match["name"] is None else match["name"].strip()
            channels = int(classes) if classes is not None else 0
            ignore = -1 if channels > DEFAULT_IGNORE else DEFAULT_IGNORE
            tasks.append(Task(name, kind, channels=channels, ignore=ignore))
        return cls(tuple(tasks))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> TaskSet:
        """Read a task file. A head file and a file of class weights are looked up beside the task file.

        Raises:
            TaskError: The file cannot be read, is not TOML, or a table is wrong; one line with file and table.
        """
        file = Path(path)
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{file}: cannot read the task file: {error.strerror or error}"
            raise TaskError(msg) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            msg = f"{file}: not a TOML file: {' '.join(str(error).split())}"
            raise TaskError(msg) from error
        for key in content:
            if key != "tasks":
                msg = f"{file}: unknown key {key!r}{close_match(key, ['tasks'])}; a task file has tables [tasks.NAME]"
                raise TaskError(msg)
        tables = content.get("tasks", {})
        if not isinstance(tables, dict) or not tables:
            msg = f"{file}: no task in it: write a table [tasks.NAME] with a kind ({', '.join(KINDS)})"
            raise TaskError(msg)
        tasks = []
        for name, table in tables.items():
            where = f"{file}, [tasks.{name if name.isidentifier() else repr(name)}]"
            if isinstance(table, dict) and isinstance(table.get("class_weights"), str):
                table = {**table, "class_weights": _weights_file(file.parent / table["class_weights"], where)}
            task = task_from_table(name, table, where)
            if task.head.endswith(".onnx"):
                task = task.replace(head=str(file.parent / task.head))
            tasks.append(task)
        try:
            return cls(tuple(tasks))
        except TaskError as error:
            msg = f"{file}: {error}"
            raise TaskError(msg) from error

    def to_json(self) -> str:
        """All tasks with all fields; equal sets give equal text."""
        return json.dumps({"tasks": [task.to_dict() for task in self.tasks]}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> TaskSet:
        """Read what :meth:`to_json` wrote, e.g. into a model's metadata. Imports nothing: a model is data.

        Raises:
            TaskError: Not JSON, not of that form, or of a kind in a module that nobody imported.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"the task list is not JSON: {error}"
            raise TaskError(msg) from error
        entries = content.get("tasks") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) and "name" in e for e in entries):
            msg = "the task list needs a list 'tasks' of objects with a name"
            raise TaskError(msg)
        tasks = []
        for entry in entries:
            kind = entry.get("kind")
            if isinstance(kind, str) and ":" in kind and not is_known(kind):
                msg = f"task list, {entry['name']!r}: the kind {kind!r} is Python code of somebody's: import it first"
                raise TaskError(msg)
            rest = {key: value for key, value in entry.items() if key != "name"}
            tasks.append(task_from_table(str(entry["name"]), rest, f"task list, {entry['name']!r}"))
        return cls(tuple(tasks))


def load_tasks(spec: str | os.PathLike[str]) -> TaskSet:
    """Tasks from a TOML file (a path that ends in ``.toml``) or from the short form.

    Raises:
        TaskError: See :meth:`TaskSet.from_toml` and :meth:`TaskSet.parse`.
    """
    text = os.fspath(spec)
    return TaskSet.from_toml(text) if text.endswith(".toml") else TaskSet.parse(text)


def _weights_file(path: Path, where: str) -> list[float]:
    """Class weights of a ``.npy`` file, e.g. Taskonomy's ``semseg_prior_factor.npy``."""
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
            msg = "there are no numbers in it"
            raise ValueError(msg)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        msg = f"{where}: cannot read the class_weights {path}: {why}"
        raise TaskError(msg) from error
    return [float(weight) for weight in found.ravel()]


def _ignore(task: Task, channels: int) -> int:
    """The ignore label; 255 gives way where it would be a class of a task whose number was open."""
    clash = task.spec.categorical and task.channels == 0 and 0 <= task.ignore < channels
    return -1 if clash and task.ignore == DEFAULT_IGNORE else task.ignore
