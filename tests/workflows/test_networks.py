"""One trained network per task in the place of one backbone: import, preprocessing, recipes, resume, refusals."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers.compiling import QUICK, digests
from helpers.fusing import pooled
from helpers.graphs import GraphBuilder, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import onnxmtl
from onnxmtl import cli, runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.data import InputSpec
from onnxmtl.errors import ModelError, OnnxMTLError, RunError, TaskError
from onnxmtl.ir import Role, diagnostics, role_of, save, sources, to_bytes
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.passes.finalize.contract import CONTRACT_KEY
from onnxmtl.passes.networks import given_networks
from onnxmtl.search import recipe_named
from onnxmtl.workflows import BackboneSet, CompileConfig
from onnxmtl.workflows.networks import for_networks, prepare_networks, preprocessing, source_of
from onnxmtl.workflows.source import Source

TASKS = "seg=segmentation,depth"
RECIPES = ("mtlnas", "cross-stitch", "sluice", "nddr")
CLASSES = 9  # of the data set `scenes`


def vgg(task: str = "out", channels: int = 1, size: int = 16) -> ir.Model:
    """Two stages of two convolutions without normalization, the one like another network's in stride alone."""
    b = GraphBuilder(3, size=size)
    x = b.relu(b.conv(b.relu(b.conv(b.image, 4, name="stem")), 4))
    x = pooled(b, x)
    return b.heads(b.relu(b.conv(b.relu(b.conv(x, 6)), 6)), {task: channels})


def baked(size: int) -> ir.Model:
    """A network whose head holds the image size."""
    b = GraphBuilder(1, size=size)
    x = b.block(b.image, 4, name="stem", stride=2)
    b.task = "room"
    flat = b.node("Flatten", [x], ["N", size * size])
    raw = b.node("Gemm", [flat, b.weight("fc", b.rng.normal(0, 0.1, (4, size * size)))], ["N", 4], transB=1)
    b.task = None
    b.graph.outputs.append(raw)
    return ir.Model(b.graph, ir_version=10)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Files of two different networks, for segmentation and for depth; and of others."""
    folder = tmp_path_factory.mktemp("nets")
    models = {
        "seg": small_resnet({"out": CLASSES}, size=16),
        "depth": vgg(),
        "large": vgg(size=32),
        "baked": baked(32),
        "odd": small_resnet({"out": 4}, size=16),
    }
    return {name: save(model, folder / f"{name}.onnx") for name, model in models.items()}


@pytest.fixture(scope="module")
def pair(nets):
    return [nets["seg"], nets["depth"]]


@pytest.fixture(scope="module")
def compiled(pair, tmp_path_factory):
    """With all that is compared, as the user calls it."""
    out = tmp_path_factory.mktemp("mtlnas") / "run"
    options = {**QUICK, "baselines": ("single-task", "hard-sharing")}
    return onnxmtl.compile(pair, TASKS, recipe="mtlnas", out=out, checkpoint_every=1, **options)


def prepared(networks, tasks=TASKS, recipe="mtlnas", **options):
    config = CompileConfig(recipe=recipe, steps=6, batch_size=2, train_size=8, val_size=4, **options)
    method = for_networks(recipe_named(recipe), config)
    return prepare_networks(BackboneSet(networks), TaskSet.parse(tasks), config, method)


def images(size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, size, size)).astype(np.float32)


def outputs(model: ir.Model | onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    data = to_bytes(model) if isinstance(model, ir.Model) else model.SerializeToString()
    runner = runtime.session(data, optimize=False)
    return list(runner.run(None, {runner.get_inputs()[0].name: pixels}))


# What the search starts from


def test_the_graph_computes_what_the_files_compute(nets, pair):
    """The native prediction, before it is made as large as the image, bit for bit."""
    made = prepared(pair)
    native = [node for node in made.multitask.graph if node.name.endswith("predict")]
    made.multitask.graph.outputs[:] = [node.outputs[0] for node in native]
    for found, name in zip(outputs(made.multitask, images()), ("seg", "depth"), strict=True):
        np.testing.assert_array_equal(found, outputs(onnx.load(nets[name]), images())[0])


def test_trained_heads_are_not_started_from_the_labels(pair, nets):
    made = prepared(pair)
    for graph in (made.multitask, made.supermodel):
        bias = next(v for n, v in graph.graph.initializers.items() if n == "seg/out.predict.bias")
        given = onnx.load(nets["seg"])
        (kept,) = [onnx.numpy_helper.to_array(t) for t in given.graph.initializer if t.name == "out.predict.bias"]
        np.testing.assert_array_equal(bias.const_value.numpy(), kept)
        assert role_of(bias) is Role.HEAD
    assert given_networks(made.multitask) == given_networks(made.supermodel) == ("seg", "depth")
    assert "networks-given" in [remark.code for remark in diagnostics(made.backbone)]
    assert made.separate is None


def test_new_heads_on_networks_of_any_kind(nets):
    made = prepared([nets["odd"], nets["baked"]], heads="new", input_size=(16, 16))
    names = made.multitask.graph.initializers
    assert any(name.startswith("seg_head/") for name in names) and any(name.startswith("depth_head/") for name in names)
    assert not {"seg/out.predict.bias", "depth/fc"} & set(names) and "depth/stem.weight" in names
    assert made.separate is not None  # the heads are not trained


def test_layers_keep_their_names_behind_the_task_s(pair):
    made = prepared(pair)
    found = {name for node in made.backbone.graph for name in sources(node)}
    assert {"seg/stem", "depth/stem"} <= found
    assert all(name.startswith(("seg/", "depth/")) for name in found)
    sites = site_table(made.supermodel).sites
    assert sites and all({s.id.partition("/")[0] for s in sites} == {"seg", "depth"} for _ in sites)


def test_a_number_of_classes_that_the_data_set_does_not_tell_is_the_network_s(nets, own_data):
    made = prepared([nets["odd"], nets["depth"]], "thing=segmentation,depth", data=f"{own_data}:things")
    assert made.tasks["thing"].channels == 4


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A data set that does not know its classes."""
    name = f"things_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        """
