"""Your own data set: a folder of npz files, read on demand (`python samples/own_data.py` looks at a batch of it).

cd samples && onnxmtl compile backbones/resnet18-small.onnx --tasks seg=segmentation,depth --data own_data:make"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

_folder = tempfile.TemporaryDirectory(prefix="own-data-")  # yours would be a path


class NpzFolder:
    """Samples ``(image, {task name: target})`` by index: that and ``len()`` are all it takes."""

    class_names = {"seg": ("ground", "sky", "disc")}  # noqa: RUF012   so that seg=segmentation needs no number

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        with np.load(self.files[index]) as file:
            return file["image"], {name: file[name] for name in file.files if name != "image"}


def make() -> tuple[NpzFolder, NpzFolder]:
    """Training and validation set."""
    files = write_files(Path(_folder.name), 40)
    return NpzFolder(files[:32]), NpzFolder(files[32:])


def write_files(folder: Path, count: int, size: int = 64) -> list[Path]:
    """A stand-in for your files: discs over a plain. Every fourth has no depth label."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    for index in range(count):
        horizon, cx, cy, radius = rng.uniform([0.3, 0.2, 0.4, 0.1], [0.5, 0.8, 0.8, 0.2]) * size
        disc, sky = (x - cx) ** 2 + (y - cy) ** 2 < radius**2, y < horizon
        seg = np.where(disc, 2, np.where(sky, 1, 0)).astype(np.uint8)  # [H, W], ids of classes
        image = np.array([(120, 100, 60), (140, 180, 230), rng.integers(0, 256, 3)], np.uint8)[seg]  # [H, W, 3]
        depth = np.where(disc, 2.0, np.where(sky, 0.0, 40 / (y - horizon + 1).clip(1)))  # metres, 0 = unknown
        labels = {"seg": seg} if index % 4 == 3 else {"seg": seg, "depth": depth[None].astype(np.float32)}
        np.savez(folder / f"{index:03}.npz", image=image, **labels)
    return sorted(folder.glob("*.npz"))


if __name__ == "__main__":
    from onnxmtl.data import batch_at, load_data
    from onnxmtl.kinds import TaskSet

    tasks = TaskSet.parse("seg=segmentation,depth")
    data = load_data("own_data:make", tasks, size=(64, 64), seed=0)
    batch = batch_at(data.train, tasks.with_classes(data.classes), batch_size=16, seed=0, stream="look", step=0)
    print(list(batch.images.shape), {name: f"{int(mask.sum())} labelled" for name, mask in batch.labelled.items()})
