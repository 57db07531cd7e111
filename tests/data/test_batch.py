"""Batches: what is stacked, what is refused with which words, and which samples a step has."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.data import Subset, batch_at, collate, indices_at, iterate, split
from onnxmtl.data.dataset import InputSpec
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet

TASKS = TaskSet.parse("seg=segmentation:4,depth,normals,edges,keypoints,room=classification:3,pose=regression")
SIZE = (6, 5)


def sample(i=0, **changes):
    rng = np.random.default_rng(i)
    h, w = SIZE
    normals = rng.standard_normal((3, h, w)).astype(np.float32)
    targets = {
        "seg": rng.integers(0, 4, (h, w)),
        "depth": rng.random((1, h, w), np.float32) + 1,
        "normals": normals / np.linalg.norm(normals, axis=0),
        "edges": rng.integers(0, 2, (1, h, w)).astype(np.float32),
        "keypoints": rng.random((1, h, w), np.float32),
        "room": np.int64(i % 3),
        "pose": np.array([float(i)], np.float32),
        **changes,
    }
    image = targets.pop("image", np.full((3, h, w), i / 100, np.float32))
    return image, targets


class Numbered:
    """A data set that keeps count of what it was asked."""

    def __init__(self, n):
        self.n, self.asked = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.asked.append(i)
        return sample(i)


def test_a_batch_holds_the_samples():
    batch = collate([sample(0), sample(1)], TASKS)
    assert batch.images.dtype == torch.float32 and list(batch.images.shape) == [2, 3, *SIZE]
    shapes = {name: (str(t.dtype), list(t.shape)) for name, t in batch.targets.items()}
    assert shapes == {
        "seg": ("torch.int64", [2, *SIZE]),
        "depth": ("torch.float32", [2, 1, *SIZE]),
        "normals": ("torch.float32", [2, 3, *SIZE]),
        "edges": ("torch.float32", [2, 1, *SIZE]),
        "keypoints": ("torch.float32", [2, 1, *SIZE]),
        "room": ("torch.int64", [2]),
        "pose": ("torch.float32", [2, 1]),
    }
    np.testing.assert_array_equal(batch.targets["seg"][1], sample(1)[1]["seg"])
    assert all(mask.dtype == torch.bool and mask.all() for mask in batch.labelled.values())
    assert batch.to("cpu").targets["seg"].equal(batch.targets["seg"]) and len(batch) == 2


def test_missing_labels_are_filled_with_what_does_not_count():
    image, targets = sample(1)
    nothing = {name: None for name in targets if name != "depth"}
    batch = collate([(image, nothing), (image, targets)], TASKS)
    for name, fill in {"seg": 255, "depth": 0, "normals": 0, "edges": 255, "keypoints": 255, "room": 255}.items():
        assert (batch.targets[name][0] == fill).all(), name
        assert batch.labelled[name].tolist() == [False, True]
    assert batch.targets["pose"][0].isnan().all()
    np.testing.assert_array_equal(batch.targets["depth"][1], targets["depth"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seg", np.zeros(SIZE, np.uint8)),
        ("seg", torch.zeros(SIZE, dtype=torch.int32)),
        ("seg", np.full(SIZE, 255)),
        ("seg", np.full(SIZE, -1)),
        ("seg", np.zeros(SIZE, np.uint16)),
        ("room", 2),
        ("room", torch.tensor(1)),
        ("room", -1),
        ("pose", 1.5),
        ("pose", [1.5]),
        ("pose", np.float64(2)),
        ("edges", np.full((1, *SIZE), 255, np.float32)),
        ("depth", np.full((1, *SIZE), -1, np.float32)),
        ("depth", torch.ones(1, *SIZE, requires_grad=True)),
        ("image", np.zeros((*SIZE, 3), np.uint8)),
        ("image", np.zeros((3, *SIZE), np.float32)[:, ::-1]),
    ],
)
def test_what_is_taken(field, value):
    batch = collate([sample(0, **{field: value}), sample(1)], TASKS)
    if field != "image":
        assert batch.targets[field].dtype == {"seg": torch.int64, "room": torch.int64}.get(field, torch.float32)
        expected = np.asarray(torch.as_tensor(np.asarray(value) if field == "pose" else value).detach(), np.float64)
        np.testing.assert_array_equal(batch.targets[field][0].double().numpy().ravel(), expected.ravel())


def test_bytes_become_floats():
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    image = collate([sample(0, image=pixels)], TASKS).images[0]
    np.testing.assert_allclose(image.numpy(), pixels.transpose(2, 0, 1) / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("seg", np.zeros((5, 5), np.int64), ["task 'seg'", "expected int64 [6, 5]", "got int64 [5, 5]"]),
        ("seg", np.zeros((1, *SIZE), np.int64), ["got int64 [1, 6, 5]"]),
        ("seg", np.zeros(SIZE, np.float32), ["got float32 [6, 5]"]),
        ("seg", np.full(SIZE, 4), ["class 4 is not one of the 4 classes"]),
        ("room", 3, ["task 'room'", "class 3 is not one of the 3 classes"]),
        ("room", [1, 2], ["expected int64 []", "got int64 [2]"]),
        ("depth", np.ones(SIZE, np.float32), ["expected float32 [1, 6, 5]", "got float32 [6, 5]"]),
        ("depth", np.ones((1, *SIZE)), ["got float64"]),
        ("normals", np.full((3, *SIZE), 255, np.float32), ["a component is 255", "unit vectors"]),
        ("edges", np.full((1, *SIZE), 7, np.float32), ["value 7 is outside [0, 1]"]),
        ("pose", [1.0, 2.0], ["expected float32 [1]", "got float32 [2]"]),
        ("pose", "left", ["task 'pose'", "got a str"]),
        ("seg", object(), ["task 'seg'", "got a object"]),
        ("image", np.zeros((3, *SIZE)), ["image", "expected float32 [C, H, W]", "got float64 [3, 6, 5]"]),
        ("image", np.zeros((3, *SIZE), np.uint8), ["image", "or uint8 [H, W, C]", "got uint8 [3, 6, 5]"]),
        ("image", np.zeros(SIZE, np.float32), ["got float32 [6, 5]"]),
        ("image", np.full((3, *SIZE), np.nan, np.float32), ["image", "nan or infinity"]),
        ("image", None, ["image"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(field, value, words):
    with pytest.raises(DataError) as caught:
        collate([sample(0), sample(1, **{field: value})], TASKS, indices=(10, 17))
    message = str(caught.value)
    assert message.startswith("sample 17, ") and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "thing", [None, np.zeros(3), (np.zeros(3),), (1, 2, 3), (np.zeros((3, 6, 5), np.float32), [1])]
)
def test_what_is_no_sample_is_refused(thing):
    with pytest.raises(DataError, match=r"sample 0: a sample must be a pair \(image, \{task: target\}\)"):
        collate([thing], TASKS)


def test_images_of_two_sizes_are_refused():
    only = TaskSet.parse("room=classification:3")
    big = (np.zeros((3, 8, 8), np.float32), {"room": 0})
    with pytest.raises(DataError, match=r"sample 1, image: expected \[3, 6, 5\] as sample 0 has, got \[3, 8, 8\]"):
        collate([sample(0), big], only)


def test_open_classes_are_not_checked():
    tasks = TaskSet.parse("seg=segmentation")
    assert collate([sample(0, seg=np.full(SIZE, 99))], tasks).targets["seg"].max() == 99


@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 17),
    seed=st.integers(0, 2**40),
    stream=st.sampled_from(["train", "policy"]),
    epochs=st.integers(1, 3),
)
def test_every_epoch_has_every_sample_once(n, batch_size, seed, stream, epochs):
    steps = -(-epochs * n // batch_size)
    options = {"batch_size": batch_size, "seed": seed, "stream": stream}
    batches = [indices_at(n, **options, step=step) for step in range(steps)]
    assert all(len(batch) == batch_size for batch in batches)
    order = [i for batch in batches for i in batch]
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))
    # Asked again, in another order: the same.
    assert [indices_at(n, **options, step=step) for step in reversed(range(steps))] == batches[::-1]


def test_epochs_streams_and_seeds_have_their_own_orders():
    def order(seed=0, stream="a", epoch=0):
        return indices_at(50, batch_size=50, seed=seed, stream=stream, step=epoch)

    assert len({order(), order(epoch=1), order(stream="b"), order(seed=1)}) == 4


def test_batch_at_reads_only_its_samples():
    data = Numbered(10)
    batch = batch_at(data, TASKS, batch_size=4, seed=3, stream="s", step=7)
    assert tuple(data.asked) == batch.indices == indices_at(10, batch_size=4, seed=3, stream="s", step=7)
    assert batch.targets["pose"][:, 0].tolist() == list(batch.indices)


def test_iterate_goes_through_in_order():
    batches = list(iterate(Numbered(7), TASKS, 3))
    assert [batch.indices for batch in batches] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert [len(batch) for batch in batches] == [3, 3, 1]


def test_threads_change_nothing_but_time():
    class Slow(Numbered):
        parallel = True

        def __init__(self, n):
            super().__init__(n)
            self.threads = set()

        def __getitem__(self, i):
            time.sleep(0.001 * (i % 3))  # later ones are ready earlier
            self.threads.add(threading.get_ident())
            if i == 11:
                raise KeyError("gone")
            return super().__getitem__(i)

    slow, plain = Slow(11), Numbered(11)
    for dataset, same in ((slow, plain), (Subset(slow, range(11)), Subset(plain, range(11)))):
        options = {"batch_size": 8, "seed": 1, "stream": "s", "step": 3}
        one, other = (batch_at(d, TASKS, **options) for d in (dataset, same))
        assert one.indices == other.indices and one.images.equal(other.images)
        assert [b.indices for b in iterate(dataset, TASKS, 4)] == [b.indices for b in iterate(same, TASKS, 4)]
    assert threading.get_ident() not in slow.threads
    with pytest.raises(DataError, match="sample 11: the data set raised KeyError"):
        list(iterate(Slow(12), TASKS, 4))


def test_errors_of_the_data_set_are_told_with_the_index():
    class Broken(Numbered):
        def __getitem__(self, i):
            if i == 2:
                raise KeyError("missing\nfile")
            return super().__getitem__(i)

    with pytest.raises(DataError, match=r"^sample 2: the data set raised KeyError: 'missing\\nfile'$") as caught:
        list(iterate(Broken(4), TASKS, 2))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(DataError, match="data set is empty"):
        batch_at(Numbered(0), TASKS, batch_size=2, seed=0, stream="s", step=0)
    with pytest.raises(DataError, match="data set is empty"):
        collate([], TASKS)


@given(n=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_split_is_a_partition(n, fraction, seed):
    first, second = split(Numbered(n), fraction, seed)
    assert sorted(first.indices + second.indices) == list(range(n))
    assert len(first) >= 1 and len(second) >= 1
    assert abs(len(first) - fraction * n) <= 1
    again, _ = split(Numbered(n), fraction, seed)
    assert first.indices == again.indices
    image, _ = first[0]
    assert image[0, 0, 0] == pytest.approx(first.indices[0] / 100)


def test_split_refuses_what_cannot_be_split():
    with pytest.raises(DataError, match="fraction must lie between 0 and 1"):
        split(Numbered(4), 1.0, 0)
    with pytest.raises(DataError, match="1 sample"):
        split(Numbered(1), 0.5, 0)
    with pytest.raises(IndexError):
        split(Numbered(4), 0.5, 0)[0][2]


def test_input_spec_fills_and_checks():
    assert InputSpec(channels=2).mean == (0.0, 0.0) and InputSpec().scale == (1.0, 1.0, 1.0)
    with pytest.raises(DataError, match="3 channels need as many means"):
        InputSpec(mean=(0.5,))