import numpy as np

class Things:
    def __len__(self):
        return 8
    def __getitem__(self, index):
        image = np.random.default_rng(index).random((3, 16, 16)).astype(np.float32)
        return image, {"thing": (image[0] * 3.9).astype(np.int64), "depth": image[:1] + 1}

def things(): return Things(), Things()
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_images_have_one_size(nets):
    """The first network's, or the one asked for; networks that take any size are brought to it."""
    made = prepared([nets["seg"], nets["large"]])
    assert list(made.multitask.graph.inputs[0].shape)[1:] == [3, 16, 16]
    made = prepared([nets["seg"], nets["large"]], input_size=(24, 32))
    assert list(made.multitask.graph.inputs[0].shape)[1:] == [3, 24, 32]
    with pytest.raises(ModelError, match=r"baked\.onnx.*does not take 16x16 images, it was exported for 32x32"):
        prepared([nets["seg"], nets["baked"]], "seg=segmentation,room=classification")


# What a network does to images


NUMBER = st.floats(-2, 2).map(lambda number: round(number, 3))
FACTOR = st.floats(0.1, 4).map(lambda number: round(number, 3))
THREE = st.tuples(NUMBER, NUMBER, NUMBER)
FACTORS = st.tuples(FACTOR, FACTOR, FACTOR)


def contracted(spec: InputSpec) -> ir.Model:
    model = vgg()
    said = {
        "channels": spec.channels, "range": list(spec.range), "mean": list(spec.mean), "scale": list(spec.scale),
        "colour": spec.colour,
    }  # fmt: skip
    model.metadata_props[CONTRACT_KEY] = json.dumps({"input": said})
    return model


@settings(max_examples=50, deadline=None)
@given(THREE, FACTORS, THREE, FACTORS)
def test_mean_and_std_of_the_task(mean, scale, own_mean, own_std):
    """From (v - mean)·scale of the data set to (v - own mean) / own std."""
    images = InputSpec(mean=mean, scale=scale, range=(0.0, 255.0))
    found = preprocessing(vgg(), Task("depth", "depth", mean=own_mean, std=own_std), images)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 3))
    given = (pixels - mean) * scale
    np.testing.assert_allclose(given * found.scale + found.shift, (pixels - own_mean) / own_std, rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(THREE, FACTORS, THREE, FACTORS, st.sampled_from(["RGB", "BGR"]), st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]))
