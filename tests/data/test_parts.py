"""Disjoint data sets: batches of each, validation of each, and specs that name them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import pictures

from onnxmtl.data import Parts, batch_at, batches_at, fingerprint, iterate, load_data, parts_of, split
from onnxmtl.data.dataset import DataSource, InputSpec, Subset
from onnxmtl.data.load import split_spec
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet
from onnxmtl.train.objective import evaluate

TASKS = TaskSet.parse("seg=segmentation:4,depth,room=classification:3")


class Tagged:
    """Samples whose image tells set and index; `draw` adds a half."""

    def __init__(self, n, tag, augmented=False):
        self.n, self.tag = n, tag
        if augmented:
            self.draw = lambda index, seed: self._make(index, 0.5 + seed % 7)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self._make(i, 0.0)

    def _make(self, i, more):
        image = np.full((3, 4, 4), 100 * self.tag + i + more, np.float32)
        labels = {"seg": np.full((4, 4), i % 4), "depth": np.ones((1, 4, 4), np.float32), "room": i % 3}
        return image, labels


def joined(a=12, b=7, **rest):
    return Parts([(Tagged(a, 1, **rest), ("seg", "room")), (Tagged(b, 2), ("depth",))])


def tags(batch):
    return batch.images[:, 0, 0, 0].tolist()


def test_a_concatenation_with_the_labels_of_each():
    data = joined()
    assert len(data) == 19
    image, targets = data[11]
    assert image[0, 0, 0] == 111 and set(targets) == {"seg", "room"}
    image, targets = data[12]
    assert image[0, 0, 0] == 200 and set(targets) == {"depth"}
    for index in (-1, 19):
        with pytest.raises(IndexError):
            data[index]
    mixed = batch_at(data, TASKS, batch_size=19, seed=0, stream="s", step=0)
    assert mixed.labelled["seg"].sum() == 12 and mixed.labelled["depth"].sum() == 7
    assert (mixed.targets["seg"][~mixed.labelled["seg"]] == 255).all()


def test_a_step_has_a_batch_of_each():
    data = joined()
    batches = batches_at(data, TASKS, batch_size=5, seed=3, stream="s", step=2)
    assert [batch.tasks for batch in batches] == [("seg", "room"), ("depth",)]
    assert [len(batch) for batch in batches] == [5, 5]
    assert all(100 <= tag < 200 for tag in tags(batches[0])) and all(tag >= 200 for tag in tags(batches[1]))
    assert set(batches[1].targets) == {"depth"} and batches[1].labelled["depth"].all()
    again = batches_at(data, TASKS, batch_size=5, seed=3, stream="s", step=2)
    assert [tags(batch) for batch in batches] == [tags(batch) for batch in again]


def test_joint_labels_are_the_case_of_one():
    data = Tagged(9, 1)
    (batch,) = batches_at(data, TASKS, batch_size=4, seed=3, stream="s", step=2)
    same = batch_at(data, TASKS, batch_size=4, seed=3, stream="s", step=2)
    assert batch.tasks == TASKS.names and batch.images.equal(same.images)
    assert all(batch.targets[name].equal(same.targets[name]) for name in TASKS.names)


def test_a_task_alone_sees_what_it_sees_beside_others():
    data = joined()
    options = {"batch_size": 4, "seed": 1, "stream": "train", "step": 5}
    beside = {name: batch for batch in batches_at(data, TASKS, **options) for name in batch.tasks}
    for task in TASKS:
        (alone,) = batches_at(data, TaskSet((task,)), **options)
        assert alone.tasks == (task.name,) and tags(alone) == tags(beside[task.name])


def test_a_set_named_twice_shows_other_images():
    data = Parts([(Tagged(50, 1), ("seg",)), (Tagged(50, 1), ("depth",))])
    first, second = batches_at(
        data, TaskSet.parse("seg=segmentation:4,depth"), batch_size=20, seed=0, stream="s", step=0
    )
    assert tags(first) != tags(second)


def test_evaluation_goes_through_one_after_the_other():
    batches = list(iterate(joined(), TASKS, 5))
    assert [(batch.tasks, len(batch)) for batch in batches] == [
        (("seg", "room"), 5), (("seg", "room"), 5), (("seg", "room"), 2), (("depth",), 5), (("depth",), 2),
    ]  # fmt: skip
    assert [tag for batch in batches for tag in tags(batch)] == [*range(100, 112), *range(200, 207)]


def test_each_task_is_measured_on_its_own_set():
    """As if each set had been evaluated by itself; nothing is asked of a network that its set has no labels for."""

    class Network:
        training = True

        def __init__(self):
            self.asked = []

        def train(self, mode=True):
            self.training = mode
            return self

        def eval(self):
            return self.train(False)

        def __call__(self, images, tasks=None, draw=None):
            assert not self.training
            self.asked.append(tasks)
            level = images.mean((1, 2, 3)) % 100
            outputs = {
                "seg": torch.nn.functional.one_hot(level.long() % 3, 4).float()[:, :, None, None].expand(-1, 4, 4, 4),
                "depth": (1 + level / 10)[:, None, None, None].expand(-1, 1, 4, 4),
                "room": torch.nn.functional.one_hot(level.long() % 2, 3).float(),
            }
            return {name: value for name, value in outputs.items() if tasks is None or name in tasks}

    network, data = Network(), joined()
    options = {"batch_size": 5, "device": torch.device("cpu")}
    together = evaluate(network, TASKS, data, **options)
    assert set(network.asked) == {("seg", "room"), ("depth",)} and network.training
    for dataset, names in data.parts:
        alone = evaluate(network, TaskSet(tuple(TASKS[name] for name in names)), dataset, **options)
        assert alone == {name: together[name] for name in names}
    assert together["room"]["accuracy"] == pytest.approx(4 / 12)  # i % 2 == i % 3
    assert together["depth"]["abs"] == pytest.approx(np.mean(np.arange(7)) / 10)


def test_splitting_splits_each():
    kept, held = split(joined(), 0.75, 0)
    assert [len(part.dataset) for part in parts_of(kept, TASKS)] == [9, 5]
    assert [len(part.dataset) for part in parts_of(held, TASKS)] == [3, 2]
    assert [part.tasks.names for part in parts_of(held, TASKS)] == [("seg", "room"), ("depth",)]
    seen = [int(half[i][0][0, 0, 0]) for half in (kept, held) for i in range(len(half))]
    assert sorted(seen) == [*range(100, 112), *range(200, 207)]


def test_a_task_that_nothing_labels():
    with pytest.raises(
        DataError, match=r"none of the data sets labels task 'normals': name one for it, as in normals="
    ):
        batches_at(joined(), TaskSet.parse("seg=segmentation:4,normals"), batch_size=2, seed=0, stream="s", step=0)


# Augmentation


def test_training_draws_and_evaluation_does_not():
    data = Tagged(6, 1, augmented=True)
    kept, _ = split(data, 0.5, 0)
    for dataset in (data, Subset(data, (2, 3, 4)), kept, joined(6, 5, augmented=True)):
        plain = {tag for batch in iterate(dataset, TASKS, 3) for tag in tags(batch)}
        assert all(tag % 1 == 0 for tag in plain)
        options = {"batch_size": len(dataset), "seed": 4, "stream": "s"}
        epochs = [
            {int(t): t for b in batches_at(dataset, TASKS, **options, step=e) for t in tags(b) if t % 1}
            for e in range(5)
        ]
        assert len({tuple(sorted(epoch.values())) for epoch in epochs}) > 1  # another draw each epoch
        again = batches_at(dataset, TASKS, **options, step=3)
        assert {int(t): t for b in again for t in tags(b) if t % 1} == epochs[3]


def test_draws_depend_on_sample_and_epoch_not_on_the_batch():
    data = Tagged(12, 0, augmented=True)
    one = [tags(batch_at(data, TASKS, batch_size=4, seed=0, stream="s", step=k)) for k in range(6)]
    other = [tags(batch_at(data, TASKS, batch_size=6, seed=0, stream="s", step=k)) for k in range(4)]
    assert list(itertools.chain(*one)) == list(itertools.chain(*other))


# By name


def test_specs_for_tasks():
    assert split_spec("seg+room=nyuv2:/a;depth = own:make") == [(("seg", "room"), "nyuv2:/a"), (("depth",), "own:make")]
    assert split_spec("seg=a:/x,depth=b:/y") == [(("seg",), "a:/x"), (("depth",), "b:/y")]
    assert split_spec("seg=scenes") == [(("seg",), "scenes")]
    for plain in ("scenes", "nyuv2:/data/a=b,c=d", "own_data:make", "nyuv2:/a,b"):
        assert split_spec(plain) == []
    with pytest.raises(DataError, match="cannot read 'depth:own' of --data"):
        split_spec("seg=scenes;depth:own")


def test_disjoint_sources_by_name():
    tasks = TaskSet.parse("seg=segmentation,depth")
    spec = "seg=scenes;depth=scenes"
    data = load_data(spec, tasks, size=(16, 16), seed=0, train_size=6, val_size=4)
    assert data.name == "seg=scenes;depth=scenes" and (len(data.train), len(data.val)) == (12, 8)
    assert data.classes == {"seg": 9} and data.input == InputSpec(height=16, width=16)
    first, second = batches_at(data.train, tasks.with_classes(data.classes), batch_size=3, seed=0, stream="s", step=0)
    assert first.tasks == ("seg",) and second.tasks == ("depth",)


def test_a_comma_may_be_part_of_a_path():
    assert split_spec("seg=nyuv2:/a,b/c") == [(("seg",), "nyuv2:/a,b/c")]
    assert split_spec("nyuv2:/a,b/c") == split_spec("nyuv2:/a,seg=b") == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("seg=scenes;dept=scenes", r"is for task 'dept', which is not there \(did you mean 'depth'\?\)"),
        ("seg=scenes", "no data for task 'depth': name a set for each task, as in depth=NAME:PATH"),
        ("seg=scenes;depth=scene", "unknown data 'scene'"),
    ],
)
def test_disjoint_specs_that_do_not_fit(spec, words):
    with pytest.raises(DataError, match=words):
        load_data(spec, TaskSet.parse("seg=segmentation,depth"), size=(16, 16), seed=0)


def test_sets_that_prepare_images_in_other_ways(tmp_path):
    spec = f"seg=scenes;depth=nyuv2:{pictures.nyuv2(tmp_path / 'n')}"
    tasks = TaskSet.parse("seg=segmentation,depth")
    with pytest.raises(DataError, match=r"differ in the mean and scale of their images: .*option normalise"):
        load_data(spec, tasks, size=(16, 16), seed=0)
    found = load_data(spec, tasks, size=(16, 16), seed=0, options={"depth.normalise": "unit"})
    assert found.input == InputSpec(height=16, width=16)


def test_options_go_to_the_set_of_their_task():
    tasks = TaskSet.parse("seg=segmentation,depth")
    for options in ({"seg.fresh": "yes"}, {"fresh": "yes"}):
        with pytest.raises(DataError, match="it has no files and no options, leave 'fresh' out"):
            load_data("seg=scenes;depth=scenes", tasks, size=(16, 16), seed=0, options=options)
    with pytest.raises(DataError, match="there is no task 'room'"):
        load_data("seg=scenes;depth=scenes", tasks, size=(16, 16), seed=0, options={"room.x": "1"})


# Fingerprints


def source(train=None, val=None, **changes):
    fields = {"name": "x", "train": train or Tagged(20, 1), "val": val or Tagged(5, 2), "input": InputSpec()}
    return DataSource(**{**fields, **changes})


def test_fingerprints_tell_sources_apart():
    plain = fingerprint(source())
    assert plain == fingerprint(source()) and len(plain) == 64

    class Torch(Tagged):
        def _make(self, i, more):
            image, labels = super()._make(i, more)
            return torch.from_numpy(image), labels

    others = [
        source(train=Tagged(21, 1)),
        source(train=Tagged(20, 3)),
        source(val=Tagged(5, 1)),
        source(train=Tagged(20, 1, augmented=True)),
        source(input=InputSpec(mean=(1, 1, 1))),
        source(classes={"seg": 4}),
        source(class_weights={"seg": (1.0, 2.0)}),
        source(train=joined()),
        source(train=joined(11, 8)),
    ]
    found = [plain, *map(fingerprint, others)]
    assert len(set(found)) == len(found)
    assert fingerprint(source(train=Torch(20, 1))) == plain  # the same numbers


def test_fingerprints_see_what_each_part_draws():
    """Each set, not only the first, may show training something else than the plain samples."""
    plain, drawn = (source(train=Parts([(Tagged(6, 1), ["a"]), (Tagged(6, 2, augmented=augmented), ["b"])]))
                    for augmented in (False, True))  # fmt: skip
    assert fingerprint(plain) != fingerprint(drawn)
