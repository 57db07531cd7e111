"""The tree of a layout: what is there once, what has weights of its own, and that untrained it computes the same."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from helpers import zoo
from helpers.graphs import GraphBuilder
from helpers.layouts import layouts, random_layout
from hypothesis import given, settings

from onnxmtl import ops, runtime
from onnxmtl.analysis.blocks import Block, backbone_blocks
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, clone, head_of, is_choice, role_of, sources, tasks_of_nodes, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import Tree, Vcn, layout_blocks, space
from onnxmtl.policy import Layout

TASKS = TaskSet.parse("seg=segmentation:3,depth,normals")


def small_backbone(size: int = 8) -> ir.Model:
    """Five single blocks: a stem, three residual ones and a convolution."""
    b = GraphBuilder(size=size)
    x = b.block(b.image, 4, name="stem")
    for width, stride in ((4, 1), (6, 2), (6, 1)):
        x = b.residual(x, width, stride)
    b.graph.outputs.append(b.block(x, 8, name="last"))
    return normalize(ir.Model(b.graph, ir_version=10))


def multitask(backbone: ir.Model, tasks: TaskSet = TASKS) -> ir.Model:
    return Pipeline([AttachHeads(tasks, 0)])(clone(backbone)).model


def tree(backbone: ir.Model, layout: Layout, blocks: list[Block], tasks: TaskSet = TASKS) -> ir.Model:
    made = Pipeline([Tree(layout, blocks)], instruments=[CheckInvariants()])(multitask(backbone, tasks)).model
    assert not any(map(is_choice, made.graph)) and not site_table(made).sites
    return made


def image(model: ir.Model) -> np.ndarray:
    shape = [2, *(int(size) for size in list(model.graph.inputs[0].shape)[1:])]
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def equal_results(one: ir.Model, other: ir.Model) -> bool:
    """Whether two models compute the same, bit for bit; ONNX Runtime fuses nothing, which changes last bits."""
    found = [runtime.run(runtime.session(to_bytes(m), optimize=False, threads=1), image(one)) for m in (one, other)]
    assert list(found[0]) == list(found[1])
    return all(np.array_equal(found[0][task], found[1][task]) for task in found[0])


def weights_by_task(model: ir.Model) -> dict[str, dict[str, set[ir.Value]]]:
    """Task -> node of the user's backbone -> the weights (and statistics) that the task uses there."""
    found: dict[str, dict[str, set[ir.Value]]] = {str(v.name): {} for v in model.graph.outputs}
    for node, tasks in tasks_of_nodes(model.graph).items():
        for task in tasks:
            for name in sources(node) if head_of(node) is None else ():
                found[task].setdefault(name, set()).update(value for _, value in ops.weight_slots(node))
    return found


def check(backbone: ir.Model, layout: Layout, blocks: list[Block], tasks: TaskSet = TASKS) -> ir.Model:
    """All that holds for every tree whose tasks read the end of the backbone."""
    start, made = multitask(backbone, tasks), tree(backbone, layout, blocks, tasks)
    assert equal_results(start, made)

    # What is counted on the graph is what the layout says.
    single, costs = count(start), count(made)
    madds = [sum(map(ops.multiply_adds, block.nodes)) for block in blocks]
    assert costs.multiply_adds_trunk == layout.cost(madds)
    assert costs.multiply_adds - costs.multiply_adds_trunk == single.multiply_adds - single.multiply_adds_trunk
    assert costs.parameters_trunk == layout.cost([elements(block) for block in blocks])

    # Tasks share weights exactly in the blocks before their branching point.
    block_of = {name: b.index for b in blocks for node in b.nodes for name in sources(node)}
    used = weights_by_task(made)
    for t, u in itertools.combinations(layout.tasks, 2):
        point = layout.branch_point(layout.tasks.index(t), layout.tasks.index(u))
        for name, values in used[t].items():
            if values:
                assert (values == used[u][name]) == (block_of[name] < point)
                assert values == used[u][name] or not values & used[u][name]
    return made


def elements(block: Block) -> int:
    values = {v: slot for node in block.nodes for slot, v in ops.weight_slots(node) if slot.trainable}
    return sum(int(np.prod(list(v.shape))) for v in values)


@pytest.fixture(scope="module")
def backbone():
    return small_backbone()


@pytest.mark.parametrize("number", [0, 2, 4, 13, 17, 26, 37, 45, 50])
def test_layouts_of_three_tasks(number, backbone):
    check(backbone, Layout.from_id(TASKS.names, 5, number), backbone_blocks(backbone))


@settings(max_examples=8, deadline=None)
@given(layouts(most_tasks=6, most_blocks=5))
def test_any_layout(layout):
    backbone = small_backbone()
    tasks = TaskSet.parse(",".join(f"{name}=depth" for name in layout.tasks))
    check(backbone, layout, backbone_blocks(backbone, groups=len(layout.groups)), tasks)


