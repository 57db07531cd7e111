"""What the user asks ``add_task`` for: the task, its data, the options. Whatever is wrong is found here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from onnxmtl.data import DataSource
from onnxmtl.data.load import split_spec
from onnxmtl.errors import DataError, ModelError, RunError, TaskError
from onnxmtl.kinds import Task, TaskSet, load_tasks
from onnxmtl.passes.finalize.contract import CONTRACT_KEY
from onnxmtl.workflows.adding.base import Base
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.data import open_data
from onnxmtl.workflows.preparation import require_labels

CANDIDATES = 4
BASELINES = ("single-task",)


@dataclasses.dataclass(frozen=True)
class Asked:
    """The options of ``add_task`` that its result depends on.

    Attributes:
        at: The place to branch off, by name; "": it is chosen.
        like: The task whose path is followed; "": it is chosen.
        budget: Limits of the emitted model; ``x`` is relative to the model as it is.
        steps: Updates of the branch; 0: as many as the run's weights have behind them.
        trial_steps: Updates of each trial; 0: a quarter of the steps.
        candidates: Places that are tried on one path, at most.
        data: The new task's data; "": the run's.
        data_options: Options of the data, where it is named.
        train_size: Training samples; 0: as in the run.
        val_size: Validation samples; 0: as in the run.
        batch_size: Images per step; 0: as in the run.
        seed: Of everything random; None: the run's.
        baselines: ``single-task``: a network for the new task alone is trained to compare with.
    """

    at: str = ""
    like: str = ""
    budget: str = ""
    steps: int = 0
    trial_steps: int = 0
    candidates: int = CANDIDATES
    data: str = ""
    data_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    train_size: int = 0
    val_size: int = 0
    batch_size: int = 0
    seed: int | None = None
    baselines: tuple[str, ...] = BASELINES

    def __post_init__(self) -> None:
        if not set(self.baselines) <= set(BASELINES):
            msg = f"--baselines takes single-task or none here, not {', '.join(self.baselines)}"
            raise RunError(msg)
        for name, lowest in (("steps", 0), ("trial_steps", 0), ("candidates", 1)):
            if getattr(self, name) < lowest:
                msg = f"--{name.replace('_', '-')} must be {lowest} or more, not {getattr(self, name)}"
                raise RunError(msg)
        if self.data_options and not self.data:
            msg = "--data-option is for data that --data names; the run's data has its own options"
            raise RunError(msg)

    def config(self, base: Base, task: str) -> tuple[CompileConfig, CompileConfig]:
        """The options of the new run, whose data is that of all tasks; and those that open the new task's data."""
        old = base.config
        own = dataclasses.replace(
            old,
            data=self.data or _own_spec(old.data),
            data_options=self.data_options if self.data else old.data_options,
            steps=self.steps or base.updates,
            batch_size=self.batch_size or old.batch_size,
            seed=old.seed if self.seed is None else self.seed,
            train_size=self.train_size or old.train_size,
            val_size=self.val_size or old.val_size,
            baselines=self.baselines,
            budget=self.budget,
        )
        data, options = joined_data(old.data, old.data_options, base.tasks, own.data, own.data_options, task)
        return dataclasses.replace(own, data=data, data_options=options), own


def new_task(text: str | Task | TaskSet, base: Base) -> Task:
    """The task that is added; its classes may be open.

    Raises:
        TaskError: It cannot be read, is not one, or has the name of one that is there.
    """
    found = TaskSet((text,)) if isinstance(text, Task) else load_tasks(text) if isinstance(text, str) else text
    if len(found) != 1:
        msg = f"one task is added at a time, not {len(found)} ({', '.join(found.names)}): add the others to the result"
        raise TaskError(msg)
    (task,) = found
    TaskSet((*base.tasks, task))  # refuses a name that is taken
    if task.mean:
        msg = f"task {task.name!r}: mean and std are of a network of its own; a branch takes images as the model does"
        raise TaskError(msg)
    return task


def open_for(base: Base, task: Task, config: CompileConfig) -> tuple[DataSource, Task]:
    """The new task's data, and the task with its classes.

    Raises:
        DataError: It cannot be used, or its images are not what the model takes.
        TaskError: The task's loss or metrics do not exist.
    """
    data, tasks = open_data(base.backbone, TaskSet((task,)), config)
    for part, dataset in (("training", data.train), ("validation", data.val)):
        require_labels(tasks, dataset, f"data {config.data!r}: the {part} set")
    try:
        wanted = json.loads(base.emitted.metadata_props[CONTRACT_KEY])["input"]
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{base.model}: its metadata {CONTRACT_KEY} is damaged; emit the model again"
        raise ModelError(msg) from error
    for name, value in dataclasses.asdict(data.input).items():
        if name in wanted and _plain(wanted[name]) != _plain(value):
            msg = (
                f"data {config.data!r} gives images of another kind than the model takes: {name} is {_plain(value)}, "
                f"the model wants {_plain(wanted[name])}; files have the option normalise"
            )
            raise DataError(msg)
    return data, tasks.tasks[0]


def joined_data(
    old: str, old_options: Mapping[str, str], tasks: TaskSet, new: str, new_options: Mapping[str, str], task: str
) -> tuple[str, dict[str, str]]:
    """How ``--data`` names the data of all tasks together, and its options.

    One set for all stays one; else every group of tasks has its own (``seg+depth=scenes;edges=own:make``), and an
    option says whose it is.
    """
    if (old, dict(old_options)) == (new, dict(new_options)) and not split_spec(old):
        return old, dict(old_options)
    groups = split_spec(old) or [(tasks.names, old)]
    spec = ";".join(f"{'+'.join(names)}={source}" for names, source in (*groups, ((task,), new)))
    options = {
        key if "." in key else f"{names[0]}.{key}": value for names, _ in groups for key, value in old_options.items()
    }
    return spec, {**options, **{f"{task}.{key}": value for key, value in new_options.items()}}


def _own_spec(spec: str) -> str:
    """The run's data for a new task.

    Raises:
        DataError: Its tasks have data sets of their own.
    """
    if groups := split_spec(spec):
        sources = ", ".join(source for _, source in groups)
        msg = f"the run's tasks have data sets of their own ({sources}): say with --data which one labels the new task"
        raise DataError(msg)
    return spec


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