def test_the_contract_of_an_emitted_model(mean, scale, own_mean, own_scale, colour, own_range):
    """Other range and order of colours, too."""
    images = InputSpec(mean=mean, scale=scale, range=(0.0, 255.0))
    own = InputSpec(mean=own_mean, scale=own_scale, range=own_range, colour=colour)
    found = preprocessing(contracted(own), Task("depth", "depth"), images)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 3))
    given = ((pixels - mean) * scale)[:, ::-1] if colour == "BGR" else (pixels - mean) * scale
    low, high = own_range
    wanted = pixels[:, ::-1] if colour == "BGR" else pixels
    wanted = ((wanted / 255 * (high - low) + low) - own_mean) * own_scale
    assert found.reverse == (colour == "BGR")
    np.testing.assert_allclose(given * found.scale + found.shift, wanted, rtol=1e-9, atol=1e-9)


def test_equal_preprocessing_is_none_and_the_task_has_the_last_word():
    spec = InputSpec(mean=(0.485, 0.456, 0.406), scale=tuple(1 / s for s in (0.229, 0.224, 0.225)))
    depth = Task("depth", "depth")
    assert preprocessing(vgg(), depth, spec) is None
    assert preprocessing(contracted(spec), depth, spec).neutral
    same = depth.replace(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert preprocessing(contracted(InputSpec()), same, spec).neutral
    assert not preprocessing(contracted(InputSpec()), depth, spec).neutral


def test_each_network_sees_images_as_it_was_trained(nets, pair, tmp_path):
    """The whole way: a task file, the joined graph, onnxruntime."""
    file = tmp_path / "tasks.toml"
    file.write_text(
        '[tasks.seg]\nkind = "segmentation"\n'
        '[tasks.depth]\nkind = "depth"\nmean = [0.5, 0.4, 0.3]\nstd = [0.5, 0.25, 0.2]\n'
    )
    config = CompileConfig(recipe="nddr", steps=6, batch_size=2, train_size=8, val_size=4)
    tasks = TaskSet.from_toml(file)
    made = prepare_networks(BackboneSet(pair), tasks, config, for_networks(recipe_named("nddr"), config))
    native = [node.outputs[0] for node in made.multitask.graph if node.name.endswith("predict")]
    made.multitask.graph.outputs[:] = native
    found = outputs(made.multitask, images())
    mean, std = (np.float32(numbers).reshape(1, 3, 1, 1) for numbers in ([0.5, 0.4, 0.3], [0.5, 0.25, 0.2]))
    own = (images() - mean) / std
    np.testing.assert_array_equal(found[0], outputs(onnx.load(nets["seg"]), images())[0])
    np.testing.assert_allclose(found[1], outputs(onnx.load(nets["depth"]), own)[0], rtol=1e-5, atol=1e-5)


# Whole runs


def test_two_networks_become_one_model(compiled, pair):
    assert onnxmtl.verify(compiled.path).passed
    model = onnx.load(compiled.model)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == ["seg", "depth"] and len(model.graph.input) == 1
    assert compiled.architecture.choices


def test_what_a_run_remembers(compiled, pair):
    record = json.loads((compiled.path / "run.json").read_text())
    assert {len(digest) for digest in record["config"]["model"].values()} == {64}
    assert len(set(record["config"]["model"].values())) == 2 and list(record["config"]["model"]) == ["1", "2"]
    assert record["source"]["name"] == "seg.onnx + depth.onnx"
    assert [one["path"] for one in record["source"]["networks"]] == list(map(str, pair))
    assert record["config"]["heads"] == ""
    phases = {folder.name[3:] for folder in (compiled.path / "phases").iterdir()}
    assert {"single-task-1", "single-task-2"} <= phases and "hard-sharing" not in phases
    relaxations = [stage["relaxation"] for stage in record["config"]["with_recipe"]["stages"]]
    assert relaxations and "separate" not in relaxations


def test_what_the_report_says(compiled):
    report = compiled.report
    assert report.title.startswith("seg.onnx + depth.onnx")
    assert "separate" in report.costs and "shared" not in report.costs
    notes = " ".join(report.notes)
    assert "no hard sharing" in notes and "not trained one by one" in notes and "head-kept" in notes
    # Two networks and what joins them: the trunk is at least both of theirs.
    assert report.costs["found"].parameters >= report.costs["separate"].parameters


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_every_recipe_for_separate_networks(recipe, pair, tmp_path):
    done = onnxmtl.compile(BackboneSet(pair), TASKS, recipe=recipe, out=tmp_path / "run", **QUICK)
    assert onnxmtl.verify(done.path).passed


def test_new_heads_are_trained_network_by_network_first(nets, tmp_path):
    done = onnxmtl.compile(
        [nets["odd"], nets["depth"]], TASKS, recipe="mtlnas", heads="new", out=tmp_path / "run", **QUICK
    )
    record = json.loads((done.path / "run.json").read_text())
    first = record["config"]["with_recipe"]["stages"][0]
    assert first["relaxation"] == "separate"
    assert first["name"] in {folder.name[3:] for folder in (done.path / "phases").iterdir()}


def test_all_steps_go_to_the_search(pair):
    recipe = recipe_named("mtlnas")
    config = CompileConfig(recipe="mtlnas")
    kept = for_networks(recipe, config)
    assert sum(stage.share for stage in kept.stages) == pytest.approx(sum(stage.share for stage in recipe.stages))
    assert len(kept.stages) == len(recipe.stages) - 1
    assert for_networks(recipe, CompileConfig(recipe="mtlnas", heads="new")) == recipe


class Interrupting:
    """An observer that stops the run at a step of a stage."""

    def __init__(self, stage: str, step: int) -> None:
        self.at, self.now = (stage, step), ""

    def stage(self, name, total, start=0):
        self.now = name

    def update(self, step, losses, cost=None):
        if (self.now, step) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [pytest.param(("single-task depth", 2), marks=pytest.mark.slow), ("search", 3)])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(at, compiled, pair, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXMTL_CACHE", str(tmp_path / "cache"))
    options = {**QUICK, "baselines": ("single-task", "hard-sharing"), "recipe": "mtlnas", "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        onnxmtl.compile(pair, TASKS, observer=Interrupting(*at), checkpoint_every=1, **options)
    onnxmtl.compile(pair, TASKS, resume=True, checkpoint_every=1, **options)
    assert digests(tmp_path / "run") == digests(compiled.path)


def test_resuming_with_other_networks_is_refused(compiled, nets):
    options = {**QUICK, "baselines": ("single-task", "hard-sharing"), "recipe": "mtlnas", "out": compiled.path}
    with pytest.raises(RunError, match=r"model\.2 was"):
        onnxmtl.compile([nets["seg"], nets["large"]], TASKS, resume=True, **options)
    with pytest.raises(RunError, match="cannot resume"):
        onnxmtl.compile(nets["seg"], TASKS, resume=True, **options)


def test_another_model_of_the_same_search(compiled, tmp_path):
    again = onnxmtl.specialize(compiled.path, out=tmp_path / "again")
    assert again.architecture == compiled.architecture and onnxmtl.verify(again.path).passed


def test_emitted_models_are_networks_again(nets, tmp_path):
    """What was compiled for one task each, from run directories, heads and output forms and all."""
    runs = []
    for name, tasks in (("seg", "seg=segmentation"), ("depth", "depth")):
        runs.append(onnxmtl.compile(nets["depth"], tasks, out=tmp_path / name, **QUICK).path)
    made = prepared(runs)
    for run, found in zip(runs, outputs(made.multitask, images()), strict=True):
        np.testing.assert_allclose(found, outputs(onnx.load(run / "model.onnx"), images())[0], rtol=1e-4, atol=1e-4)


def test_the_command_line(pair, tmp_path, monkeypatch):
    monkeypatch.delenv("ONNXMTL_DEBUG", raising=False)
    quick = ["--steps", "4", "--batch-size", "2", "--train-size", "8", "--val-size", "4", "--baselines", "none"]
    arguments = ["compile", *map(str, pair), "--tasks", TASKS, "--recipe", "nddr", "-o", str(tmp_path / "run"), *quick]
    assert cli.main([*arguments, "--quiet"]) == 0
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert cli.main(["compile", *map(str, pair), "--tasks", TASKS, "--recipe", "bmtas"]) == 1
    assert said.getvalue().count("\n") == 1 and "takes one backbone" in said.getvalue()


# From Python


def module(channels: int) -> nn.Module:
    torch.manual_seed(channels)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, channels, 1)
    )