def test_copies_are_own_and_statistics_stay_statistics(backbone):
    """Of two branches the one with the first task keeps the original; the copy is called after its first task."""
    layout = Layout(TASKS.names, (((0, 1, 2),), ((0, 2), (1,)), ((0, 2), (1,)), ((0,), (1,), (2,)), ((0,), (1,), (2,))))
    blocks = backbone_blocks(backbone)
    made = tree(backbone, layout, blocks)
    values = made.graph.initializers
    originals = {v.name for block in blocks for node in block.nodes for _, v in ops.weight_slots(node)}
    assert originals <= set(values)
    copied = {v.name for block in blocks[1:] for node in block.nodes for _, v in ops.weight_slots(node)}
    late = {v.name for block in blocks[3:] for node in block.nodes for _, v in ops.weight_slots(node)}
    own = {f"{name}/depth" for name in copied} | {f"{name}/normals" for name in late}
    assert {name for name in values if "/" in name and head_of_weight(values[name]) is None} == own
    for name in own:
        copy, original = values[name], values[name.rpartition("/")[0]]
        assert np.array_equal(copy.const_value.numpy(), original.const_value.numpy())
        expected = Role.STATISTIC if role_of(original) is Role.STATISTIC else Role.OWN
        assert role_of(copy) is expected
    assert {role_of(values[name]) for name in originals} == {Role.BACKBONE, Role.STATISTIC}


def head_of_weight(value: ir.Value) -> str | None:
    return next(head_of(use.node) for use in value.uses())


def test_the_layout_is_in_the_metadata_and_its_tasks_may_come_in_any_order(backbone):
    blocks = backbone_blocks(backbone)
    layout = Layout.from_id(TASKS.names, 5, 13)
    made = tree(backbone, layout.for_tasks(("normals", "seg", "depth")), blocks)
    assert Layout.from_json(made.metadata_props["onnxmtl.layout"]) == layout
    assert to_bytes(made) == to_bytes(tree(backbone, layout, blocks))


def test_all_shared_changes_nothing_but_the_metadata(backbone):
    start = multitask(backbone)
    made = tree(backbone, Layout.shared(TASKS.names, 5), backbone_blocks(backbone))
    del made.metadata_props["onnxmtl.layout"]
    assert to_bytes(made) == to_bytes(start)


def test_the_space_by_name(backbone):
    pass_ = space("tree", layout=Layout.shared(TASKS.names, 5), blocks=backbone_blocks(backbone))
    assert isinstance(pass_, Tree)


# Backbones of other shapes


def two_features() -> ir.Model:
    """Tasks may read the middle: the block behind it is not theirs."""
    b = GraphBuilder(size=8)
    x = b.block(b.image, 4, name="stem")
    x = b.residual(x, 6, 2)
    x.name = "middle"
    y = b.residual(x, 6)
    y.name = "end"
    b.graph.outputs.extend([x, y])
    return normalize(ir.Model(b.graph, ir_version=10), features=["middle", "end"])


def test_a_task_that_reads_an_earlier_feature_has_nothing_behind_it():
    backbone = two_features()
    seg, depth, normals = TASKS
    tasks = TaskSet((seg.replace(features=("middle",)), depth, normals))
    blocks = backbone_blocks(backbone)
    layout = Layout.separate(tasks.names, len(blocks))
    made = tree(backbone, layout, blocks, tasks)
    madds = [sum(map(ops.multiply_adds, block.nodes)) for block in blocks]
    assert [block.name for block in blocks][1:] == ["middle", "end"]
    assert count(made).multiply_adds_trunk == 3 * sum(madds) - madds[-1]
    # The first task that is there keeps the original weights.
    used = weights_by_task(made)
    last = {name for node in blocks[-1].nodes for name in sources(node)}
    assert not last & set(used["seg"])
    kept = {value.name for name in last for value in used["depth"][name]}
    assert kept and not any("/" in name for name in kept)
    assert equal_results(multitask(backbone, tasks), made)


def test_the_end_of_a_backbone_that_no_task_reads():
    backbone = two_features()
    tasks = TaskSet(tuple(task.replace(features=("middle",)) for task in TASKS))
    blocks = backbone_blocks(backbone)
    made = tree(backbone, Layout.separate(tasks.names, len(blocks)), blocks, tasks)
    madds = [sum(map(ops.multiply_adds, block.nodes)) for block in blocks]
    assert count(made).multiply_adds_trunk == 3 * sum(madds[:-1])


def tied() -> ir.Model:
    """Two blocks with one kernel, tied on purpose."""
    b = GraphBuilder(channels=4, size=8)
    x = b.relu(b.conv(b.image, 4, name="first"))
    kernel = x.producer().inputs[0].producer().inputs[1]
    x = b.node("Conv", [x, kernel], x.shape, "second", kernel_shape=[3, 3], pads=[1] * 4)
    x = b.relu(x)
    x.name = "end"
    b.graph.outputs.append(x)
    model = ir.Model(b.graph, ir_version=10)
    for node in b.graph:
        for value in node.inputs:
            if value.is_initializer():
                value.metadata_props[ops.weights.TIED_KEY] = "yes"
    return normalize(model)


