"""Batches: samples checked against their tasks and stacked, and which samples the batch of a step has."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from onnxmtl.data.dataset import Array, Dataset, drawn, permutation
from onnxmtl.data.parts import parts_of
from onnxmtl.errors import DataError, OnnxMTLError
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.runs.seeds import derive_seed

Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_UNIT = 1.01
"""Components of normals may exceed 1 by rounding."""


@dataclass
class Batch:
    """Images ``[N, C, H, W]`` with the targets of each task.

    Attributes:
        images: Float32 ``[N, C, H, W]``.
        targets: Task -> stacked targets; samples without a label have the task's fill value everywhere.
        labelled: Task -> bool ``[N]``.
        indices: Index of each sample in its data set, where it is known.
    """

    images: torch.Tensor
    targets: dict[str, torch.Tensor]
    labelled: dict[str, torch.Tensor]
    indices: tuple[int, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks this batch is about. Disjoint data sets give several batches a step, each with its own tasks."""
        return tuple(self.targets)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        return Batch(
            self.images.to(device),
            {name: target.to(device) for name, target in self.targets.items()},
            {name: mask.to(device) for name, mask in self.labelled.items()},
            self.indices,
        )


# Samples


def fetch(dataset: Dataset, index: int, tasks: Iterable[Task], seed: int | None = None) -> Sample:
    """One sample, checked: image float32 ``[C, H, W]`` and the targets it is labelled with.

    Args:
        dataset: Where it comes from.
        index: Which.
        tasks: Whose targets are wanted.
        seed: Of its augmentation, where the data set has one (``Augmented``); None: the plain sample.

    Raises:
        DataError: The data set raised, or the sample does not fit; one line with the index.
    """
    try:
        sample = dataset[index] if seed is None else drawn(dataset, index, seed)
    except OnnxMTLError:
        raise
    except Exception as error:  # the user's code: anything can come
        text = " ".join(str(error).split())
        msg = f"sample {index}: the data set raised {type(error).__name__}{f': {text}' if text else ''}"
        raise DataError(msg) from error
    return check_sample(sample, index, tasks)


def check_sample(sample: Any, index: int, tasks: Iterable[Task]) -> Sample:
    """A sample with its image and targets as the tasks need them.

    Raises:
        DataError: Not a pair of image and mapping, or a shape, type or value that does not fit.
    """
    if not (isinstance(sample, tuple | list) and len(sample) == 2 and isinstance(sample[1], Mapping)):
        msg = f"sample {index}: a sample must be a pair (image, {{task: target}}), not {_kind_of_thing(sample)}"
        raise DataError(msg)
    image = _image(sample[0], index)
    size = (int(image.shape[1]), int(image.shape[2]))
    targets = {}
    for task in tasks:
        given = sample[1].get(task.name)
        if given is not None:
            targets[task.name] = _target(given, index, task, size)
    return image, targets


