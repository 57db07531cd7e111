"""The best constant prediction of a task: what a network must beat to have learnt anything from the image.

Fitted on the labels of the training set (of :data:`SAMPLES` evenly spaced samples, if it is larger), for the task's
primary metric:

    segmentation, classification    the most frequent class (maximises mIoU and accuracy among constants)
    depth, keypoints, regression    the median (per channel for regression), which minimises the mean |p − g|
    normals                         the direction of least mean angle: from the mean direction and the commonest
                                    directions by Weiszfeld's iteration on the sphere
    edges, saliency                 "everywhere", the constant with the best F-measure
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from onnxmtl.errors import DataError, TaskError
from onnxmtl.kinds import Task, same_code
from onnxmtl.train.accumulators import TaskMetrics, metric_for
from onnxmtl.train.labels import valid_mask

SAMPLES = 5000
"""Training samples that are looked at, evenly spaced; all of them if there are fewer."""
# Medians are exact up to about this many labels; of larger sets every k-th label of a sample is taken.
_VALUES = 4_000_000
_DIRECTIONS = 16  # steps of a direction's histogram per unit length
_STARTS = 8


class Labelled(Protocol):
    """A data set: ``(image, {task: target})`` by index; a missing or None target is not labelled."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Mapping[str, Any]]: ...


class Fit(abc.ABC):
    """Fits one task's constant, a sample at a time."""

    def __init__(self, task: Task, samples: int) -> None:
        self.task = task
        self.samples = samples

    @abc.abstractmethod
    def add(self, target: torch.Tensor) -> None:
        """Add one sample's target, [1, …], of which at least one label counts."""

    @abc.abstractmethod
    def constant(self) -> torch.Tensor:
        """The raw prediction, float64 [C]."""


class Majority(Fit):
    """The most frequent class, for labels that are classes."""

    def __init__(self, task: Task, samples: int) -> None:
        super().__init__(task, samples)
        self.counts = torch.zeros(task.channels, dtype=torch.int64)

    def add(self, target: torch.Tensor) -> None:
        labels = target[valid_mask(self.task, target)].long()
        self.counts += torch.bincount(labels, minlength=self.task.channels)[: self.task.channels]

    def constant(self) -> torch.Tensor:
        return torch.nn.functional.one_hot(self.counts.argmax(), self.task.channels).double()


