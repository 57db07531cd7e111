"""Where data comes from and where it ends: inputs, data layers, losses."""

from __future__ import annotations

from typing import Any

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.registry import Layer
from onnxmtl.frontends.prototxt.text import Document

# Their first top is the image, the others are labels.
DATA_LAYERS = frozenset(
    {"Data", "ImageData", "MemoryData", "HDF5Data", "WindowData", "AnnotatedData", "ImageSegData", "DenseImageData"}
)
# Every top is an input.
INPUT_LAYERS = frozenset({"Input", "DummyData"})
# They read nothing, and yet make no images: weights (Parameter), numbers. "" is a layer without a type.
NO_DATA = frozenset({"", "Parameter"})
_SINKS = frozenset({"Accuracy", "DetectionEvaluate", "HDF5Output", "MatWrite", "SegAccuracy", "Silence"})


def is_sink(layer_type: str) -> bool:
    """Whether a layer serves training or printing only: losses of any name, accuracies, writers."""
    return layer_type in _SINKS or layer_type.endswith("Loss")


def own_data_layer(layer: Layer) -> ModelError:
    """The error for a layer that makes images in a way of its own: of type Python, say, or of a fork of Caffe."""
    name = layer.tops[0] if layer.tops else "data"
    return layer.error(
        f'makes {name!r} by code that onnxmtl does not have; put `input: "{name}" input_dim: 1 input_dim: 3 '
        "input_dim: HEIGHT input_dim: WIDTH` at the top of the file instead of this layer"
    )


def declared_inputs(document: Document) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of ``input:`` with ``input_dim:`` or ``input_shape``.

    Raises:
        ModelError: Sizes are missing, or not positive.
    """
    net, file = document.net, document.file
    names = list(net.input)
    if not names:
        return []
    line = next((place.line for place in document.header.fields if place.path == "input"), 1)
    if net.input_shape:
        shapes = [tuple(shape.dim) for shape in net.input_shape]
    else:
        dims = list(net.input_dim)
        shapes = [tuple(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    if len(shapes) != len(names) or (not net.input_shape and len(shapes[-1]) != 4):
        msg = f"{file}:{line}: {len(names)} inputs need four input_dim each (batch, channels, height, width)"
        raise ModelError(msg)
    for name, shape in zip(names, shapes, strict=True):
        if not shape or any(dim < 1 for dim in shape):
            msg = f"{file}:{line}: input {name!r} has shape {shape}; sizes have to be positive"
            raise ModelError(msg)
    return list(zip(names, shapes, strict=True))


def layer_shapes(layer: Layer) -> list[tuple[int, ...]]:
    """Shapes of the inputs that an Input, DummyData or data layer stands for, in the order of its tops.

    Raises:
        ModelError: The file does not say the size of the image.
    """
    found = _shapes(layer)
    for shape in found:
        if not shape or any(dim < 1 for dim in shape):
            raise layer.error(f"its shape {shape} has to be positive numbers")
    return found


def _shapes(layer: Layer) -> list[tuple[int, ...]]:
    message, count = layer.message, len(layer.tops)
    if layer.type == "Input":
        return _for_each_top(layer, [tuple(shape.dim) for shape in message.input_param.shape])
    if layer.type == "DummyData":
        param = message.dummy_data_param
        shapes = [tuple(shape.dim) for shape in param.shape]
        if not shapes:
            columns = [list(getattr(param, name)) for name in ("num", "channels", "height", "width")]
            columns = [column * count if len(column) == 1 else column for column in columns]
            shapes = list(zip(*columns, strict=False))
        return _for_each_top(layer, shapes)
    if layer.type == "MemoryData":
        param = message.memory_data_param
        return [(max(param.batch_size, 1), param.channels, param.height, param.width)]
    return [_image_shape(layer)]


def _for_each_top(layer: Layer, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    count = len(layer.tops)
    if len(shapes) == 1:
        shapes = shapes * count
    if len(shapes) != count:
        raise layer.error(f"{len(shapes)} shapes for {count} tops; give one for each, or one for all")
    return shapes


def _image_shape(layer: Layer) -> tuple[int, ...]:
    """[N, C, H, W] of a layer that reads images from a disk: as they are cropped, or resized."""
    message = layer.message
    transform, images = message.transform_param, message.image_data_param
    gray = transform.force_gray or (message.HasField("image_data_param") and not images.is_color)
    height = transform.crop_h or transform.crop_size or message.data_param.crop_size or images.crop_size
    width = transform.crop_w or transform.crop_size or message.data_param.crop_size or images.crop_size
    height, width = height or images.new_height, width or images.new_width
    if not height or not width:
        what = (
            'does not say the size of the images; put `input: "data" input_dim: 1 input_dim: 3 input_dim: HEIGHT '
            "input_dim: WIDTH` at the top of the file instead of this layer, or give it a transform_param { crop_size }"
        )
        raise layer.error(what.replace('"data"', f'"{layer.tops[0] if layer.tops else "data"}"'))
    batch = message.data_param.batch_size or images.batch_size
    return (max(batch, 1), 1 if gray else 3, height, width)


def preprocessing(message: Any) -> str:
    """What a data layer does to the images before the network sees them, or ""."""
    transform, said = message.transform_param, []
    if transform.mean_value:
        said.append(f"subtracts {', '.join(f'{value:g}' for value in transform.mean_value)}")
    if transform.mean_file:
        said.append(f"subtracts {transform.mean_file!r}")
    if transform.scale != 1:
        said.append(f"multiplies by {transform.scale:g}")
    return " and ".join(said)
