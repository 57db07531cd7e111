"""Rays, faces and distances of single solids, against marching along the ray."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.data.scenes.solids import OUTWARD, Columns, Shape, Solid, distance, interval, leave_room, surface

lengths = st.floats(0.2, 1.0)
places = st.floats(-1.0, 1.0)


@st.composite
def solids(draw):
    shape = draw(st.sampled_from(Shape))
    a, b, c = draw(lengths), draw(lengths), draw(lengths)
    half = {Shape.BOX: (a, b, c), Shape.SPHERE: (a, a, a), Shape.CYLINDER: (a, a, c)}[shape]
    yaw = draw(st.floats(0, math.pi)) if shape is Shape.BOX else 0.0
    return Solid(shape, (draw(places), draw(places), draw(places)), half, yaw)


def gap(solid, points):
    columns = Columns.of([solid])
    index = np.zeros(points.shape[1], np.int64)
    return distance(solid.shape, columns.half[:, index], columns.local(points.astype(np.float32), index))


def enter(solid, origin, direction):
    columns = Columns.of([solid])
    index = np.zeros(1, np.int64)
    local = columns.local(origin, index), columns.turn_in(direction, index)
    first, last = interval(solid.shape, columns.half[:, index], *local)
    return float(first[0]), float(last[0])


@settings(max_examples=150, deadline=None)
@given(
    solid=solids(), angle=st.floats(0, 2 * math.pi), height=st.floats(-2.5, 2.5), aim=st.tuples(places, places, places)
)
def test_rays_enter_and_leave_where_the_distance_is_zero(solid, angle, height, aim):
    origin = np.array([[5 * math.cos(angle)], [5 * math.sin(angle)], [height]], np.float32)
    direction = np.array(solid.centre, np.float32)[:, None] + 0.9 * np.array(aim, np.float32)[:, None] - origin
    first, last = enter(solid, origin, direction)
    steps = np.linspace(0, 2, 801)
    along = gap(solid, origin + direction * steps)
    if first < last:
        ends = gap(solid, origin + direction * np.array([first, last]))
        np.testing.assert_allclose(ends, 0, atol=2e-4)
        middle = gap(solid, origin + direction * ((first + last) / 2))
        assert middle[0] < 1e-4
        outside = (steps < first - 1e-3) | (steps > last + 1e-3)
        assert (along[outside] > 0).all()
    else:
        assert along.min() > -1e-3


@settings(max_examples=80, deadline=None)
@given(solid=solids(), angle=st.floats(0, 2 * math.pi), height=st.floats(-0.9, 0.9))
def test_normals_point_out_of_the_face(solid, angle, height):
    origin = np.array([[5 * math.cos(angle)], [5 * math.sin(angle)], [3 * height]], np.float32)
    target = np.array(solid.centre, np.float32)[:, None] + np.array(
        [[0], [0], [0.3 * height * solid.half[2]]], np.float32
    )
    first, last = enter(solid, origin, target - origin)
    assert first < last  # the target is inside
    point = origin + first * (target - origin)
    columns, index = Columns.of([solid]), np.zeros(1, np.int64)
    _, normal, _ = surface(solid.shape, columns.half[:, index], columns.local(point, index))
    normal = columns.turn_out(normal, index)
    assert np.linalg.norm(normal) == pytest.approx(1, abs=1e-5)
    assert float((normal * (target - origin)).sum()) < 0
    for step in (0.01, 0.05):
        assert float(gap(solid, point + step * normal)[0]) == pytest.approx(step, abs=2e-4)


def test_corners_of_a_turned_box_lie_on_it():
    box = Solid(Shape.BOX, (0.3, -0.2, 0.5), (0.4, 0.7, 0.2), 0.6)
    corners = np.array(box.corners, np.float32).T
    np.testing.assert_allclose(gap(box, corners), 0, atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(corners - np.array([[0.3], [-0.2], [0.5]]), axis=0), box.radius, rtol=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(share=st.tuples(*[st.floats(0.05, 0.95)] * 3), direction=st.tuples(*[st.floats(-1, 1)] * 3))
def test_rays_leave_the_room_through_the_face_they_say(share, direction):
    size = np.array([[4.0], [5.0], [2.5]], np.float32)
    d = np.array(direction, np.float32)[:, None]
    if np.abs(d).max() < 1e-2:
        return
    origin = size * np.array(share, np.float32)[:, None]
    t, face = leave_room(size, origin, d)
    point = origin + t * d
    assert (point > -1e-3).all() and (point < size + 1e-3).all()
    axis, high = int(face[0]) >> 1, int(face[0]) & 1
    assert float(point[axis, 0]) == pytest.approx(float(size[axis, 0]) * high, abs=1e-3)
    assert float(OUTWARD[axis, face[0]] * d[axis, 0]) > 0