class Median(Fit):
    """The median of each channel, for labels [C, …]."""

    def __init__(self, task: Task, samples: int) -> None:
        super().__init__(task, samples)
        self.parts: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(task.channels)]

    def add(self, target: torch.Tensor) -> None:
        valid = valid_mask(self.task, target)
        budget = max(64, _VALUES // max(1, self.samples))
        for channel, part in enumerate(self.parts):
            values = target[:, channel][valid[:, channel]].numpy()
            part.append(values[:: max(1, -(-len(values) // budget))])

    def constant(self) -> torch.Tensor:
        joined = [np.concatenate(part) for part in self.parts]
        return torch.tensor([float(np.median(v)) if len(v) else 0.0 for v in joined], dtype=torch.float64)


class _Direction(Fit):
    def __init__(self, task: Task, samples: int) -> None:
        super().__init__(task, samples)
        side = 2 * _DIRECTIONS + 1
        self.counts = np.zeros(side**3)
        self.sums = np.zeros((side**3, 3))

    def add(self, target: torch.Tensor) -> None:
        normals = target.movedim(1, -1)[valid_mask(self.task, target)].double().numpy()
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        cells = np.rint(normals * _DIRECTIONS).astype(np.int64) + _DIRECTIONS
        side = 2 * _DIRECTIONS + 1
        codes = (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]
        self.counts += np.bincount(codes, minlength=len(self.counts))
        for axis in range(3):
            self.sums[:, axis] += np.bincount(codes, weights=normals[:, axis], minlength=len(self.counts))

    def constant(self) -> torch.Tensor:
        filled = self.counts > 0
        return torch.from_numpy(least_mean_angle(self.sums[filled], self.counts[filled]))


class _Everywhere(Fit):
    def add(self, target: torch.Tensor) -> None:
        pass  # the best constant does not depend on the data

    def constant(self) -> torch.Tensor:
        return torch.ones(1, dtype=torch.float64)


_FITS: dict[str, Callable[[Task, int], Fit]] = {
    "segmentation": Majority,
    "classification": Majority,
    "depth": Median,
    "keypoints": Median,
    "regression": Median,
    "normals": _Direction,
    "edges": _Everywhere,
    "saliency": _Everywhere,
}


def register_constant(kind: str, fit: Callable[[Task, int], Fit]) -> None:
    """Say how the best constant of a kind is fitted.

    Raises:
        TaskError: The kind has one.
    """
    if kind in _FITS and not same_code(_FITS[kind], fit):
        msg = f"the kind {kind!r} has a constant predictor already"
        raise TaskError(msg)
    _FITS[kind] = fit


def has_constant(task: Task) -> bool:
    """Whether the best constant of the task's kind is known."""
    return task.spec.name in _FITS


def best_constant(task: Task, targets: Iterable[torch.Tensor]) -> torch.Tensor:
    """The best constant raw prediction, float64 [C], of labels [1, …] of which each has one that counts.

    Raises:
        TaskError: The kind has no constant predictor.
    """
    if not has_constant(task):
        msg = f"task {task.name!r}: the kind {task.kind!r} has no constant predictor"
        raise TaskError(msg)
    found = list(targets)
    fit = _FITS[task.spec.name](task, len(found))
    for target in found:
        fit.add(target)
    return fit.constant()


def constant_predictor(task: Task, train: Labelled, val: Labelled) -> dict[str, float]:
    """Metrics on `val` of the best constant fitted on `train`."""
    return constant_predictors([task], train, val)[task.name]


def constant_predictors(tasks: Iterable[Task], train: Labelled, val: Labelled) -> dict[str, dict[str, float]]:
    """:func:`constant_predictor` of several tasks in one pass over each set.

    Returns:
        Task name -> metrics. A task without a rule for its kind is left out.

    Raises:
        DataError: No training sample has a label of one of the tasks.
    """
    known = [task for task in tasks if has_constant(task)]
    looked_at = sorted({int(i) for i in np.linspace(0, len(train) - 1, min(SAMPLES, len(train)))})
    fits = {task.name: _FITS[task.spec.name](task, len(looked_at)) for task in known}
    seen: set[str] = set()

    def look(tasks: list[Task], indices: Iterable[int]) -> None:
        for task, target in _targets(tasks, train, indices):
            if bool(valid_mask(task, target).any()):
                fits[task.name].add(target)
                seen.add(task.name)

    look(known, looked_at)
    for index in sorted(set(range(len(train))).difference(looked_at)):
        rare = [task for task in known if task.name not in seen]
        if not rare:
            break
        look(rare, [index])
    for task in known:
        if task.name not in seen:
            msg = f"task {task.name!r}: no training sample has a label that counts"
            raise DataError(msg)
    constants = {name: fit.constant() for name, fit in fits.items()}
    metrics: dict[str, TaskMetrics] = {task.name: metric_for(task) for task in known}
    for task, target in _targets(known, val, range(len(val))):
        prediction = constants[task.name].reshape(1, -1)
        if task.dense:
            height, width = target.shape[-2:]
            prediction = prediction[:, :, None, None].expand(1, -1, height, width)
        metrics[task.name].update(prediction, target)
    return {name: accumulated.compute() for name, accumulated in metrics.items()}


def least_mean_angle(sums: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The direction of least weighted mean angle to given directions.

    Args:
        sums: Directions [n, 3] of any length.
        weights: [n].

    Returns:
        Unit vector [3]: the best of several starts of Weiszfeld's iteration (a local method), never worse than the
        mean direction and the heaviest of the given directions.
    """
    directions = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    mean = weights @ directions
    starts = [mean, *directions[np.argsort(-weights, kind="stable")[:_STARTS]]]
    candidates = []
    for start in starts:
        length = np.linalg.norm(start)
        if length > 1e-9:
            unit = start / length
            candidates += [unit, _weiszfeld(unit, directions, weights)]

    def mean_angle(candidate: np.ndarray[Any, Any]) -> float:
        return float(weights @ np.arccos(np.clip(directions @ candidate, -1, 1)) / weights.sum())

    return np.asarray(min(candidates, key=mean_angle))


def _weiszfeld(
    start: np.ndarray[Any, Any], directions: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], steps: int = 30
) -> np.ndarray[Any, Any]:
    """Weiszfeld's iteration for the geometric median, in the tangent plane of the current point."""
    y = start
    for _ in range(steps):
        cosine = directions @ y
        tangent = directions - cosine[:, None] * y
        length = np.linalg.norm(tangent, axis=1)
        angle = np.arctan2(length, cosine)
        usable = length > 1e-9
        pull = weights[usable] / length[usable]
        step = (pull[:, None] * tangent[usable]).sum(0) / max((weights[usable] / angle[usable]).sum(), 1e-12)
        size = np.linalg.norm(step)
        if size < 1e-7:
            break
        y = np.cos(size) * y + np.sin(size) * step / size
        y /= np.linalg.norm(y)
    return y


def _targets(tasks: list[Task], dataset: Labelled, indices: Iterable[int]) -> Iterator[tuple[Task, torch.Tensor]]:
    """Every label of some samples, as a batch of one."""
    for index in indices:
        _, targets = dataset[index]
        for task in tasks:
            target = targets.get(task.name)
            if target is not None:
                yield task, torch.as_tensor(target).detach().cpu().unsqueeze(0)
