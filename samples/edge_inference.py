"""Run an emitted model with numpy and onnxruntime alone; what goes in and comes out is written in the model.

python samples/edge_inference.py runs/demo-1/model.onnx [--image photo.ppm] [--out pictures]

Without an image a test picture is drawn. The folder gets one picture per dense output (PPM or PGM, which every image
viewer opens) and `outputs.npz` with the numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # noqa: TID251   this file runs where onnxmtl is not installed


def read_ppm(path: Path) -> np.ndarray:
    """A binary PPM (P6, 8 bits) as uint8 [H, W, 3]."""
    data = path.read_bytes()
    fields: list[bytes] = []
    position = 0
    while len(fields) < 4:  # magic, width, height, largest value; comments run to the end of the line
        end = position
        while data[end : end + 1].strip():
            end += 1
        word, position = data[position:end], end + 1
        if word.startswith(b"#"):
            position = data.index(b"\n", end) + 1
        elif word:
            fields.append(word)
    if fields[0] != b"P6" or fields[3] != b"255":
        raise SystemExit(f"{path}: a binary PPM with 8 bits per channel is needed (P6, 255)")
    width, height = int(fields[1]), int(fields[2])
    return np.frombuffer(data, np.uint8, width * height * 3, position).reshape(height, width, 3)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """uint8 [H, W] as PGM, [H, W, 3] as PPM."""
    magic = "P6" if pixels.ndim == 3 else "P5"
    header = f"{magic}\n{pixels.shape[1]} {pixels.shape[0]}\n255\n"
    path.write_bytes(header.encode() + np.ascontiguousarray(pixels).tobytes())


def drawn_picture(height: int, width: int) -> np.ndarray:
    """A wall, a floor and a box on it: uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    picture = np.where((y < 0.6)[..., None], (200, 190, 170), (110, 80, 60)) * (1.1 - 0.4 * y[..., None])
    box = (abs(x - 0.5) < 0.15) & (abs(y - 0.6) < 0.2)
    return np.where(box[..., None], (60, 90, 160), picture).astype(np.uint8)


def prepare(image: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """An image uint8 [H, W, 3] as the contract's input entry asks: size, range, mean, scale, layout."""
    if entry["layout"] != "NCHW" or entry["colour"] != "RGB":
        raise SystemExit(f"this sample feeds RGB as NCHW; the model wants {entry['colour']} as {entry['layout']}")
    height, width = entry["height"], entry["width"]
    rows = (np.arange(height) + 0.5) * image.shape[0] / height  # the nearest pixel
    columns = (np.arange(width) + 0.5) * image.shape[1] / width
    resized = image[rows.astype(int)[:, None], columns.astype(int)].astype(np.float32)
    low, high = entry["range"]
    values = low + (high - low) * resized / 255
    values = (values - np.array(entry["mean"])) * np.array(entry["scale"])
    return np.asarray(values.transpose(2, 0, 1)[None], dtype=entry["dtype"])


def class_map(array: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """Class numbers [N, H, W], from whatever form the output has."""
    return array if entry["output"] == "argmax" else array.argmax(axis=1)


def meaning(array: np.ndarray, entry: dict[str, Any]) -> str:
    """One line on what the numbers say."""
    text = f"{entry['kind']}, {entry['output']}, {array.dtype} {list(array.shape)}"
    if entry["classes"]:
        names = entry["class_names"] or [f"class {i}" for i in range(entry["classes"])]
        numbers, counts = np.unique(class_map(array, entry), return_counts=True)
        best = sorted(zip(counts / counts.sum(), numbers, strict=True), reverse=True)[:3]
        return f"{text}: " + ", ".join(f"{names[i]} {share:.0%}" for share, i in best)
    return f"{text}: {array.min():.3g} to {array.max():.3g} {entry['unit'] or ''}".rstrip()


def picture(array: np.ndarray, entry: dict[str, Any]) -> np.ndarray | None:
    """uint8 [H, W] or [H, W, 3] of the first image, None if the output is not dense."""
    if entry["resolution"] is None:
        return None
    if entry["classes"]:
        palette = np.random.default_rng(3).integers(40, 255, (entry["classes"], 3), dtype=np.uint8)
        return palette[class_map(array, entry)[0]]
    values = array[0].astype(np.float64).transpose(1, 2, 0)
    if entry["unit"] == "unit vector":
        return ((values + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    values = values[..., 0]
    spread = values.max() - values.min()
    return ((values - values.min()) * (255 / spread if spread > 0 else 0)).astype(np.uint8)


def main() -> None:
    """Read the contract, run, say what came out."""
    parser = argparse.ArgumentParser(description="Run a multi-task model with numpy and onnxruntime alone.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--image", type=Path, help="binary PPM; left out: a test picture")
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    args = parser.parse_args()

    session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
    contract = json.loads(session.get_modelmeta().custom_metadata_map["onnxmtl.contract"])
    source = contract["input"]
    image = read_ppm(args.image) if args.image else drawn_picture(source["height"], source["width"])
    names = list(contract["outputs"])
    outputs = session.run(names, {source["name"]: prepare(image, source)})

    args.out.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, outputs, strict=True):
        entry = contract["outputs"][name]
        print(f"{name}: {meaning(array, entry)}")
        pixels = picture(array, entry)
        if pixels is not None:
            write_picture(args.out / f"{name}.{'pgm' if pixels.ndim == 2 else 'ppm'}", pixels)
    np.savez(args.out / "outputs.npz", **dict(zip(names, outputs, strict=True)))
    print(f"pictures and outputs.npz in {args.out}")


if __name__ == "__main__":
    main()
