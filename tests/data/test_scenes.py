"""The built-in rooms: reproducible, exact, learnable; against a plain ray caster that does one ray at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from onnxmtl.data.scenes import CLASSES, LABELS, ROOM_TYPES, Scenes, render_samples, scenes
from onnxmtl.data.scenes.casting import first_hits
from onnxmtl.data.scenes.labels import visible_points
from onnxmtl.data.scenes.layout import build_scene
from onnxmtl.data.scenes.render import draw
from onnxmtl.data.scenes.scene import SOLID_CLASS, Stage
from onnxmtl.data.scenes.solids import Shape
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet
from onnxmtl.runs.seeds import derive_seed

ALL = "seg=segmentation,depth,normals,edges,keypoints,classification,regression"


@pytest.fixture(scope="module")
def many():
    """64 samples at 48×48."""
    return [s for a in range(0, 64, 16) for s in render_samples(3, "train", range(a, a + 16), (48, 48))]


def scene_of(seed):
    return build_scene(np.random.default_rng(seed))


# The reference: float64, one ray, every solid, by the textbook.


def cast(scene, direction):
    """(depth, class, normal in the world) along a ray from the camera."""
    origin = scene.camera.position.astype(np.float64)
    best, label, normal = math.inf, -1, None
    for axis in range(3):
        d = direction[axis]
        wall = scene.size[axis] if d > 0 else 0.0
        t = (wall - origin[axis]) / d
        if t < best:
            best, normal = t, -np.sign(d) * np.eye(3)[axis]
            face = 2 * axis + (d > 0)
            label = {4: 0, 5: 1}.get(face, 2)
    hit = origin + best * direction
    u, v = (hit[1] if face < 2 else hit[0]), (hit[2] if face < 4 else hit[1])
    for index, decal in enumerate(scene.decals):
        if decal.face == face and 0 <= u - decal.u < decal.width and 0 <= v - decal.v < decal.height:
            label = int(scene.surface_class[6 + index])
    for solid in scene.solids:
        found = cast_at(solid, origin, direction)
        if found is not None and found[0] < best:
            best, normal = found
            label = SOLID_CLASS[solid.shape]
    return best, label, normal


def cast_at(solid, origin, direction):
    cos, sin = math.cos(solid.yaw), math.sin(solid.yaw)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    o, d = turn @ (origin - np.array(solid.centre)), turn @ direction
    candidates = []
    if solid.shape is Shape.BOX:
        for axis in range(3):
            for side in (-1, 1):
                t = (side * solid.half[axis] - o[axis]) / d[axis]
                p = o + t * d
                if all(abs(p[i]) <= solid.half[i] for i in range(3) if i != axis):
                    candidates.append((t, side * np.eye(3)[axis]))
    else:
        m = np.array([1, 1, solid.shape is Shape.SPHERE], float)
        radius = solid.half[0]
        a, b, c = (d * d * m).sum(), (o * d * m).sum(), (o * o * m).sum() - radius**2
        if b * b - a * c > 0:
            t = (-b - math.sqrt(b * b - a * c)) / a
            p = o + t * d
            if solid.shape is Shape.SPHERE or abs(p[2]) <= solid.half[2]:
                candidates.append((t, p * m / radius))
        if solid.shape is Shape.CYLINDER:
            for side in (-1, 1):
                t = (side * solid.half[2] - o[2]) / d[2]
                p = o + t * d
                if p[0] ** 2 + p[1] ** 2 <= radius**2:
                    candidates.append((t, np.array([0.0, 0.0, side])))
    candidates = [c for c in candidates if c[0] > 0]
    if not candidates:
        return None
    t, n = min(candidates, key=lambda c: c[0])
    return t, turn.T @ n


@pytest.mark.parametrize("seed", range(6))
def test_labels_agree_with_casting_one_ray_at_a_time(seed):
    height, width = 15, 21
    ((_, labels),) = render_samples(seed, "train", [seed], (height, width))
    scene = build_scene(np.random.Generator(np.random.PCG64(derive_seed(seed, "scenes", "train", seed))))
    right, up, forward = scene.camera.axes.T.astype(np.float64)
    scale = 2 * scene.camera.field / height
    same = 0
    for row in range(height):
        for col in range(width):
            ray = forward + (col + 0.5 - width / 2) * scale * right + (height / 2 - row - 0.5) * scale * up
            depth, label, normal = cast(scene, ray)
            if label != labels["segmentation"][row, col] or abs(depth - labels["depth"][0, row, col]) > 1e-3:
                continue  # a ray that grazes a border may fall to the other side in float32
            same += 1
            in_camera = np.array([normal @ right, normal @ up, -(normal @ forward)])
            np.testing.assert_allclose(labels["normals"][:, row, col], in_camera, atol=2e-3)
    assert same >= height * width - 2


def test_a_sample_does_not_depend_on_what_is_drawn_beside_it():
    together = render_samples(0, "train", range(8), (40, 56))
    for index in (0, 3, 7):
        ((image, labels),) = render_samples(0, "train", [index], (40, 56))
        np.testing.assert_array_equal(image, together[index][0])
        for kind in LABELS:
            np.testing.assert_array_equal(labels[kind], together[index][1][kind], err_msg=kind)


def test_seed_part_and_index_make_other_rooms(many):
    def image(seed, part, index):
        return render_samples(seed, part, [index], (48, 48), ())[0][0]

    first = image(3, "train", 5)
    np.testing.assert_array_equal(first, many[5][0])
    for other in (image(4, "train", 5), image(3, "val", 5), image(3, "train", 6)):
        assert np.abs(first.astype(int) - other).mean() > 5


def test_salient_is_what_stands_in_the_room(many):
    solids = list(SOLID_CLASS.values())
    for index in range(6):
        labels = many[index][1]
        np.testing.assert_array_equal(labels["saliency"][0], np.isin(labels["segmentation"], solids))
    assert 0.05 < np.mean([many[index][1]["saliency"].mean() for index in range(6)]) < 0.8


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (64, 20)])
def test_shapes_and_types(size):
    ((image, labels),) = render_samples(0, "train", [0], size)
    assert (image.dtype, image.shape) == (np.uint8, (3, *size))
    assert {k: (str(v.dtype), v.shape) for k, v in labels.items()} == {
        "segmentation": ("uint8", size),
        "depth": ("float32", (1, *size)),
        "normals": ("float32", (3, *size)),
        "edges": ("uint8", (1, *size)),
        "saliency": ("uint8", (1, *size)),
        "keypoints": ("float32", (1, *size)),
        "classification": ("int64", ()),
        "regression": ("float32", (1,)),
    }


def test_labels_are_in_range_and_every_class_is_frequent(many):
    for _, labels in many:
        assert labels["segmentation"].max() < len(CLASSES)
        assert labels["depth"].min() > 0.2 and labels["depth"].max() < 12
        np.testing.assert_allclose(np.linalg.norm(labels["normals"], axis=0), 1, atol=1e-5)
        assert set(np.unique(labels["edges"])) <= {0, 1}
        assert labels["keypoints"].min() >= 0 and labels["keypoints"].max() <= 1
        assert -1 < labels["regression"][0] < 0.2
    pixels = np.bincount(np.concatenate([la["segmentation"].ravel() for _, la in many]), minlength=len(CLASSES))
    assert pixels.min() / pixels.sum() > 0.01
    assert pixels.max() / pixels.sum() < 0.5
    rooms = np.bincount([int(la["classification"]) for _, la in many], minlength=len(ROOM_TYPES))
    assert rooms.min() >= 8


def test_images_are_neither_dark_nor_blown_out(many):
    means = np.array([image.mean() for image, _ in many])
    assert means.min() > 70 and means.max() < 200
    assert np.mean([(image == 255).mean() for image, _ in many]) < 0.03


def test_normals_are_those_of_the_depth_map(many):
    """Back-projected neighbours on one surface span a plane across the normal."""
    size = 48
    checked = 0
    for index in range(16):
        _, labels = many[index]
        scene = build_scene(np.random.Generator(np.random.PCG64(derive_seed(3, "scenes", "train", index))))
        scale = 2 * scene.camera.field / size
        y, x = np.mgrid[0:size, 0:size] + 0.5
        depth = labels["depth"][0].astype(np.float64)
        points = np.stack([(x - size / 2) * scale * depth, (size / 2 - y) * scale * depth, -depth])
        n = labels["normals"].astype(np.float64)
        flat = (np.abs(np.diff(n, axis=2)).max(0) < 1e-6)[:-1] & (np.abs(np.diff(n, axis=1)).max(0) < 1e-6)[:, :-1]
        whole = flat & (labels["edges"][0, :-1, :-1] == 0)
        across, down = np.diff(points, axis=2)[:, :-1], np.diff(points, axis=1)[:, :, :-1]
        for step in (across, down):
            cosine = (step * n[:, :-1, :-1]).sum(0) / np.linalg.norm(step, axis=0)
            np.testing.assert_allclose(cosine[whole], 0, atol=5e-3)
        checked += int(whole.sum())
    assert checked > 10_000


def test_edges_are_where_class_or_depth_or_normal_jumps_and_nowhere_else(many):
    for _, labels in many:
        edges, seg = labels["edges"][0].astype(bool), labels["segmentation"]
        jump = np.zeros_like(edges)
        jump[:, :-1] |= seg[:, :-1] != seg[:, 1:]
        jump[:-1] |= seg[:-1] != seg[1:]
        assert edges[jump].all()
        # Where no edge is, neighbours turn less than 60°, which a ball of a few pixels may, and no face does.
        n = labels["normals"]
        turn = np.ones_like(n[0])
        turn[:, :-1] = np.minimum(turn[:, :-1], (n[:, :, :-1] * n[:, :, 1:]).sum(0))
        turn[:-1] = np.minimum(turn[:-1], (n[:, :-1] * n[:, 1:]).sum(0))
        round_things = (seg == CLASSES.index("sphere")) | (seg == CLASSES.index("cylinder"))
        assert (turn[~edges & ~round_things] > 0.999).all()
        assert edges.mean() < 0.35


def test_key_points_are_seen(many):
    """Each key point in view lies at a maximum of the heat map, and hidden corners have none."""
    scene = scene_of(11)
    stage = Stage([scene])
    _, hits = draw(stage, 64, 64, [np.random.default_rng(0)])
    points = visible_points(scene)
    x, y, depth = scene.camera.project(points, 64, 64)
    inside = (depth > 0) & (x > 1) & (x < 63) & (y > 1) & (y < 63)
    assert inside.sum() >= 3
    heat = LABELS["keypoints"](stage, hits, 64, 64)[0, 0]
    for px, py in zip(x[inside], y[inside], strict=True):
        assert heat[int(py), int(px)] > 0.75
    # A ray to a visible point meets nothing before it, up to the radius of a solid whose centre it is.
    rays = (points[:, inside] - scene.camera.position[:, None]) / depth[inside]
    seen = first_hits(stage, rays[:, None]).depth[0]
    nearest = depth[inside] - max(s.radius for s in scene.solids)
    assert (seen > nearest - 1e-3).all()
    hidden = sum(8 if s.shape is Shape.BOX else 1 for s in scene.solids) + 8 - points.shape[1]
    assert hidden >= sum(s.shape is Shape.BOX for s in scene.solids)  # every box hides a corner of itself


def test_an_empty_room_can_be_drawn_too():
    bare = dataclasses.replace(scene_of(1), solids=(), decals=(), sun=None)
    images, hits = draw(Stage([bare]), 32, 32, [np.random.default_rng(0)])
    assert images.std() > 5 and hits.surface.max() < 6
    again, _ = draw(Stage([scene_of(2), bare]), 32, 32, [np.random.default_rng(9), np.random.default_rng(0)])
    np.testing.assert_array_equal(again[1], images[0])


# The data set


def source(tasks=ALL, **rest):
    parsed = TaskSet.parse(tasks)
    return scenes(parsed, size=(24, 32), seed=0, **{"train_size": 40, "val_size": 10, **rest})


def test_the_source_says_what_it_is():
    data = source("a=segmentation,b=segmentation,room=classification,pitch=regression,depth")
    assert (len(data.train), len(data.val)) == (40, 10)
    assert (data.input.channels, data.input.height, data.input.width) == (3, 24, 32)
    assert dict(data.classes) == {"a": 9, "b": 9, "room": 4, "pitch": 1}
    assert data.class_names["a"] == CLASSES and data.class_names["room"] == ROOM_TYPES
    image, labels = data.train[0]
    assert image.dtype == np.float32 and image.shape == (3, 24, 32) and image.min() >= 0 and image.max() <= 1
    np.testing.assert_array_equal(labels["a"], labels["b"])
    assert set(labels) == {"a", "b", "room", "pitch", "depth"}


def test_kept_and_drawn_again_are_the_same():
    tasks = tuple(TaskSet.parse(ALL))
    options = {"size": (24, 24), "seed": 5, "part": "train", "length": 20}
    whole, none, some = (Scenes(tasks, **options, cache_bytes=b) for b in (2**30, 0, 100_000))
    for index in (19, 0, 7, 19, 3, 0):
        samples = [data[index] for data in (whole, none, some, whole)]
        for image, labels in samples[1:]:
            np.testing.assert_array_equal(image, samples[0][0])
            for name, label in labels.items():
                np.testing.assert_array_equal(label, samples[0][1][name])


def test_the_cache_is_bounded():
    data = Scenes(tuple(TaskSet.parse("depth")), size=(16, 16), seed=0, part="train", length=64, cache_bytes=20_000)
    for index in range(64):
        _ = data[index]
    kept = sum(image.nbytes + sum(la.nbytes for la in labels.values()) for image, labels in data._kept.values())
    assert 10_000 < kept <= 20_000


def test_no_sample_beyond_the_end():
    data = source().train
    for index in (40, -1):
        with pytest.raises(IndexError):
            data[index]
    assert sum(1 for _ in data) == 40  # iteration by index stops there


def test_a_kind_without_labels_is_refused(monkeypatch):
    monkeypatch.delitem(LABELS, "edges")
    with pytest.raises(DataError, match="no labels for task 'rim' of kind 'edges'"):
        source("depth,rim=edges")


def test_too_small_images_are_refused():
    with pytest.raises(DataError, match="8x64 are too small"):
        scenes(TaskSet.parse("depth"), size=(8, 64), seed=0)
