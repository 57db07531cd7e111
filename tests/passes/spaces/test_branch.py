"""The branch space: what is built, that it computes what it should, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers.branching import branched, line_model, selected_from, unet_model
from helpers.graphs import GraphBuilder, random_model, small_resnet
from helpers.skipping import close, draw_of, images_for, random_architecture
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl import ops, runtime
from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, choices, clone, diagnostics, role_of, sources, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.lowering import to_torch
from onnxmtl.passes.spaces import SPACES, Branch, Vcn, space
from onnxmtl.passes.spaces.branch import MOST_TASKS, last_norms
from onnxmtl.policy import Architecture, block_names


def run(model: ir.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    return runtime.run(runtime.session(to_bytes(model), optimize=False, threads=1), {"image": images})


# -- what is built -----------------------------------------------------------------------------------------------------


def test_one_choice_per_block_and_task() -> None:
    model = branched(line_model(3, 2))
    found = list(choices(model.graph))
    assert [(c.site, c.task) for c in found] == [(f"block{i}", task) for i in range(2) for task in "abc"]
    assert {c.names for c in found} == {("branch_0", "branch_1", "branch_2")}
    assert len({c.logits for c in found}) == 6
    for choice in found:
        assert role_of(choice.logits) is Role.LOGITS and np.array_equal(choice.logits.const_value.numpy(), [0, 0, 0])
        assert choice.grouped == choice.site and sources(choice.node)
    assert (model.metadata_props["onnxmtl.kind"], block_names(model)) == ("supermodel", ("block0", "block1"))
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)


def test_candidates_of_the_first_block_are_there_once_and_of_others_once_per_task() -> None:
    model = branched(line_model(3, 3))
    for i, copies in enumerate((3, 9, 9)):
        assert sum(sources(node) == (f"conv{i}",) for node in model.graph) == copies


def test_candidate_0_has_the_weights_and_the_others_copies_of_them() -> None:
    before = line_model(3, 2)
    old = {name: value.const_value.numpy() for name, value in before.graph.initializers.items()}
    graph = branched(before).graph
    for name, array in old.items():
        roles = {role_of(graph.initializers[name])}
        if not name.endswith(("predict.weight", "predict.bias")):
            for j in (1, 2):
                copy = graph.initializers[f"{name}/branch_{j}"]
                assert np.array_equal(copy.const_value.numpy(), array)
                roles.add(role_of(copy))
            statistic = name.endswith(("mean", "variance"))
            assert roles == ({Role.STATISTIC} if statistic else {Role.BACKBONE, Role.OWN})
    copies = {role_of(v) for n, v in graph.initializers.items() if "/branch_" in n}
    assert copies == {Role.OWN, Role.STATISTIC}
    for choice in choices(graph):
        for j, option in enumerate(choice.options):
            norm = option.producer().inputs[0].producer()
            assert all(("/branch_" in v.name) == (j > 0) for v in norm.inputs[1:])


def test_blocks_are_those_of_the_backbone() -> None:
    model = small_resnet()
    backbone = clone(model)
    feature = next(n for n in backbone.graph if "onnxmtl.head" in n.metadata_props).inputs[0]
    heads = [n for n in backbone.graph if "onnxmtl.head" in n.metadata_props]
    backbone.graph.outputs[:] = [feature]
    backbone.graph.remove(heads, safe=False)
    for groups in (None, 2, (1, 2)):
        names = [block.name for block in backbone_blocks(backbone, groups)]
        assert [site.id for site in site_table(branched(model, groups=groups)).sites] == names
    first = backbone_blocks(backbone)[0].name
    assert [site.id for site in site_table(branched(model, at=[first])).sites] == [first, feature.name]


def test_the_prior_is_the_logit_of_the_first_candidate() -> None:
    (first, *_) = choices(branched(line_model(2, 2), prior=2.0).graph)
    assert np.array_equal(first.logits.const_value.numpy(), [2, 0])


def test_a_shared_prefix_gets_no_choice() -> None:
    model = branched(line_model(2, 3), shared_prefix=2)
    assert [site.id for site in site_table(model).sites] == ["block2"]
    assert block_names(model) == ("block0", "block1", "block2")
    assert [d.node for d in diagnostics(model) if d.code == "site-not-made"] == ["block0", "block1"]
    assert sum(sources(node) == ("conv1",) for node in model.graph) == 1


def test_two_builds_are_equal_to_the_byte() -> None:
    model = small_resnet({"a": 1, "b": 2, "c": 1})
    assert to_bytes(branched(model)) == to_bytes(branched(model))


# -- what it computes --------------------------------------------------------------------------------------------------

NETWORKS = {
    "resnet": lambda: small_resnet({"a": 1, "b": 2, "c": 1}),
    "early": lambda: line_model(3, 3, early=0),
    "inside": lambda: line_model(3, 3, early=1, inside=True),
    "unet": unet_model,
}
FRONTIER = {"unet": 2}


@pytest.mark.parametrize("name", NETWORKS)
def test_fresh_copies_compute_what_the_graph_did(name: str) -> None:
    """All candidates are equal before training, so every draw and every selection gives the same numbers."""
    before = NETWORKS[name]()
    model = branched(before, frontier=FRONTIER.get(name, 1), affine="not-last")
    images = np.random.default_rng(0).normal(size=(2, *list(before.graph.inputs[0].shape)[1:])).astype(np.float32)
    expected = run(before, images)
    table = site_table(model)
    found = [run(model, images), run(selected_from(model, random_architecture(table, 1)), images)]
    found.append(run(selected_from(model, Architecture.uniform(table, "branch_0")), images))
    for outputs in found:
        assert list(outputs) == list(expected)
        for task, value in outputs.items():
            assert np.abs(value - expected[task]).max() <= 1e-5 * np.abs(expected[task]).max()


def drifted(model: ir.Model, seed: int = 0) -> ir.Model:
    """As after training: no two weights are equal."""
    rng = np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        if value.dtype is ir.DataType.FLOAT and role_of(value) is not Role.LOGITS and value.name != "scales":
            array = value.const_value.numpy()
            value.const_value = ir.tensor((array * rng.uniform(0.5, 1.5, array.shape)).astype(np.float32))
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_a_selection_computes_what_the_supermodel_did(name: str) -> None:
    model = drifted(branched(NETWORKS[name](), frontier=FRONTIER.get(name, 1)))
    table, images = site_table(model), images_for(model)
    whole = to_torch(model, dtype=torch.float64).eval()
    with torch.no_grad():
        for seed in range(4):
            architecture = random_architecture(table, seed)
            expected = whole(images, draw=draw_of(architecture, table))
            found = to_torch(selected_from(model, architecture), dtype=torch.float64).eval()(images)
            assert all(close(found[task], expected[task]) for task in expected)


def test_tasks_take_candidates_of_one_block_on_their_own_inputs() -> None:
    """A literal network of two blocks and two tasks with soft choices, in float64."""
    model = drifted(branched(line_model(2, 2)))
    for i, choice in enumerate(choices(model.graph)):
        choice.logits.const_value = ir.tensor(np.float32([0.3 * i, -0.2]))
    images = images_for(model)
    module = to_torch(model, dtype=torch.float64).eval()
    w = {name: tensor.detach() for name, tensor in module.tensors().items()}

    def candidate(x: torch.Tensor, block: int, j: int) -> torch.Tensor:
        end = f"/branch_{j}" if j else ""
        x = torch.conv2d(x, w[f"conv{block}.weight{end}"], w[f"conv{block}.bias{end}"], padding=1)
        names = [f"norm{block}.{slot}{end}" for slot in ("mean", "variance", "scale", "shift")]
        return torch.batch_norm(x, w[names[2]], w[names[3]], w[names[0]], w[names[1]], False, 0.1, 1e-5, False).relu()

    with torch.no_grad():
        found = module(images)
        for t, task in enumerate("ab"):
            x = images
            for block in range(2):
                p = torch.softmax(torch.tensor([0.3 * (2 * block + t), -0.2], dtype=torch.float32).double(), 0)
                x = sum(p[j] * candidate(x, block, j) for j in range(2))
            expected = torch.conv2d(x, w[f"{task}.predict.weight"], w[f"{task}.predict.bias"])
            assert close(found[task], expected, 1e-7)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 3))
def test_any_graph(seed: int, tasks: int) -> None:
    before = random_model(seed, tasks=tasks)
    try:
        model = drifted(branched(before, frontier=1 + seed % 2))
    except Refused:
        assume(False)
    table, images = site_table(model), images_for(model)
    architecture = random_architecture(table, seed)
    with torch.no_grad():
        expected = to_torch(model, dtype=torch.float64).eval()(images, draw=draw_of(architecture, table))
        found = to_torch(selected_from(model, architecture), dtype=torch.float64).eval()(images)
    assert all(close(found[task], expected[task]) for task in expected)


# -- features within blocks, tasks that end early ----------------------------------------------------------------------


def test_a_feature_inside_a_block_is_chosen_with_the_block() -> None:
    model = branched(line_model(3, 3, early=1, inside=True))
    found = [(c.site, c.task, c.grouped) for c in choices(model.graph) if c.site == "block1"]
    assert found == [("block1", "a", "conv1_out"), ("block1", "b", "block1"), ("block1", "c", "block1")]
    assert [site.tasks for site in site_table(model).sites] == [(), (), (1, 2)]


def test_a_task_that_reads_two_tensors_of_a_block_has_one_policy_for_both() -> None:
    b = GraphBuilder(size=6)
    y = b.conv(b.image, 3, name="conv0")
    x = b.relu(b.norm(y))
    last = b.block(x, 4, name="conv1")
    model = b.heads({"a": b.concat(y, last), "b": last}, {"a": 1, "b": 1})
    supermodel = branched(model, at=[x.name], frontier=2)
    of_a = [c for c in choices(supermodel.graph) if c.site == x.name and c.task == "a"]
    assert [c.grouped for c in of_a] == [y.name, x.name] and of_a[0].logits is of_a[1].logits


def test_a_block_of_one_task_alone_is_no_site() -> None:
    model = branched(line_model(2, 3, early=1))
    assert [site.id for site in site_table(model).sites] == ["block0", "block1"]
    assert [(d.code, d.node) for d in diagnostics(model)] == [("site-not-made", "block2")]
    assert sum(sources(node) == ("conv2",) for node in model.graph) == 1


def test_an_output_of_the_backbone_keeps_its_name() -> None:
    b = GraphBuilder(size=6)
    x = b.block(b.image, 3, name="conv0")
    y = b.block(x, 4, name="conv1")
    model = b.heads(y, {"a": 1})
    x.name = "raw"
    model.graph.outputs.append(x)
    supermodel = drifted(branched(model))
    assert [value.name for value in supermodel.graph.outputs] == ["a", "raw"]
    table, images = site_table(supermodel), images_for(supermodel)
    architecture = random_architecture(table, 1)
    expected = to_torch(supermodel, dtype=torch.float64).eval()(images, draw=draw_of(architecture, table))
    selected = selected_from(supermodel, architecture)
    found = to_torch(selected, dtype=torch.float64).eval()(images)
    assert list(found) == ["a", "raw"] and all(close(found[name], expected[name]) for name in found)


# -- blocks that cannot be taken apart ---------------------------------------------------------------------------------


def joined(model: ir.Model) -> list[tuple[str | None, str]]:
    return [(d.node, d.message) for d in diagnostics(model) if d.code == "blocks-joined"]


def test_blocks_with_a_weight_in_common_are_one() -> None:
    b = GraphBuilder(size=6)
    x = b.block(b.image, 3, name="conv0")
    x = b.relu(b.conv(x, 3, name="conv1", bias=False))
    tied = x.producer().inputs[0].producer().inputs[1]
    x = b.relu(b.conv(x, 3, name="conv2", bias=False))
    x.producer().inputs[0].producer().replace_input_with(1, tied)
    model = branched(b.heads(x, {"a": 1, "b": 1}))
    assert [(node, "tied across them" in message) for node, message in joined(model)] == [(x.name, True)]
    assert len(site_table(model).sites) == 2
    selected = selected_from(model, random_architecture(site_table(model), 0))
    kernels = [n.inputs[1] for n in selected.graph if sources(n) in (("conv1",), ("conv2",))]
    assert len(kernels) == 2 * len(set(kernels))


def test_a_block_without_weights_goes_with_the_one_before() -> None:
    b = GraphBuilder(size=6)
    x = b.block(b.image, 3, name="conv0")
    y = b.node("MaxPool", [x], x.shape, "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    z = b.block(y, 4, name="conv1")
    model = branched(b.heads(z, {"a": 1, "b": 1}), at=[x.name, y.name])
    assert [site.id for site in site_table(model).sites] == [y.name, z.name]
    assert "has no weights" in joined(model)[0][1]


def test_what_is_no_number_passes_within_one_block() -> None:
    b = GraphBuilder(size=6)
    x = b.block(b.image, 3, name="conv0")
    where = b.node("Greater", [x, b.weight("zero", np.float32(0))], x.shape, "where")
    where.type = ir.TensorType(ir.DataType.BOOL)
    y = b.block(x, 3, name="conv1")
    z = b.node("Where", [where, y, x], y.shape, "merged")
    z = b.block(z, 3, name="conv2")
    model = branched(b.heads(z, {"a": 1, "b": 1}), frontier=3)
    assert any("is no floating-point number" in message for _, message in joined(model))
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)


@pytest.mark.parametrize("side", [False, True])
def test_what_is_computed_from_weights_alone_is_of_the_block_that_reads_it(side: bool) -> None:
    """A table that is looked up; with a second feature the blocks are found in another order of nodes."""
    b = GraphBuilder(size=6)
    rows = ir.Value(name="rows", const_value=ir.tensor(np.array([2, 0, 1], np.int64), name="rows"))
    rows.type, rows.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([3])
    b.graph.register_initializer(rows)
    table = b.node("Gather", [b.weight("table", np.arange(3, dtype=np.float32)), rows], [3], "lookup")
    wide = b.node("Reshape", [table, _shape(b, [1, 3, 1, 1])], [1, 3, 1, 1], "wide")
    x = b.block(b.image, 3, name="conv0")
    y = b.node("Add", [b.block(x, 3, name="conv1"), wide], x.shape, "sum")
    y = b.block(y, 3, name="conv2")
    features = {"a": b.relu(b.conv(x, 5, k=1, name="lateral")), "b": y} if side else {"a": y, "b": y}
    model = branched(b.heads(features, {"a": 1, "b": 1}))
    block = next(c.site for c in choices(model.graph) if "table/branch_1" in _weights_above(c.options[1]))
    assert "table/branch_1" not in _weights_above(next(choices(model.graph)).options[1])
    if not side:
        picks = Architecture.uniform(site_table(model), "branch_0").to_dict()
        picks[block]["b"] = "branch_1"
        found = [n for n in selected_from(model, Architecture(picks)).graph if sources(n) == ("lookup",)]
        assert {n.inputs[0].name for n in found} == {"table", "table/branch_1"}


def _shape(b: GraphBuilder, sizes: list[int]) -> ir.Value:
    value = ir.Value(name="sizes", const_value=ir.tensor(np.array(sizes, np.int64), name="sizes"))
    value.type, value.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(sizes)])
    b.graph.register_initializer(value)
    return value


def _weights_above(value: ir.Value) -> set[str]:
    """Names of all initializers that a value is computed from, up to the Choices above it."""
    found, waiting = set(), [value]
    while waiting:
        node = waiting.pop().producer()
        for read in node.inputs if node is not None and node.domain == "" else ():
            if read is not None and read.is_initializer():
                found.add(str(read.name))
            elif read is not None:
                waiting.append(read)
    return found


# -- the last normalization --------------------------------------------------------------------------------------------


def test_the_last_normalization_of_every_candidate_is_frozen_until_selected() -> None:
    model = branched(small_resnet(), groups=2, affine="not-last")
    frozen = {name for name, value in model.graph.initializers.items() if ops.is_frozen(value)}
    parameters = set(to_torch(model).parameters_with())
    trained = {str(value.name) for value in ops.trainable_values(model.graph)}
    assert frozen and not frozen & parameters and frozen <= trained
    assert {name.removesuffix("/branch_1") for name in frozen} == {n for n in frozen if "/branch_1" not in n}
    assert all(name.rpartition(".")[2].partition("/")[0] in ("scale", "shift") for name in frozen)
    norms = [n for n in model.graph if n.op_type == "BatchNormalization"]
    some = {n.inputs[1].name for n in norms}
    assert some - frozen  # not all of them
    selected = selected_from(model, Architecture.uniform(site_table(model), "branch_1"))
    assert not any(ops.is_frozen(value) for value in selected.graph.initializers.values())
    assert {f"{name}" for name in to_torch(selected).parameters_with()} >= {n for n in frozen if "/branch_1" in n}


def test_last_is_behind_all_others() -> None:
    b = GraphBuilder()
    x = b.block(b.image, 4)
    b.residual(b.residual(x, 4), 6, 2)  # the last one has a projection
    norms = [node for node in b.graph if node.op_type == "BatchNormalization"]
    assert last_norms(list(b.graph)) == norms[-2:]
    assert last_norms(list(b.graph)[:3]) == [norms[0]]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals_are_one_clear_line() -> None:
    supermodel = branched(line_model())
    with pytest.raises(Refused, match="already holds Choices"):
        Branch()(supermodel)
    vcn = line_model()
    Vcn()(vcn)
    with pytest.raises(Refused, match="already holds Choices"):
        Branch()(vcn)
    b = GraphBuilder()
    b.graph.outputs.append(b.block(b.image, 4))
    with pytest.raises(Refused, match="no task heads"):
        Branch()(ir.Model(b.graph, ir_version=10))
    with pytest.raises(Refused, match="one task has nobody to share with"):
        Branch()(line_model(1))
    b = GraphBuilder()
    many = b.heads(b.block(b.image, 4), {f"t{i}": 1 for i in range(MOST_TASKS + 1)})
    with pytest.raises(Refused, match=r"9 tasks need 81 candidates of every block, up to 8 tasks are taken") as error:
        Branch()(many)
    assert "\n" not in str(error.value)
    with pytest.raises(Refused, match="shared_prefix=3 leaves no block that two tasks come by, of 3"):
        Branch(shared_prefix=3)(line_model())
    with pytest.raises(ModelError, match="cannot be cut into 7 groups"):
        Branch(groups=7)(line_model())
    with pytest.raises(Refused, match="affine is 'all' or 'not-last', not 'none'"):
        Branch(affine="none")(line_model())
    assert SPACES["branch"] is Branch and isinstance(space("branch", shared_prefix=1), Branch)
