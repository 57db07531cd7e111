"""What a data source holds, as a short text: equal sources have equal fingerprints, and others hardly ever."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from typing import Any, Protocol, runtime_checkable

import numpy as np

from onnxmtl.data.dataset import Dataset, DataSource, drawn
from onnxmtl.data.parts import Parts

SAMPLES = 8
"""Samples of each set that are read."""


@runtime_checkable
class Identified(Protocol):
    """A data set that knows what it is made of."""

    def identity(self) -> str:
        """A text that changes with what the data set is made of."""


def fingerprint(source: DataSource, samples: int = SAMPLES) -> str:
    """A digest of a source: lengths, input, classes, and the content of some samples of either set.

    The samples are spread evenly, the first and the last among them; of each set that augments, one is drawn, too. What
    changes between them goes unseen: this tells data sets apart, it does not prove them equal. A data set of files
    (method `identity`) adds the names, sizes and times of all its files, and few samples are read.

    Args:
        source: The source.
        samples: How many samples of each set are read, where that is cheap.

    Returns:
        64 hexadecimal digits.
    """
    found = hashlib.sha256()
    facts = {
        "name": source.name,
        "input": dataclasses.asdict(source.input),
        "classes": dict(source.classes),
        "class_names": {task: list(names) for task, names in source.class_names.items()},
        "class_weights": {task: list(weights) for task, weights in source.class_weights.items()},
        "lengths": [_lengths(source.train), _lengths(source.val)],
    }
    found.update(json.dumps(facts, sort_keys=True).encode())
    for dataset in (source.train, source.val):
        count, wanted = len(dataset), samples
        for part in [part for part, _ in dataset.parts] if isinstance(dataset, Parts) else [dataset]:
            if isinstance(part, Identified):
                found.update(part.identity().encode())
                wanted = min(wanted, SAMPLES)
        for index in sorted({int(i) for i in np.linspace(0, count - 1, min(wanted, count))}):
            _add(found, dataset[index])
        firsts = (
            [0, *itertools.accumulate(len(part) for part, _ in dataset.parts)] if isinstance(dataset, Parts) else [0]
        )
        for index in sorted({first for first in firsts if first < count}):
            _add(found, drawn(dataset, index, 0))
    return found.hexdigest()


def _lengths(dataset: Dataset) -> list[int | list[Any]]:
    if isinstance(dataset, Parts):
        return [[len(part), *names] for part, names in dataset.parts]
    return [len(dataset)]


def _add(found: Any, sample: Any) -> None:
    image, targets = sample
    for name, value in [("", image), *sorted(targets.items())]:
        if value is None:
            continue
        array = np.ascontiguousarray(value)
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
