"""Large networks: nothing is lost, nothing recurses, external weights are not read, own copies take no room."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import small_resnet
from helpers.scale import Shape, write_network

from onnxmtl import ir as graphs
from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import Agreement, SiteTable
from onnxmtl.cost.count import count
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.errors import ModelError
from onnxmtl.frontends.onnx import load
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants, DumpOnnx, NumericGuard, find_violation
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import Vcn
from onnxmtl.policy import Architecture, Policy
from onnxmtl.policy.decoders import sample
from onnxmtl.workflows.importing import load as import_backbone

FIVE = "seg=segmentation:4,depth,normals,edges,parts=segmentation:3"


def supermodel_of(path: Path, tasks: TaskSet) -> tuple[ir.Model, ir.Model]:
    """The normalized backbone, and the supermodel made of it."""
    backbone = normalize(load(path), instruments=[CheckInvariants()])
    watched = [CheckInvariants()]
    return backbone, Pipeline([AttachHeads(tasks, 0), Vcn()], instruments=watched)(graphs.clone(backbone)).model


def decided(supermodel: ir.Model, table: SiteTable, architecture: Architecture) -> ir.Model:
    """The supermodel with one-hot logits: in ONNX Runtime it computes what the architecture selects."""
    copy = graphs.clone(supermodel)
    for choice in graphs.choices(copy.graph):
        taken = choice.names.index(architecture.choices[choice.site][choice.task])
        logits = np.full(len(choice.names), -200.0, np.float32)
        logits[taken] = 200.0
        choice.logits.const_value = ir.tensor(logits, name=choice.logits.name)
    return copy


def check_whole_way(path: Path, folder: Path, *, as_supermodel: bool = True) -> None:
    """Import, supermodel, select and finalize; the result computes what the supermodel does.

    ONNX Runtime takes long to expand thousands of Choices: large networks are compared with the selected model.
    """
    tasks = TaskSet.parse(FIVE)
    backbone, supermodel = supermodel_of(path, tasks)
    table = site_table(supermodel)
    convolutions = sum(node.op_type == "Conv" for node in backbone.graph)
    norms_alone = sum(site.option_names == ("shared", "own") for site in table.sites)
    assert len(table.sites) - norms_alone == convolutions
    # The names of the user's nodes all come back, each as a site or as the source of something.
    kept = {name for node in supermodel.graph for name in graphs.sources(node)}
    assert {node.name for node in backbone.graph} <= kept
    # Few skips: around a residual block each of them doubles the signal.
    weights = {"shared": 0.6, "own": 0.4, "skip": 0.01}
    odds = [np.array([[weights[name] for name in site.option_names]] * len(tasks)) for site in table.sites]
    (architecture,) = sample(Policy.of_probabilities(table, odds), 1, seed=3)
    selected = Pipeline(select_passes(architecture), instruments=[CheckInvariants()])(graphs.clone(supermodel)).model
    # What is expected of certain draws is what is counted.
    expected = ExpectedCost(table).multiply_adds(architecture.probabilities(table), np.zeros(0))
    assert float(expected) == pytest.approx(count(selected).multiply_adds, rel=1e-12)
    passes = finalize_passes(tasks, {"layout": "NCHW"})
    final = Pipeline(passes, instruments=[CheckInvariants()])(graphs.clone(selected)).model
    assert find_violation(final.graph) is None
    image = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    ours = runtime.run(graphs.save(final, folder / "final.onnx"), image)
    raw = [name for name in tasks.names if tasks[name].output in ("logits", "raw")]
    other = decided(supermodel, table, architecture) if as_supermodel else selected
    theirs = runtime.run(graphs.save(other, folder / "other.onnx"), image)
    assert raw
    for name in raw:
        scale = float(np.max(np.abs(theirs[name])))
        assert np.isfinite(scale) and scale > 0
        assert float(np.max(np.abs(ours[name] - theirs[name]))) <= 1e-3 * scale


@pytest.mark.parametrize("shape", ["residual", "inception", "dense"])
def test_a_hundred_nodes(tmp_path: Path, shape: Shape) -> None:
    check_whole_way(write_network(tmp_path / "net.onnx", 100, shape=shape), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("nodes", [2_000, 10_000])
def test_many_nodes(tmp_path: Path, nodes: int) -> None:
    check_whole_way(write_network(tmp_path / "net.onnx", nodes), tmp_path, as_supermodel=False)


def in_a_process(code: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    tests = str(Path(__file__).parent)
    program = f"import sys; sys.path.insert(0, {tests!r})\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


WAY = """
    from pathlib import Path
    from helpers.scale import peak_megabytes, write_network
    from onnxmtl import ir as graphs
    from onnxmtl.analysis.sites import site_table
    from onnxmtl.cost.count import count
    from onnxmtl.cost.expected import ExpectedCost
    from onnxmtl.frontends.onnx import load
    from onnxmtl.kinds import TaskSet
    from onnxmtl.passes.finalize import finalize_passes
    from onnxmtl.passes.heads import AttachHeads
    from onnxmtl.passes.instruments import CheckInvariants
    from onnxmtl.passes.normalize import normalize
    from onnxmtl.passes.pipelines import Pipeline
    from onnxmtl.passes.select import select_passes
    from onnxmtl.passes.spaces import Vcn
    from onnxmtl.policy import Architecture
    watch = [CheckInvariants()]