def test_torch_modules_and_one_example_for_all():
    example = torch.zeros(1, 3, 16, 16)
    source = source_of([module(CLASSES), module(1)], example)
    made = prepared(source.networks)
    native = [node.inputs[0] for node in (value.producer() for value in made.multitask.graph.outputs)]
    made.multitask.graph.outputs[:] = native
    for found, channels in zip(outputs(made.multitask, images()), (CLASSES, 1), strict=True):
        with torch.no_grad():
            expected = module(channels)(torch.from_numpy(images())).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_belongs_to_which_network(nets, tmp_path):
    text = tmp_path / "net.prototxt"
    text.write_text("")
    found = BackboneSet.of([nets["seg"], text, text], weights=["a.caffemodel", "b.caffemodel"], dialect="caffe")
    assert [(one.weights, one.dialect) for one in found.networks] == [
        (None, "auto"), ("a.caffemodel", "caffe"), ("b.caffemodel", "caffe"),
    ]  # fmt: skip
    found = BackboneSet.of([nets["seg"], text], weights=[None, "b.caffemodel"])
    assert [one.weights for one in found.networks] == [None, "b.caffemodel"]
    with pytest.raises(ModelError, match=r"1 of the networks are \.prototxt and 3 have weights"):
        BackboneSet.of([nets["seg"], text], weights=["a", "b", "c"])
    with pytest.raises(ModelError, match="3 example inputs for 2 networks"):
        BackboneSet.of([module(1), module(1)], [1, 2, 3])


