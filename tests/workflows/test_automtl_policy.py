"""A policy that AutoMTL's own code found for CityScapes, from its own prototxt to an emitted model of ours."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from onnxmtl import ir as graphs
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.data import InputSpec
from onnxmtl.frontends import prototxt
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces.vcn import Vcn
from onnxmtl.policy import read_automtl_policy
from onnxmtl.workflows.emit import emit

FILES = Path(os.environ.get("ONNXMTL_SHARED", "../shared")) / "data" / "automtl"
TASKS = TaskSet.parse("seg=segmentation:19,depth")
NAMES = {"segment_semantic": "seg", "depth_zbuffer": "depth"}
# What its authors print, and what is counted by hand in tests/frontends/prototxt.
SINGLE, FOUND = 21_267_648, 28_854_656
SIZE = 65  # of the images: 226 in the file; weights do not depend on it, and this is quicker

pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="the shared data are not there ($ONNXMTL_SHARED)")


@pytest.fixture(scope="module")
def multitask():
    backbone = normalize(prototxt.load(FILES / "deeplab_resnet34_adashare.prototxt"), input_size=(SIZE, SIZE))
    return AttachHeads(TASKS, 0)(backbone).model


@pytest.fixture(scope="module")
def policy():
    return read_automtl_policy((FILES / "policy_cityscapes_resnet34.json").read_text(), tasks=NAMES)


@pytest.mark.parametrize("norm", ["follow", pytest.param("per_task", marks=pytest.mark.slow)])
def test_the_policy_becomes_a_model(norm, multitask, policy, tmp_path):
    supermodel = Vcn(skip="dense1x1", norm=norm)(multitask.clone()).model
    table = site_table(supermodel)
    assert len(table.sites) == 36
    policy.validate(table)
    selected = Pipeline(select_passes(policy))(supermodel.clone()).model

    # Two separate networks, counted on one: everything twice.
    single, found = count(multitask), count(selected)
    assert single.parameters_paper == SINGLE
    assert found.parameters_paper == FOUND
    assert found.parameters_paper / (2 * single.parameters_paper) - 1 == pytest.approx(-0.32163, abs=1e-5)
    assert found.parameters_trunk < 2 * single.parameters_trunk
    # The multi-task graph holds one trunk and both heads; separate networks hold that trunk twice.
    assert found.parameters < single.parameters + single.parameters_trunk
    assert found.multiply_adds < single.multiply_adds_unshared
    assert found.multiply_adds_unshared < single.multiply_adds_unshared

    images = np.random.default_rng(0).random((2, 3, SIZE, SIZE), dtype=np.float32)
    final, _ = emit(tmp_path, selected, TASKS, InputSpec(height=SIZE, width=SIZE), images, supermodel=supermodel)
    separate = len(graphs.to_bytes(multitask)) + 4 * single.parameters_trunk
    written = count(final)
    assert written.parameters < single.parameters + single.parameters_trunk
    assert (tmp_path / "model.onnx").stat().st_size < separate
    # The weights stay shared in the file: a kernel that both tasks use, on inputs of their own, is there once.
    kernels = {
        use.node.name: value.name
        for value in final.graph.initializers.values()
        if value.shape is not None and len(value.shape) == 4
        for use in value.uses()
    }
    assert len(set(kernels.values())) < len(kernels)