"""
DEEP = (
    WAY
    + """
    import onnx.reference, torch  # what is imported late recurses on its own account
    path = write_network(Path(sys.argv[1]), int(sys.argv[2]), shape="plain", backwards=True)
    tasks = TaskSet.parse("a=segmentation:2,b=depth")
    import inspect
    sys.setrecursionlimit(len(inspect.stack()) + 120)
    backbone = normalize(load(path), instruments=watch)
    model = Pipeline([AttachHeads(tasks, 0), Vcn()], instruments=watch)(graphs.clone(backbone)).model
    table = site_table(model)
    ExpectedCost(table)
    graphs.save(model, path)
    model = graphs.load(path)
    assert site_table(model).sites == table.sites
    choices = Architecture.uniform(table, "shared").choices
    architecture = Architecture({site: {"a": "shared", "b": "own"} for site in choices})
    model = Pipeline(select_passes(architecture), instruments=watch)(model).model
    count(model)
    model = Pipeline(finalize_passes(tasks, {}), instruments=watch)(model).model
    print(len(backbone.graph), len(table.sites), sum(node.op_type == "Conv" for node in model.graph))
"""
)


@pytest.mark.parametrize("nodes", [400, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_deep_chain_listed_backwards_needs_no_recursion(tmp_path: Path, nodes: int) -> None:
    backbone, sites, convolutions = map(int, in_a_process(DEEP, str(tmp_path / "net.onnx"), str(nodes)).split())
    assert nodes <= backbone <= nodes + 3
    assert sites >= nodes // 2 - 1
    assert convolutions >= 2 * sites


LAZY = (
    WAY
    + """
    path = write_network(Path(sys.argv[1]), 600, channels=512, kernel=3, data="sparse")
    start = peak_megabytes()
    backbone = normalize(load(path), instruments=watch)
    tasks = TaskSet.parse("a=segmentation:2,b=depth,c=depth,d=depth,e=edges")
    model = Pipeline([AttachHeads(tasks, 0), Vcn()], instruments=watch)(graphs.clone(backbone)).model
    site_table(model)
    own = [v for v in model.graph.initializers.values() if graphs.role_of(v) is graphs.Role.OWN]
    tensors = {id(v.const_value) for v in backbone.graph.initializers.values()}
    print(graphs.weight_bytes(backbone), graphs.weight_bytes(model), peak_megabytes() - start, len(own))
    print(all(id(v.const_value) in tensors and not v.const_value.file.mapped
              for v in own if isinstance(v.const_value, graphs.MappedTensor)))
    print(sum(isinstance(v.const_value, graphs.MappedTensor) for v in own))