def test_a_list_of_one_is_a_backbone(nets):
    assert source_of([nets["seg"]]) == Source(nets["seg"])
    assert source_of(nets["seg"], weights=["a.caffemodel"]) == Source(nets["seg"], weights="a.caffemodel")
    with pytest.raises(ModelError, match="2 files of weights for one model"):
        source_of(nets["seg"], weights=["a", "b"])
    for models in ([], ()):
        with pytest.raises(ModelError, match="two or more"):
            source_of(models)
    with pytest.raises(ModelError, match="two or more"):
        BackboneSet([nets["seg"]])


# Refused in one line


def refused(networks, tasks=TASKS, **options) -> str:
    options = {"recipe": "mtlnas", **options}
    with pytest.raises(OnnxMTLError) as error:
        onnxmtl.compile(networks, tasks, out="/nonexistent/run", **{**QUICK, **options})
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("recipe", ["automtl", "adashare", "bmtas", "mtan"])
def test_recipes_for_one_backbone(recipe, pair):
    text = refused(pair, recipe=recipe)
    assert f"'{recipe}' takes one backbone" in text and all(name in text for name in RECIPES)


def test_as_many_networks_as_tasks(pair, nets):
    assert "2 networks for 3 tasks (seg, depth, edges): give one" in refused(pair, f"{TASKS},edges")
    assert "2 networks for 1 task (seg)" in refused(pair, "seg=segmentation")
    assert "3 networks for 2 tasks" in refused([*pair, nets["seg"]])


def test_another_number_of_channels(nets, pair):
    text = refused([nets["odd"], nets["depth"]])
    assert "odd.onnx gives 4 channels, task 'seg' has 9 classes" in text and "--heads new" in text
    assert "gives 9 channels, task 'depth' has 1" in refused(pair, "depth,seg=segmentation")


def test_networks_that_are_none(nets, tmp_path):
    assert "no such file" in refused([nets["seg"], tmp_path / "nothing.onnx"])
    assert "is no model" in refused([nets["seg"], 3])
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    assert "empty.onnx" in refused([nets["seg"], empty])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": ("x",)}, "features = [...]"),
        ({"search_input_size": (8, 8)}, "--search-input-size"),
        ({"output_stride": 2}, "--output-stride 2"),
        ({"heads": "old"}, "--heads takes own, new"),
    ],
)
def test_options_for_one_backbone(options, said, pair):
    assert said in refused(pair, **options)


def test_what_is_for_several_networks_alone(nets, tmp_path):
    assert "--heads own" in refused(nets["seg"], heads="own")
    file = tmp_path / "tasks.toml"
    file.write_text('[tasks.depth]\nkind = "depth"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n')
    assert "mean and std are of a network of its own" in refused(nets["seg"], str(file), recipe="automtl")


def test_means_of_another_number_of_channels_and_damaged_contracts():
    task = Task("depth", "depth", mean=(0.5,), std=(0.5,))
    with pytest.raises(TaskError, match="1 means for images of 3 channels"):
        preprocessing(vgg(), task, InputSpec())
    for text in ("{", "[]", '{"input": {"range": [0, 1]}}', '{"input": {"range": 3}}'):
        model = vgg()
        model.metadata_props[CONTRACT_KEY] = text
        with pytest.raises(ModelError, match="is damaged"):
            preprocessing(model, Task("depth", "depth"), InputSpec())
    with pytest.raises(ModelError, match="takes 1 channels, the images have 3"):
        preprocessing(contracted(InputSpec(channels=1)), Task("depth", "depth"), InputSpec())
