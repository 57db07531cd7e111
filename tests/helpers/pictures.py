"""Tiny data sets in the formats of the papers' codes, with known contents: made by hand, no loader of ours is used."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
from PIL import Image
from scipy.io import savemat

NYU_SPLITS = {"train": 20, "test": 4}


def ramp(height, width, k):
    """An RGB picture whose pixels tell their place: red the row, green the column, blue the sample."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 2, columns * 2, np.full_like(rows, 10 * k)], 2).astype(np.uint8)


def write_idx(file, array):
    """An idx file of bytes; gzipped if its name ends so."""
    content = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def fashion(folder, train=40, test=20):
    """idx files: item i is a bright square of 2 (i mod 10) + 8 pixels, its class i mod 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images, labels = square_items(count)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


def square_items(count):
    """(images [N, 28, 28], labels [N]): squares in the middle, larger and brighter from class to class."""
    images, labels = np.zeros((count, 28, 28), np.uint8), np.arange(count) % 10
    for image, label in zip(images, labels, strict=True):
        half = int(label) + 4
        image[14 - half : 14 + half, 14 - half : 14 + half] = 60 + 19 * label
    return images, labels.astype(np.uint8)


def nyuv2(folder, size=(48, 64)):
    """NYUv2 as AdaShare prepares it; returns the folder. Sample k is made by :func:`nyu_sample`."""
    for name in ("img", "seg", "normal_mask", "depth"):
        (folder / name).mkdir(parents=True)
    entries = {"train": [], "test": []}
    k = 0
    for split, count in NYU_SPLITS.items():
        for _ in range(count):
            image, seg, normal, depth = nyu_sample(k, size)
            names = [f"img/{k:04}.png", f"seg/{k:04}.png", f"normal_mask/{k:04}.png", f"depth/{k:04}.npy"]
            for name, pixels in zip(names, (image, seg, normal), strict=False):
                Image.fromarray(pixels).save(folder / name)
            np.save(folder / names[3], depth)
            entries[split].append(names)
            k += 1
    cut = NYU_SPLITS["train"] * 4 // 5
    entries["train1"], entries["train2"] = entries["train"][:cut], entries["train"][cut:]
    (folder / "nyu_v2_3task.json").write_text(json.dumps(entries))
    return folder


def nyu_sample(k, size=(48, 64)):
    """(image, segmentation, normals, depth) as the files hold them; the left quarter is unknown in all labels."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    seg = ((rows // 4 + columns // 4 + k) % 40).astype(np.uint8)
    normal = np.stack([np.full(size, 190), 100 + rows, np.full(size, 60 + k)], 2).astype(np.uint8)
    depth = (1 + 0.05 * columns + 0.01 * k).astype(np.float32)
    unknown = columns < width // 4
    seg[unknown], normal[unknown], depth[unknown] = 255, 255, 0
    return ramp(height, width, k), seg, normal, depth