def _kind_of_thing(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"{len(value)} items ({', '.join(type(item).__name__ for item in value[:4])})"
    return f"a {type(value).__name__}"


def _tensor(value: Any, where: str, expected: str) -> torch.Tensor:
    """A tensor that shares memory with the array if it can."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
        if array.dtype == np.uint16 or array.dtype == np.uint32:
            array = array.astype(np.int64)
        if not array.flags.writeable or any(step < 0 for step in array.strides):
            array = array.copy()
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        msg = f"{where}: expected {expected}, got {_kind_of_thing(value)}"
        raise DataError(msg) from error


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _image(value: Any, index: int) -> torch.Tensor:
    where, expected = f"sample {index}, image", "float32 [C, H, W] (or uint8 [H, W, C])"
    image = _tensor(value, where, expected)
    if image.ndim == 3 and min(image.shape) > 0:
        if image.dtype == torch.uint8 and image.shape[2] <= 4:
            return image.permute(2, 0, 1).to(torch.float32).div(255).contiguous()
        if image.dtype == torch.float32:
            if not bool(torch.isfinite(image).all()):
                msg = f"{where}: it holds nan or infinity"
                raise DataError(msg)
            return image
    msg = f"{where}: expected {expected}, got {_describe(image)}"
    raise DataError(msg)


def _target(value: Any, index: int, task: Task, size: tuple[int, int]) -> torch.Tensor:
    where, wanted = f"sample {index}, task {task.name!r}", task.spec.target
    known = {"H": size[0], "W": size[1], "C": task.channels}
    shape = [known[n] if isinstance(n, str) else n for n in wanted.shape]
    expected = f"{wanted.dtype} {shape}"
    target = _tensor(value, where, expected)
    if wanted.dtype == "int64":
        fits = target.dtype in _INTEGERS
        target = target.to(torch.int64) if fits else target
    else:
        fits = target.dtype == torch.float32
        if target.dtype in (torch.float64, torch.float16) and target.ndim <= 1:  # plain Python numbers
            fits, target = True, target.to(torch.float32)
        if not shape or (shape[0] == 1 and len(shape) == 1 and target.ndim == 0):
            target = target.reshape(shape)
    if not fits or list(target.shape) != shape:
        msg = f"{where}: expected {expected} for {task.kind}, got {_describe(target)}"
        raise DataError(msg)
    problem = _range_problem(target, task)
    if problem:
        msg = f"{where}: {problem}"
        raise DataError(msg)
    return target


def _range_problem(target: torch.Tensor, task: Task) -> str:
    """What is wrong with the values of a target, or ""."""
    if not target.numel():
        return ""
    if task.spec.categorical:
        if not task.channels:
            return ""
        high = target.max()
        if high >= task.channels:
            bad = target[(target >= task.channels) & (target != task.ignore)]
            if bad.numel():
                return (
                    f"class {int(bad.flatten()[0])} is not one of the {task.channels} classes "
                    f"(0 … {task.channels - 1}; {task.ignore} and negative labels are ignored)"
                )
    elif task.kind in ("edges", "saliency", "keypoints"):
        bad = target[~((target >= 0) & (target <= 1)) & (target != task.ignore)]
        if bad.numel():
            return f"value {float(bad[0]):g} is outside [0, 1] (and is not {task.ignore}, which is ignored)"
    elif task.kind == "normals" and bool((target.abs() > _UNIT).any()):
        return (
            f"a component is {float(target.abs().nan_to_num().max()):g}: normals are unit vectors "
            "(of a picture's bytes v take 2 v / 255 - 1), all zero where unknown"
        )
    return ""


# Batches


def collate(samples: Sequence[Any], tasks: TaskSet, *, indices: Sequence[int] = ()) -> Batch:
    """Stack samples into a batch, checking each against the tasks.

    Args:
        samples: What a data set gives: ``(image, {task: target})``.
        tasks: The tasks whose targets are stacked.
        indices: Their indices, for messages; 0, 1, … if not given.

    Raises:
        DataError: No samples, images of different shapes, or a sample that does not fit its tasks.
    """
    if not samples:
        msg = "a batch needs at least one sample: the data set is empty"
        raise DataError(msg)
    names = tuple(indices) or tuple(range(len(samples)))
    return _stack([check_sample(s, i, tasks) for s, i in zip(samples, names, strict=True)], tasks, names)


def _stack(samples: Sequence[Sample], tasks: TaskSet, indices: tuple[int, ...]) -> Batch:
    shape = samples[0][0].shape
    for (image, _), index in zip(samples, indices, strict=True):
        if image.shape != shape:
            msg = (
                f"sample {index}, image: expected {list(shape)} as sample {indices[0]} has, "
                f"got {list(image.shape)}: all images must have one size"
            )
            raise DataError(msg)
    sizes = {"H": int(shape[1]), "W": int(shape[2])}
    targets, labelled = {}, {}
    for task in tasks:
        wanted = task.spec.target
        of_task = [targets_.get(task.name) for _, targets_ in samples]
        dims = [{**sizes, "C": task.channels}[n] if isinstance(n, str) else n for n in wanted.shape]
        dtype = torch.int64 if wanted.dtype == "int64" else torch.float32
        blank = torch.full(dims, task.fill, dtype=dtype) if any(t is None for t in of_task) else torch.empty(0)
        targets[task.name] = torch.stack([blank if t is None else t for t in of_task])
        labelled[task.name] = torch.tensor([t is not None for t in of_task])
    return Batch(torch.stack([image for image, _ in samples]), targets, labelled, indices)


def batch_at(
    dataset: Dataset,
    tasks: TaskSet,
    *,
    batch_size: int,
    seed: int,
    stream: str,
    step: int,
    share: tuple[int, int] = (0, 1),
) -> Batch:
    """The batch of a training step: a pure function of its arguments, so that a resumed run goes on exactly.

    The epochs of a stream, each a random order of all samples that depends on (seed, stream, epoch), are laid end to
    end and cut into batches. So every epoch has every sample once, every batch is full, and a batch may reach from
    one epoch into the next. A data set that augments (``Augmented``) draws each sample anew in each epoch, from
    (seed, stream, epoch, index).

    With `share` = (k, n) only the k-th of n parts of the batch is read, k from 0: the parts are consecutive.

    Raises:
        DataError: The data set is empty or raises, or a sample does not fit.
    """
    n = len(dataset)
    part = slice(*(batch_size * place // share[1] for place in (share[0], share[0] + 1)))
    indices = indices_at(n, batch_size=batch_size, seed=seed, stream=stream, step=step)[part]
    seeds: list[int | None] = [None] * len(indices)
    if hasattr(dataset, "draw"):
        epochs = (place // n for place in range(step * batch_size, (step + 1) * batch_size)[part])
        seeds = [derive_seed(seed, "augment", stream, epoch, i) for i, epoch in zip(indices, epochs, strict=True)]
    return _stack(_fetch_all(dataset, indices, tasks, seeds), tasks, indices)


def _fetch_all(
    dataset: Dataset, indices: Sequence[int], tasks: TaskSet, seeds: Sequence[int | None]
) -> Sequence[Sample]:
    """The samples, in order; of a data set that reads files (attribute `parallel`), by several threads."""
    if len(indices) > 1 and getattr(dataset, "parallel", False):
        return list(_threads().map(lambda i, seed: fetch(dataset, i, tasks, seed), indices, seeds))
    return [fetch(dataset, i, tasks, seed) for i, seed in zip(indices, seeds, strict=True)]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="onnxmtl-data")


def batches_at(
    dataset: Dataset,
    tasks: TaskSet,
    *,
    batch_size: int,
    seed: int,
    stream: str,
    step: int,
    share: tuple[int, int] = (0, 1),
) -> list[Batch]:
    """The batches of a training step: one, or with disjoint data sets (:class:`Parts`) one per data set.

    Each batch holds `batch_size` images and the targets of the tasks its data set labels (``Batch.tasks``); data sets
    that label none of `tasks` give none. The order and augmentation of each data set depend on its own samples and
    tasks only: a task alone sees the images that it sees beside others. `share`: as in :func:`batch_at`, of each batch.

    Raises:
        DataError: A data set is empty or raises, a sample does not fit, or a task is labelled by none.
    """
    return [
        batch_at(
            part.dataset,
            part.tasks,
            batch_size=batch_size,
            seed=seed,
            stream=stream + part.stream,
            step=step,
            share=share,
        )
        for part in parts_of(dataset, tasks)
    ]


def indices_at(n: int, *, batch_size: int, seed: int, stream: str, step: int) -> tuple[int, ...]:
    """Which of n samples the batch of a step has; see :func:`batch_at`."""
    if n < 1:
        msg = "the data set is empty"
        raise DataError(msg)
    if batch_size < 1 or step < 0:
        msg = f"there is no batch of {batch_size} samples at step {step}"
        raise DataError(msg)
    places = (divmod(place, n) for place in range(step * batch_size, (step + 1) * batch_size))
    return tuple(int(_epoch(n, seed, stream, epoch)[place]) for epoch, place in places)


@functools.lru_cache(maxsize=8)
def _epoch(n: int, seed: int, stream: str, epoch: int) -> npt.NDArray[np.int64]:
    return permutation(n, seed, "order", stream, epoch)


def iterate(dataset: Dataset, tasks: TaskSet, batch_size: int) -> Iterator[Batch]:
    """The whole data set in its own order; the last batch may be short. Disjoint data sets come one after the other.

    Raises:
        DataError: The data set raises, or a sample does not fit.
    """
    for part in parts_of(dataset, tasks):
        order = iter(range(len(part.dataset)))
        while indices := tuple(itertools.islice(order, batch_size)):
            samples = _fetch_all(part.dataset, indices, part.tasks, [None] * len(indices))
            yield _stack(samples, part.tasks, indices)


class Checked:
    """A user's data set whose samples come checked and in onnxmtl's form, with errors that say which and why."""

    def __init__(self, dataset: Dataset, tasks: TaskSet, part: str, limit: int | None = None) -> None:
        self.dataset = dataset
        self._tasks = tuple(tasks)
        self._part = part
        self._length = len(dataset) if limit is None else min(limit, len(dataset))

    @property
    def parallel(self) -> bool:
        """Whether several threads may read samples at once: what the user's data set says of itself."""
        return bool(getattr(self.dataset, "parallel", False))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int, /) -> tuple[Array, Mapping[str, Array | None]]:
        if not 0 <= index < self._length:
            msg = f"index {index} is outside the {self._length} samples"
            raise IndexError(msg)
        return self._fetch(index, None)

    def draw(self, index: int, seed: int) -> tuple[Array, Mapping[str, Array | None]]:
        """An augmented sample, if the data set has them; else the plain one."""
        return self._fetch(index, seed)

    def _fetch(self, index: int, seed: int | None) -> Sample:
        try:
            return fetch(self.dataset, index, self._tasks, seed)
        except DataError as error:
            msg = f"{self._part}: {error}"
            raise DataError(msg) from error