def test_a_tied_weight_stays_tied_along_each_path():
    """Tasks 1 and 2 part from 0 before the first block, and from each other before the second."""
    backbone = tied()
    blocks = backbone_blocks(backbone)
    assert len(blocks) == 2
    made = tree(backbone, Layout(TASKS.names, (((0,), (1, 2)), ((0,), (1,), (2,)))), blocks)
    used = {task: [used[name] for name in ("first", "second")] for task, used in weights_by_task(made).items()}
    names = {task: [{v.name for v in values if "weight" in v.name} for values in found] for task, found in used.items()}
    assert names == {
        "seg": [{"first.weight"}, {"first.weight"}],
        "depth": [{"first.weight/depth"}, {"first.weight/depth"}],
        "normals": [{"first.weight/depth"}, {"first.weight/normals"}],
    }


@pytest.mark.parametrize("name", ["resnet18", "vit", "densenet"])
def test_networks_of_the_zoo(name):
    backbone = zoo.backbone(name)
    blocks = backbone_blocks(backbone, groups=4)
    check(backbone, random_layout(TASKS.names, 4, 3), blocks)
    check(backbone, Layout.separate(TASKS.names, 4), blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_every_network_of_the_zoo(name):
    backbone = zoo.backbone(name)
    blocks = backbone_blocks(backbone, k=4)
    for seed in range(3):
        layout = random_layout(TASKS.names, len(blocks), seed).with_blocks([block.name for block in blocks])
        made = tree(backbone, layout, blocks)
        found = layout_blocks(backbone, layout)
        assert [[n.name for n in block.nodes] for block in found] == [[n.name for n in b.nodes] for b in blocks]
        assert equal_results(multitask(backbone), made)


def test_several_tensors_alive_at_a_branching_point():
    """An encoder and a decoder with a connection around the middle: the groups part while two tensors are alive."""
    b = GraphBuilder(size=8)
    first = b.block(b.image, 4, name="stem")
    down = b.block(first, 6, stride=2, name="down")
    down.name = "down_end"
    up = b.node("Resize", [down, None, b.weight("scales", np.array([1, 1, 2, 2]))], ["N", 6, 8, 8], "up")
    out = b.block(b.concat(first, up), 4, name="out")
    b.graph.outputs.append(out)
    backbone = normalize(ir.Model(b.graph, ir_version=10))
    blocks = backbone_blocks(backbone, at=["down_end"], k=2)
    assert len(blocks) == 2 and len(blocks[0].outputs) == 2
    for number in (0, 2, 5, 11):
        layout = Layout.from_id(TASKS.names, 2, number).with_blocks([block.name for block in blocks])
        check(backbone, layout, layout_blocks(backbone, layout))


# What is refused


def test_requirements(backbone):
    blocks = backbone_blocks(backbone)
    layout = Layout.shared(TASKS.names, 5)
    with pytest.raises(Refused, match="no task heads; run AttachHeads first"):
        Tree(layout, blocks)(clone(backbone))
    with pytest.raises(Refused, match="holds Choices"):
        Tree(layout, blocks)(Vcn()(multitask(backbone)).model)
    with pytest.raises(Refused, match="tree: the layout is for the tasks a, b, c, not for seg, depth, normals"):
        Tree(Layout.shared(("a", "b", "c"), 5), blocks)(multitask(backbone))
    with pytest.raises(Refused, match="the layout has 4 blocks, but 5 blocks are given"):
        Tree(Layout.shared(TASKS.names, 4), blocks)(multitask(backbone))
    with pytest.raises(Refused, match=r"node 'last' is in none of the blocks; give those of this graph's backbone"):
        Tree(Layout.shared(TASKS.names, 4), blocks[:-1])(multitask(backbone))


def test_blocks_that_a_layout_names(backbone):
    blocks = backbone_blocks(backbone, groups=3)
    names = [block.name for block in blocks]
    layout = Layout.shared(TASKS.names, 3)

    def nodes(found):
        return [[node.name for node in block.nodes] for block in found]

    assert nodes(layout_blocks(backbone, layout.with_blocks(names))) == nodes(blocks)
    assert nodes(layout_blocks(backbone, layout)) == nodes(blocks)
    with pytest.raises(ModelError, match="the layout does not fit the backbone: there is no tensor, node or boundary"):
        layout_blocks(backbone, layout.with_blocks([names[0], "nowhere", names[2]]))
    with pytest.raises(
        ModelError, match=f"the layout does not fit the backbone: no block of it ends with '{names[1]}'"
    ):
        layout_blocks(backbone, layout.with_blocks([names[1], names[0], names[2]]))
    with pytest.raises(ModelError, match="no block of it ends with 'end'"):
        layout_blocks(backbone, layout.with_blocks([names[0], names[1], "end"]))
    with pytest.raises(ModelError, match="cannot be cut into 9 groups: it has 5 blocks"):
        layout_blocks(backbone, Layout.shared(TASKS.names, 9))