def cityscapes(folder, size=(32, 64), counts=(("train", 10), ("test", 3))):
    """CityScapes as AdaShare prepares it: npy files, −1 unknown."""
    folder.mkdir(parents=True)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    entries, k = {}, 0
    for split, count in counts:
        entries[split] = []
        for _ in range(count):
            names = [f"{split}_{what}_{k}.npy" for what in ("image", "depth", "label_2", "label_7", "label_19")]
            labels = [((rows // 4 + columns // 8 + k) % (n + 1) - 1).astype(np.float32) for n in (2, 7, 19)]
            depth = (0.01 + 0.005 * rows).astype(np.float32)[..., None]
            depth[:4] = 0
            for name, array in zip(names, (ramp(height, width, k) / 255.0, depth, *labels), strict=True):
                np.save(folder / name, array)
            entries[split].append(names)
            k += 1
    (folder / "cityscape.json").write_text(json.dumps(entries))
    return folder


def taskonomy(folder, size=(32, 32), counts=(("train", 10), ("test", 3))):
    """Tiny-Taskonomy as AdaShare prepares it: PNG files, 16 bits for depth, key points and edges."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    entries, k = {}, 0
    for split, count in counts:
        base = folder / ("test" if split.startswith("test") else "train")
        base.mkdir(parents=True, exist_ok=True)
        entries[split] = []
        for _ in range(count):
            names = [f"{k}_{what}.png" for what in ("rgb", "seg", "normal", "depth", "key", "edge")]
            depth = (512 * (1 + rows // 8)).astype(np.uint16)
            depth[:, :4] = 65535
            normal = np.stack([np.full(size, 255), np.full(size, 128), np.full(size, 128)], 2).astype(np.uint8)
            pictures = (
                ramp(height, width, k),
                ((rows // 2 + k) % 18).astype(np.uint8),
                normal,
                depth,
                (columns * 20).astype(np.uint16),
                (columns * 300).astype(np.uint16),
            )
            for name, pixels in zip(names, pictures, strict=True):
                Image.fromarray(pixels).save(base / name)
            entries[split].append(names)
            k += 1
    (folder / "taskonomy.json").write_text(json.dumps(entries))
    np.save(folder / "semseg_prior_factor.npy", np.linspace(0.5, 2, 17))
    return folder


def pascal(folder, size=(40, 50), counts=(("train", 10), ("val", 3))):
    """PASCAL-Context as ASTMT distributes it. The left half is class 5 of VOC and 284 of LabelMap, the right half 0 and
    360; odd samples show a person with a head (rows 5 to 9) and an arm (rows 20 to 29), even ones none."""
    height, width = size
    for name in ("JPEGImages", "ImageSets/Context", "semseg/VOC12", "semseg/pascal-context", "normals_distill",
                 "pascal-context/trainval", "human_parts", "sal_distill"):  # fmt: skip
        (folder / name).mkdir(parents=True, exist_ok=True)
    left = np.mgrid[0:height, 0:width][1] < width // 2
    k = 0
    for split, count in counts:
        names = [f"2008_{k + i:06}" for i in range(count)]
        (folder / "ImageSets/Context" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            Image.fromarray(ramp(height, width, k)).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            seg = np.where(left, 5, 0).astype(np.uint8)
            seg[:3] = 255
            picture = Image.fromarray(seg).convert("P")
            picture.putpalette([v for i in range(256) for v in (i, 255 - i, i // 2)])
            picture.putdata(seg.ravel().tolist())
            picture.save(folder / "semseg" / ("VOC12" if k % 3 else "pascal-context") / f"{name}.png")
            savemat(
                folder / "pascal-context/trainval" / f"{name}.mat",
                {"LabelMap": np.where(left, 284, 360).astype(np.uint16)},
            )
            savemat(folder / "human_parts" / f"{name}.mat", {"anno": _anno(name, size, with_person=k % 2 == 1)})
            Image.fromarray(np.full((*size, 3), (128, 128, 255), np.uint8)).save(
                folder / "normals_distill" / f"{name}.png"
            )
            Image.fromarray(np.where(left, 200, 20).astype(np.uint8)).save(folder / "sal_distill" / f"{name}.png")
            k += 1
    return folder


def _struct(fields):
    array = np.empty((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        array[0, 0][name] = value
    return array


def _row(items):
    """Structs of equal fields as Matlab's 1×n struct array."""
    array = np.empty((1, len(items)), dtype=[(name, object) for name in items[0].dtype.names])
    for i, item in enumerate(items):
        array[0, i] = item[0, 0]
    return array


def _anno(name, size, with_person):
    def mask(rows):
        found = np.zeros(size, np.uint8)
        found[rows] = 1
        return found

    head = _struct({"part_name": "lear", "mask": mask(slice(5, 10))})
    arm = _struct({"part_name": "luarm", "mask": mask(slice(20, 30))})
    wheel = _struct({"part_name": "fwheel", "mask": mask(slice(0, 40))})
    car = _struct({"class": "car", "class_ind": 7, "mask": mask(slice(0, 40)), "parts": _row([wheel])})
    person = _struct({"class": "person", "class_ind": 15, "mask": mask(slice(5, 30)), "parts": _row([head, arm])})
    without = _struct({"class": "person", "class_ind": 15, "mask": mask(slice(30, 35)), "parts": np.zeros((0, 0))})
    things = [car, without, person] if with_person else [car, without]
    return _struct({"imname": name, "objects": _row(things)})
