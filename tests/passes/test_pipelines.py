"""Pipelines and what watches them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.networks import Network, image_of, small_network

from onnxmtl.errors import ModelError
from onnxmtl.ir.passes import FunctionalPass, InPlacePass, PassError, PassResult, Sequential
from onnxmtl.passes.instruments import BaseInstrument, CheckInvariants, DumpOnnx, NumericGuard, Timing, relative_error
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.pipelines import Pipeline, import_pipeline


class Nothing(InPlacePass):
    preserves_numerics = True

    def call(self, model):
        return PassResult(model, False)


class Do(InPlacePass):
    """Applies a function to the graph."""

    def __init__(self, function, *, preserves_numerics=False, changes_outputs=False) -> None:
        self.function = function
        self.preserves_numerics = preserves_numerics
        self.changes_outputs = changes_outputs

    def call(self, model):
        self.function(model.graph)
        return PassResult(model, True)


class Copy(FunctionalPass):
    def call(self, model):
        return PassResult(model.clone(), False)


class Log(BaseInstrument):
    def __init__(self, skip=()) -> None:
        self.lines, self.skip = [], skip

    def should_run(self, pass_, model):
        return type(pass_).__name__ not in self.skip

    def before(self, pass_, model):
        self.lines.append(f"before {type(pass_).__name__}")

    def after(self, pass_, model, modified):
        self.lines.append(f"after {type(pass_).__name__} {modified}")


def raising(error):
    def function(graph):
        raise error

    return Do(function)


class TestPipeline:
    def test_instruments_see_every_pass_and_nested_pipelines(self):
        log = Log()
        Pipeline([Nothing(), Pipeline([Do(lambda graph: None)])], instruments=[log])(small_network())
        assert log.lines == ["before Nothing", "after Nothing False", "before Do", "after Do True"]

    def test_modified_is_the_or_of_the_passes(self):
        assert not Pipeline([Nothing(), Nothing()])(small_network()).modified
        assert Pipeline([Nothing(), Do(lambda graph: None)])(small_network()).modified

    def test_an_instrument_can_hold_a_pass_back(self):
        log = Log(skip=("Do",))
        Pipeline([raising(ValueError("no")), Nothing()], instruments=[log])(small_network())
        assert log.lines == ["before Nothing", "after Nothing False"]

    def test_user_errors_pass_through(self):
        with pytest.raises(ModelError, match=r"^yours$"):
            Pipeline([Pipeline([raising(ModelError("yours"))])])(small_network())

    def test_other_errors_name_the_pass(self):
        with pytest.raises(PassError, match=r"pass Do failed in the test: ValueError: oh") as e:
            Pipeline([raising(ValueError("oh"))], name="test")(small_network())
        assert isinstance(e.value.__cause__, ValueError)

    def test_a_user_error_in_a_precondition_passes_through(self):
        class Picky(Nothing):
            def requires(self, model):
                raise ModelError("picky")

        with pytest.raises(ModelError, match=r"^picky$"):
            Pipeline([Picky()])(small_network())

    def test_copies_are_declared(self):
        model = small_network()
        pipeline = Pipeline([Copy(), Nothing()])
        assert not pipeline.in_place
        assert not pipeline.changes_input
        assert pipeline(model).model is not model
        assert Pipeline([Copy()], instruments=[Log(skip=("Copy",))])(model).model is not model
        assert Pipeline([Nothing()])(model).model is model

    def test_inside_onnx_irs_own_sequential(self):
        result = Sequential(Nothing(), Pipeline([Nothing()]))(small_network())
        assert not result.modified


def rename(graph):
    graph.outputs[0].name = "other"


def duplicate_node_name(graph):
    graph[1].name = graph[0].name


def duplicate_value_name(graph):
    graph[2].outputs[0].name = graph[1].outputs[0].name


def disorder(graph):
    nodes = list(graph)
    graph.remove(nodes[0])
    graph.insert_after(nodes[1], nodes[0])


def unnamed(graph):
    graph[0].name = ""


def weightless(graph):
    next(iter(graph.initializers.values())).const_value = None


def constant_output(graph):
    value = graph.initializers["fc.w"]
    node = ir.node("Relu", [value], outputs=[ir.Value(name="fc_out2")], name="constant")
    graph.append(node)
    graph.outputs.append(node.outputs[0])


class TestCheckInvariants:
    @pytest.mark.parametrize(
        ("breakage", "what"),
        [
            (rename, "outputs were"),
            (duplicate_node_name, "two nodes are called 'stem'"),
            (duplicate_value_name, "used twice"),
            (disorder, "before it is defined"),
            (unnamed, "has no name"),
            (weightless, "has no data"),
        ],
    )
    def test_names_the_pass_and_the_fault(self, breakage, what):
        with pytest.raises(PassError, match=rf"pass Do left a broken graph: .*{what}"):
            Pipeline([Nothing(), Do(breakage)], instruments=[CheckInvariants()])(small_network())

    def test_an_output_must_depend_on_an_input(self):
        with pytest.raises(PassError, match=r"does not depend"):
            Pipeline([Do(constant_output, changes_outputs=True)], instruments=[CheckInvariants()])(small_network())

    def test_declared_changes_of_outputs_are_allowed(self):
        Pipeline([Do(rename, changes_outputs=True), Nothing()], instruments=[CheckInvariants()])(small_network())


def test_timing():
    timing = Timing()
    Pipeline([Nothing(), Do(lambda graph: None)], instruments=[timing])(small_network())
    assert [(time.name, time.modified) for time in timing.times] == [("Nothing", False), ("Do", True)]
    assert all(0 <= time.seconds < 5 for time in timing.times)


def test_dump_writes_models_and_a_readable_trace(tmp_path):
    dump = DumpOnnx(tmp_path / "trace")
    model = small_network()
    model.graph.outputs[0].shape = ir.Shape([1, 5])  # the checker wants it
    normalize(model, instruments=[dump])
    files = sorted(path.name for path in (tmp_path / "trace").glob("*.onnx"))
    assert files[0] == "00-NameNodes.onnx"
    for name in files:
        onnx.checker.check_model(tmp_path / "trace" / name)
    lines = (tmp_path / "trace" / "trace.txt").read_text().splitlines()
    assert len(lines) == len(files)
    (cut,) = [line for line in lines if "CutAtFeatures" in line]
    assert "15 -> 12 nodes" in cut
    assert "- fc, flatten, pool" in cut
    assert "outputs fc_out -> out_out" in cut
    assert any(line.endswith("unchanged") for line in lines)


class TestNumericGuard:
    def scale(self, graph):
        value = graph.initializers["stem.w"]
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.01), name="stem.w")

    def guarded(self, *passes):
        model = small_network()
        return Pipeline(passes, instruments=[NumericGuard({"image": image_of(model, 1)})])(model)

    def test_names_the_pass_that_broke_its_promise(self):
        with pytest.raises(PassError, match=r"pass Do changed the numbers: output 'fc_out' differs by"):
            self.guarded(Nothing(), Do(self.scale, preserves_numerics=True))

    def test_passes_without_a_promise_may_change_numbers(self):
        self.guarded(Do(self.scale), Nothing())

    def test_the_whole_import_keeps_its_promises(self):
        guard = NumericGuard({"image": image_of(small_network(), 1)}, rtol=1e-5)
        normalize(small_network(), instruments=[guard])

    def test_relative_error(self):
        assert relative_error(np.array([1.0, 2.2]), np.array([1.0, 2.0])) == pytest.approx(0.1)
        assert relative_error(np.array([1.0, 2.2]), np.array([1.0, 2.0]), scale=1.0) == pytest.approx(0.2)
        assert relative_error(np.zeros(2), np.zeros(3)) == float("inf")
        assert relative_error(np.zeros(2), np.zeros(2)) == 0
        assert relative_error(np.ones(2, np.float32), np.zeros(2, np.float32)) > 1e30
        assert relative_error(np.array([np.nan]), np.array([1.0])) == float("inf")
        assert relative_error(np.array([1.0]), np.array([np.inf])) == float("inf")
        assert relative_error(np.array([-np.inf]), np.array([np.inf])) == float("inf")
        assert relative_error(np.array([np.inf, np.nan, 1.0]), np.array([np.inf, np.nan, 1.0])) == 0
        assert relative_error(np.array([1, 3]), np.array([1, 2])) == 0.5


def test_the_import_pipeline_reads_like_a_list():
    names = [type(pass_).__name__ for pass_ in import_pipeline(output_stride=8, batchnorm="insert").passes]
    assert names[-2:] == ["StridesToDilations", "InsertBatchNorm"]
    assert names.index("FoldConstants") < names.index("CutAtFeatures") < names.index("DynamicBatch")


def test_refusals_are_one_line():
    net = Network()
    x = net.add("Gemm", [net.add("Flatten", [net.image]), net.weight("fc", net.normal(768, 5))])
    with pytest.raises(ModelError) as e:
        normalize(net.model(x))
    assert "\n" not in str(e.value)
