"""What a data set is to onnxmtl: samples by index, and a source of two of them. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from onnxmtl.errors import DataError
from onnxmtl.runs.seeds import derive_seed

if TYPE_CHECKING:
    import torch

    Array: TypeAlias = torch.Tensor | npt.NDArray[Any]
else:
    Array: TypeAlias = Any


@runtime_checkable
class Dataset(Protocol):
    """Samples by index, 0 … len − 1: ``(image, {task name: target})``.

    The image is float32 ``[C, H, W]``, ready for the network, or uint8 ``[H, W, C]``, which is divided by 255. Targets
    are as the task's kind says (``onnxmtl.kinds``); one that is absent or None is not labelled. Both are numpy arrays
    or torch tensors. Equal indices must give equal samples: then a run that was killed goes on bit for bit. A data set
    with a true attribute `parallel` is read by several threads at once.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Array, Mapping[str, Array | None]]: ...


@runtime_checkable
class Augmented(Protocol):
    """A data set that can also draw a sample anew: another crop, scale, mirror image.

    ``[index]`` is the plain sample. Training takes ``draw(index, seed)``, a function of both: another seed every epoch.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Array, Mapping[str, Array | None]]: ...

    def draw(self, index: int, seed: int, /) -> tuple[Array, Mapping[str, Array | None]]: ...


def drawn(dataset: Dataset, index: int, seed: int) -> tuple[Array, Mapping[str, Array | None]]:
    """A sample of a data set, drawn anew if it is :class:`Augmented`."""
    draw = getattr(dataset, "draw", None)  # a check of the protocol takes as long as a small sample
    sample: tuple[Array, Mapping[str, Array | None]] = dataset[index] if draw is None else draw(index, seed)
    return sample


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What the network's images are; goes into the output contract.

    A network takes (v − mean) · scale per channel, for v in `range`. Samples of a data set have that applied already.
    Empty `mean` and `scale` stand for 0 and 1.
    """

    channels: int = 3
    height: int = 64
    width: int = 64
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    layout: str = "NCHW"
    colour: str = "RGB"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean) or (0.0,) * self.channels)
        object.__setattr__(self, "scale", tuple(self.scale) or (1.0,) * self.channels)
        if not len(self.mean) == len(self.scale) == self.channels:
            msg = (
                f"input spec: {self.channels} channels need as many means and scales, "
                f"not {len(self.mean)} and {len(self.scale)}"
            )
            raise DataError(msg)


@dataclasses.dataclass(frozen=True)
class DataSource:
    """A data set to train on and one to compare on.

    Attributes:
        name: What reports call it.
        train: Training samples.
        val: Validation samples, none of them in `train`.
        input: What the images are.
        classes: Task name -> number of classes (or of channels, for regression), where the source knows.
        class_names: Task name -> names of its classes, where the source knows.
        class_weights: Task name -> weight of each class in the loss, where the data set brings them (Taskonomy).
        test: Samples kept apart for a last look, in neither `train` nor `val`; None: there are none.
        units: Task name -> unit of its labels, e.g. "metres"; the kind's where nothing is said.
    """

    name: str
    train: Dataset
    val: Dataset
    input: InputSpec
    classes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    class_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    class_weights: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    test: Dataset | None = None
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Subset:
    """Some samples of a data set, in a given order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = tuple(indices)

    @property
    def parallel(self) -> bool:
        """Whether several threads may read samples at once."""
        return bool(getattr(self.dataset, "parallel", False))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> tuple[Array, Mapping[str, Array | None]]:
        if not 0 <= index < len(self.indices):
            msg = f"index {index} is outside the {len(self.indices)} samples"
            raise IndexError(msg)
        return self.dataset[self.indices[index]]

    def draw(self, index: int, seed: int) -> tuple[Array, Mapping[str, Array | None]]:
        """An augmented sample, if the data set has them; else the plain one."""
        return drawn(self.dataset, self.indices[index], seed)


def permutation(n: int, seed: int, *keys: str | int) -> npt.NDArray[np.int64]:
    """A random order of 0 … n − 1, the same for the same arguments."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *keys))).permutation(n)


@runtime_checkable
class Splits(Protocol):
    """A data set with its own idea of how :func:`split` divides it."""

    def own_split(self, fraction: float, seed: int, /) -> tuple[Dataset, Dataset] | None:
        """The two parts, or None: divide it as any other."""


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Two disjoint parts that together are the whole; the first has `fraction` of the samples (rounded).

    Each part has one sample at least, and keeps the order of the whole. Disjoint data sets (``Parts``) are split each
    by itself, and a data set with published halves for this purpose (NYUv2's train1 and train2) into those, where they
    are about as large as `fraction` asks.

    Raises:
        DataError: `fraction` is not between 0 and 1, or there are fewer than two samples.
    """
    n = len(dataset)
    if not 0 < fraction < 1:
        msg = f"cannot split a data set at {fraction}: the fraction must lie between 0 and 1"
        raise DataError(msg)
    if n < 2:
        msg = f"cannot split a data set of {n} sample(s) in two"
        raise DataError(msg)
    own = dataset.own_split(fraction, seed) if isinstance(dataset, Splits) else None
    if own is not None:
        return own
    order = permutation(n, seed, "split")
    first = min(max(round(fraction * n), 1), n - 1)
    return Subset(dataset, sorted(order[:first].tolist())), Subset(dataset, sorted(order[first:].tolist()))