"""
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory of a process from /proc")
def test_external_weights_are_not_read(tmp_path: Path) -> None:
    output = in_a_process(LAZY, str(tmp_path / "net.onnx")).split()
    backbone, supermodel, grown, own, aliased, mapped = output
    assert int(backbone) > 1.3e9 and int(supermodel) > 7e9
    assert float(grown) < 300
    assert aliased == "True" and int(mapped) == int(own) > 500


def test_own_copies_are_one_place_in_the_file_until_trained(tmp_path: Path) -> None:
    model = small_resnet({"a": 1, "b": 1, "c": 1}, width=16)
    trunk = sum(v.const_value.nbytes for v in model.graph.initializers.values())
    Vcn()(model)
    path = graphs.save_external(model, tmp_path / "super.onnx", threshold=0)
    logits = sum(v.const_value.nbytes for v in model.graph.initializers.values() if "logits" in str(v.name))
    assert (tmp_path / "super.onnx.data").stat().st_size == trunk + logits
    again = graphs.load(path)
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), again.graph.initializers[name].const_value.numpy())
    own = [v for v in again.graph.initializers.values() if graphs.role_of(v) is graphs.Role.OWN]
    for value in own:
        shared = again.graph.initializers[str(value.name).rpartition("/")[0]]
        assert value is not shared and value.const_value is shared.const_value
    # A trained copy parts from the others.
    own[0].const_value = ir.tensor(own[0].const_value.numpy() + 1, name=own[0].name)
    (tmp_path / "b").mkdir()
    graphs.save_external(again, tmp_path / "b" / "super.onnx", threshold=0)
    trained = graphs.load(tmp_path / "b" / "super.onnx").graph.initializers
    difference = {name for name in trained if not same(trained[name], model.graph.initializers[name])}
    assert difference == {own[0].name}
    image = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    inside = runtime.run(graphs.to_bytes(model), {"image": image})
    for task, output in runtime.run(path, {"image": image}).items():
        np.testing.assert_array_equal(output, inside[task])


def same(a: ir.Value, b: ir.Value) -> bool:
    assert a.const_value is not None and b.const_value is not None
    return bool(np.array_equal(a.const_value.numpy(), b.const_value.numpy()))


def test_many_external_tensors_take_one_file_descriptor(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from helpers.scale import write_network
        from onnxmtl.frontends.onnx import load
        from pathlib import Path
        path = write_network(Path(sys.argv[1]), 300, data="external")
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        values = load(path).graph.initializers.values()
        print(len(values), sum(float(v.const_value.numpy().sum()) != 0 for v in values))
    """
    tensors, read = map(int, in_a_process(code, str(tmp_path / "net.onnx")).split())
    assert tensors == read > 300


def test_too_large_for_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where protobuf ends, instruments and saving go through a file, and serialising says so."""
    for module in ("onnxmtl.ir.io", "onnxmtl.passes.instruments", "onnxmtl.workflows.importing"):
        monkeypatch.setattr(f"{module}.EXTERNAL_DATA_BYTES", 1000)
    path = write_network(tmp_path / "net.onnx", 20)
    with pytest.raises(ModelError, match="more than one ONNX message holds; save the model to a file"):
        graphs.to_bytes(load(path))
    inputs = {"image": np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)}
    dump = DumpOnnx(tmp_path / "dump")
    normalize(load(path), instruments=[NumericGuard(inputs), dump])
    assert sorted((tmp_path / "dump").glob("*.onnx.data"))
    backbone = import_backbone(path)
    assert "not-guarded" in {d.code for d in graphs.diagnostics(backbone)}


def test_an_agreement_is_a_mapping() -> None:
    base = Agreement(None, {2: (0, 1), 0: (1,)})
    more = Agreement(base, {5: (0,)})
    assert dict(more) == {0: (1,), 2: (0, 1), 5: (0,)} == more and list(more) == [0, 2, 5]
    assert more[2] == (0, 1) and len(more) == 3 and 5 in more and 1 not in more and 5 not in base
    assert more != base and more.possible and not Agreement(more, {1: ()}).possible
    with pytest.raises(KeyError):
        more[1]
    with pytest.raises(ValueError, match="site 2 already"):
        Agreement(more, {2: (0,)})
