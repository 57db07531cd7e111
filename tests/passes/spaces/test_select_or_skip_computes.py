"""The select_or_skip space: AdaShare's formula, and the supermodel against the selected model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers import zoo
from helpers.graphs import random_model, small_resnet
from helpers.skipping import built, chain, close, draw_of, images_for, random_architecture, selected_from
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.ir import Role, is_supermodel, new_initializer, set_role, to_bytes
from onnxmtl.ir.provenance import HEAD_KEY
from onnxmtl.lowering import Draw, to_torch
from onnxmtl.passes.spaces import SelectOrSkip
from onnxmtl.policy import Architecture


def adashare(
    net: torch.nn.Module, x: torch.Tensor, policy: list[torch.Tensor], body: torch.Tensor | None = None
) -> torch.Tensor:
    """The feature of one task as AdaShare's paper and code compute it, from torch's modules.

    fx = relu(residual + block(x)); x = fx * p[0] + residual * p[1]; policy: per block [select, skip].
    """
    stem, blocks = net.features[:2], net.features[2:]
    x = stem(x)
    for block, p in zip(blocks, policy, strict=True):
        residual = block.shortcut(x)
        fx = F.relu(residual + block.b(block.a(x)))
        x = fx * p[0] + residual * p[1]
    return x


@pytest.fixture
def resnet() -> tuple[ir.Model, torch.nn.Module, dict[str, torch.Tensor]]:
    """The zoo's ResNet as a multi-task graph (1x1 heads), as torch's module, and the heads' kernels."""
    pytest.importorskip("onnxscript")
    model = zoo.backbone("resnet18", "legacy-train")
    graph, kernels = model.graph, {}
    feature = graph.outputs[0]
    graph.outputs.clear()
    for i, task in enumerate(("seg", "depth", "normals")):
        kernel = np.random.default_rng(i).normal(size=(2 + i, 48, 1, 1)).astype(np.float32)
        weight = set_role(new_initializer(graph, f"{task}.w", kernel), Role.HEAD)
        out = ir.Value(name=task, type=feature.type, shape=ir.Shape(["N", 2 + i, *list(feature.shape)[2:]]))
        graph.append(ir.Node("", "Conv", [feature, weight], outputs=[out], name=task, metadata_props={HEAD_KEY: task}))
        graph.outputs.append(out)
        kernels[task] = torch.from_numpy(kernel).double()
    module = zoo.NETWORKS["resnet18"]().double()
    for layer in module.modules():  # a file holds it in single precision
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = float(np.float32(layer.eps))
    return model, module, kernels


@pytest.mark.parametrize("training", [False, True])
def test_soft_supermodel_is_adashares_formula(resnet, training: bool) -> None:
    model, reference, kernels = resnet
    SelectOrSkip()(model)
    module = to_torch(model, dtype=torch.float64).train(training)
    reference.train(training)
    table = site_table(model)
    generator = torch.Generator().manual_seed(1)
    policy = {
        task: torch.softmax(torch.randn(len(table.sites), 2, generator=generator, dtype=torch.float64), -1)
        for task in table.tasks
    }
    ours = {task: p.clone().requires_grad_() for task, p in policy.items()}
    theirs = {task: p.clone().requires_grad_() for task, p in policy.items()}
    weights = {(site.id, task): ours[task][site.index] for site in table.sites for task in table.tasks}
    images = images_for(model)
    outputs = module(images, draw=Draw(weights=weights))
    found = torch.zeros((), dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for task in table.tasks:
        plain = F.conv2d(adashare(reference, images, list(theirs[task])), kernels[task])
        assert close(outputs[task], plain)
        found, expected = found + (outputs[task] ** 2).sum(), expected + (plain**2).sum()
    found.backward()
    expected.backward()
    for task in table.tasks:
        assert close(ours[task].grad, theirs[task].grad)
    (stem,) = (value for name, value in module.parameters_with().items() if name.endswith("features.0.0.weight"))
    assert close(stem.grad, reference.features[0][0].weight.grad)


def test_a_skipped_projection_block_is_its_projection_without_relu(resnet) -> None:
    model, reference, kernels = resnet
    SelectOrSkip()(model)
    table = site_table(model)
    skip_all = Architecture.uniform(table, "skip")
    outputs = to_torch(selected_from(model, skip_all), dtype=torch.float64).eval()(images_for(model))
    x = reference.features[:2](images_for(model))
    for block in reference.features[2:]:
        x = block.shortcut(x)
    assert (x < 0).any()
    for task, kernel in kernels.items():
        assert close(outputs[task], F.conv2d(x, kernel))


def test_all_select_is_the_multitask_graph() -> None:
    for model in (small_resnet(), chain(4, {"a": 1, "b": 2, "c": 1})):
        images = images_for(model)
        before = to_torch(model, dtype=torch.float64).eval()(images)
        in_runtime = runtime.run(runtime.session(to_bytes(model), optimize=False), images.float().numpy())
        nodes = sorted(node.op_type for node in model.graph)
        SelectOrSkip()(model)
        table = site_table(model)
        everything = Architecture.uniform(table, "select")
        whole = to_torch(model, dtype=torch.float64).eval()(images, draw=draw_of(everything, table))
        selected = selected_from(model, everything)
        alone = to_torch(selected, dtype=torch.float64).eval()(images)
        after = runtime.run(runtime.session(to_bytes(selected), optimize=False), images.float().numpy())
        assert sorted(node.op_type for node in selected.graph) == nodes
        for task in before:
            assert close(whole[task], before[task]) and close(alone[task], before[task])
            assert np.array_equal(after[task], in_runtime[task])


def test_a_supermodel_runs_in_onnxruntime_with_its_function_bodies() -> None:
    model = small_resnet()
    SelectOrSkip()(model)
    images = images_for(model)
    expected = to_torch(model, dtype=torch.float64).eval()(images)  # follows the logits: half and half
    for task, value in runtime.run(to_bytes(model), images.float().numpy()).items():
        assert close(torch.from_numpy(value).double(), expected[task], 1e-5)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(1, 4), pick=st.integers(0, 10_000))
def test_supermodel_with_fixed_architecture_equals_selected_model(seed: int, tasks: int, pick: int) -> None:
    model = random_model(seed, tasks=tasks, layers=6)
    assume(built(model))
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)
    table = site_table(model)
    architecture = random_architecture(table, pick)
    selected = selected_from(model, architecture)
    assert not is_supermodel(selected)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(selected)), full_check=True)
    images = images_for(model, seed=seed)
    module, alone = to_torch(model, dtype=torch.float64), to_torch(selected, dtype=torch.float64)
    exact = alone.eval()(images)
    for training in (False, True):
        found = module.train(training)(images, draw=draw_of(architecture, table))
        expected = alone.train(training)(images)
        assert list(expected) == list(found)
        assert all(close(found[task], expected[task]) for task in found)
    for task, value in runtime.run(runtime.session(to_bytes(selected), optimize=False), images.float().numpy()).items():
        assert close(torch.from_numpy(value).double(), exact[task], 1e-5)
