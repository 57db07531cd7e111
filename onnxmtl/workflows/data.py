"""Bringing the backbone, the tasks and the data set together: image size and number of classes."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.data import DataSource, load_data
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet
from onnxmtl.train.objective import check_tasks
from onnxmtl.workflows.config import CompileConfig


def open_data(backbone: ir.Model, tasks: TaskSet, config: CompileConfig) -> tuple[DataSource, TaskSet]:
    """Open the data set at the model's image size, and give open tasks the data set's classes and units.

    Raises:
        DataError: The data set cannot be used, or its images have another size than the model takes.
    """
    size = _image_size(backbone)
    data = load_data(
        config.data,
        tasks,
        size=size,
        seed=config.seed,
        channels=_channels(backbone),
        options=config.data_options,
        train_size=config.train_size or None,
        val_size=config.val_size or None,
    )
    for name, part in (("training", data.train), ("validation", data.val)):
        if len(part) < 2:
            msg = f"data {config.data!r}: the {name} set has {len(part)} samples; two or more are needed"
            raise DataError(msg)
    found = (data.input.height, data.input.width)
    if size != found:
        msg = (
            f"data {config.data!r}: its images are {found[0]}x{found[1]}, the model takes {size[0]}x{size[1]}; "
            f"resize them, or pass --input-size {found[0]}x{found[1]}"
        )
        raise DataError(msg)
    tasks = tasks.with_classes(data.classes, data.class_names, data.class_weights, data.units)
    check_tasks(tasks)
    return data, tasks


def _image_size(model: ir.Model) -> tuple[int, int]:
    """Height and width of the images; import made sure that they are known."""
    shape = model.graph.inputs[0].shape
    assert shape is not None, "a normalized backbone knows the shape of its image"
    return int(str(shape[2])), int(str(shape[3]))


def _channels(model: ir.Model) -> int:
    """Channels of the images; 3 where the model does not say."""
    shape = model.graph.inputs[0].shape
    channels = shape[1] if shape is not None and len(shape) == 4 else None
    return channels if isinstance(channels, int) else 3
