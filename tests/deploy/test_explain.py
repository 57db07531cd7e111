"""Why a rewrite did not apply: every reason is found where it is, on a graph made to have it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import small_resnet
from helpers.networks import Network, parse, small_network

from onnxmtl.analysis.sites import site_table
from onnxmtl.cli import main
from onnxmtl.deploy.explain import Explanation, ImportOptions, explain, write_diagnostics
from onnxmtl.errors import ModelError, RunError
from onnxmtl.ir import Diagnostic, carry, diagnostics, report, save
from onnxmtl.ir.diagnostics import MOST_PER_CODE
from onnxmtl.passes.finalize import DedupInitializers, FoldBatchNorm
from onnxmtl.passes.normalize.batchnorm import InsertBatchNorm
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.sequences import SplitSequences
from onnxmtl.passes.normalize.shapes import InferShapes
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.select.merge import MergeEqualNodes
from onnxmtl.passes.spaces.vcn import Vcn
from onnxmtl.passes.spaces.why import explain_sites, explain_skips
from onnxmtl.policy import Architecture


def said(model: ir.Model, code: str) -> dict[str, str]:
    """Node -> message of the diagnostics with this code."""
    return {d.node: d.message for d in diagnostics(model) if d.code == code}


def network(build) -> ir.Model:
    net = Network(("N", 4, 8, 8))
    out = build(net)
    out.shape = ir.Shape(["N", 4, 8, 8])
    return net.model(out)


class TestDiagnostics:
    def test_kept_once_in_order_and_bounded(self):
        model = small_network()
        report(model, Diagnostic("b", "first"))
        for i in range(MOST_PER_CODE + 5):
            report(model, Diagnostic("a", f"message {i}"))
        report(model, Diagnostic("b", "first"))
        report(model, Diagnostic("b", "last"))
        found = diagnostics(model)
        assert found[0].message == "first" and found[-1].message == "last"
        assert sum(d.code == "a" for d in found) == MOST_PER_CODE and sum(d.code == "b" for d in found) == 2

    def test_survive_a_pass_that_copies(self):
        class Copy(ir.passes.FunctionalPass):
            def call(self, model):
                return ir.passes.PassResult(model.clone(), True)

        model = small_network()
        report(model, Diagnostic("a", "said before"))
        result = Pipeline([Copy()])(model).model
        assert result is not model and diagnostics(result) == diagnostics(model)
        report(result, Diagnostic("b", "of the copy"))
        assert len(diagnostics(model)) == 1

    def test_carry_to_itself_is_nothing(self):
        model = small_network()
        report(model, Diagnostic("a", "x"))
        carry(model, model)
        assert len(diagnostics(model)) == 1


class TestFoldBatchNorm:
    def reason(self, build) -> str:
        model = InferShapes()(network(build)).model
        FoldBatchNorm()(model)
        return said(model, "batchnorm-not-folded").get("bn", "")

    def test_folded(self):
        assert self.reason(lambda n: n.norm(n.conv(n.image, 4, 4, name="c"), 4, "bn")) == ""

    def test_no_operator(self):
        assert "no operator comes before it" in self.reason(lambda n: n.norm(n.image, 4, "bn"))

    def test_an_activation_before(self):
        assert "follows Relu 'r'" in self.reason(lambda n: n.norm(n.add("Relu", [n.image], "r"), 4, "bn"))

    def test_read_by_others(self):
        def build(net):
            x = net.conv(net.image, 4, 4, name="c")
            return net.add("Add", [net.norm(x, 4, "bn"), net.add("Relu", [x], "other")], "sum")

        assert "is read by 'other' too" in self.reason(build)

    def test_weights_serve_another(self):
        def build(net):
            x = net.conv(net.image, 4, 4, name="c")
            weight = x.producer().inputs[1]
            y = net.add("Conv", [net.add("Relu", [net.image], "r"), weight], "d", pads=[1] * 4)
            return net.add("Add", [net.norm(x, 4, "bn"), y], "sum")

        assert "the weight 'c.w' serves 'd' too" in self.reason(build)


class TestMergeEqualNodes:
    TEXT = """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2] x, float[N,2] z) => (float[N,2] a, float[N,2] b) <float[2,2] w = {1.0, 2.0, 3.0, 4.0}>
        { [one] p = MatMul(x, w) [two] q = MatMul(z, w) [ra] a = Relu(p) [rb] b = Relu(q) }"""

    def test_other_inputs(self):
        model = parse(self.TEXT)
        MergeEqualNodes()(model)
        assert said(model, "nearly-equal") == {
            "two": "has the weights of 'one' but stays a node of its own: its input 0 is 'z', the other's 'x'"
        }

    def test_other_attributes(self):
        model = parse("""<ir_version: 10, opset_import: ["" : 21]>
            g (float[N,2] x) => (float[N,2] a, float[N,2] b) <float[2,2] w = {1.0, 2.0, 3.0, 4.0}>
            { [one] p = Gemm(x, w) [two] q = Gemm <alpha = 2.0> (x, w) [ra] a = Relu(p) [rb] b = Relu(q) }""")
        MergeEqualNodes()(model)
        assert "its alpha is 2.0, the other's None" in said(model, "nearly-equal")["two"]

    def test_shared_sizes_are_no_weights(self):
        model = parse("""<ir_version: 10, opset_import: ["" : 21]>
            g (float[1,1,4,4] x, float[1,1,4,4] z) => (float[1,1,8,8] a, float[1,1,8,8] b)
            <float[4] s = {1.0, 1.0, 2.0, 2.0}>
            { [one] a = Resize(x, , s) [two] b = Resize(z, , s) }""")
        MergeEqualNodes()(model)
        assert said(model, "nearly-equal") == {}

    def test_merged_ones_need_no_explanation(self):
        model = parse(self.TEXT.replace("MatMul(z, w)", "MatMul(x, w)"))
        assert MergeEqualNodes()(model).modified
        assert not diagnostics(model)


class TestVcn:
    def test_what_is_no_site_and_why(self):
        def build(net):
            x = net.conv(net.image, 4, 4, name="c")
            x = net.add("PRelu", [x, net.weight("slope", net.normal(4, 1, 1))], "prelu")
            x = net.norm(x, 4, "late")
            y = net.conv(x, 4, 4, name="d")
            return net.add("Add", [net.norm(y, 4, "own"), net.add("Relu", [y], "other")], "sum")

        found = {d.node: d for d in explain_sites(network(build).graph)}
        assert "PRelu is no site" in found["prelu"].message
        assert "PRelu 'prelu' stands between" in found["late"].message
        assert "is read by 'other' too" in found["own"].message

    def test_which_skips_are_not_offered(self):
        def build(net):
            return net.norm(net.conv(net.image, 4, 4, k=3, pads=[2] * 4, dilations=[1, 1], name="wide"), 4, "bn")

        found = {d.node: d.message for d in explain_skips(network(build).graph)}
        assert "not the input size divided by the stride" in found["wide"]

    def test_sites_that_are_forced_or_not_needed(self):
        model = Vcn(shared_prefix=1)(small_resnet({"a": 2, "b": 3})).model
        (message,) = said(model, "site-not-made").values()
        assert "force to be shared" in message
        alone = Vcn()(small_resnet({"a": 2})).model
        assert all("only task 'a' comes by" in text for text in said(alone, "site-not-made").values())
        assert said(alone, "site-not-made")


class TestOthers:
    def test_dedup_says_which_weights_stay_two(self):
        model = Vcn()(small_resnet({"a": 2, "b": 3})).model
        selected = Pipeline(select_passes(Architecture.uniform(site_table(model), "own")))(model).model
        DedupInitializers()(selected)
        found = said(selected, "weights-kept-apart")
        assert found and all("stays a weight of its own" in text for text in found.values())
        merged = selected.clone()
        DedupInitializers(weights=True)(merged)
        assert not said(merged, "weights-kept-apart")

    def test_insert_says_where_not(self):
        def build(net):
            pooled = net.add("GlobalAveragePool", [net.image], "pool")
            pooled.shape = ir.Shape(["N", 4, 1, 1])
            gate = net.conv(pooled, 4, 4, k=1, bias=True, name="squeeze")
            gate.shape = ir.Shape(["N", 4, 1, 1])
            return net.add("Mul", [net.conv(net.image, 4, 4, name="plain"), gate], "scale")

        model = network(build)
        InsertBatchNorm()(model)
        found = said(model, "no-batchnorm-inserted")
        assert "its map is 1x1" in found["squeeze"] and "it has no bias" in found["plain"]

    def test_fold_says_what_is_too_large(self):
        model = parse("""<ir_version: 10, opset_import: ["" : 21]>
            g (float[N] x) => (float[N] y) <int64[1] n = {1000}>
            { [big] c = ConstantOfShape(n)  s = ReduceSum(c)  y = Add(x, s) }""")
        FoldConstants(limit=100)(model)
        assert "4000 bytes, more than the limit of 100" in said(model, "not-folded")["big"]

    def test_sequences_that_stay(self):
        model = parse("""<ir_version: 10, opset_import: ["" : 21]>
            g (float[4,2] x) => (int64 n) { [cut] s = SplitToSequence(x)  [size] n = SequenceLength(s) }""")
        SplitSequences()(model)
        assert "SequenceLength 'size' takes all of it" in said(model, "sequence-kept")["cut"]


class TestExplain:
    @pytest.fixture
    def file(self, tmp_path):
        def build(net):
            x = net.conv(net.image, 4, 4, name="c")
            x = net.add("Add", [net.norm(x, 4, "bn"), net.add("Relu", [x], "other")], "sum")
            return net.add("Relu", [x], "last")

        return save(network(build), tmp_path / "net.onnx")

    def test_a_backbone(self, file):
        found = {(entry.stage, entry.code, entry.node) for entry in explain(file)}
        assert ("space", "norm-not-absorbed", "bn") in found
        assert ("finalize", "batchnorm-not-folded", "bn") in found

    def test_a_backbone_that_is_refused(self, tmp_path):
        model = parse("""<ir_version: 10, opset_import: ["" : 21]>
            g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }""")
        (last,) = (e for e in explain(save(model, tmp_path / "flat.onnx")) if e.code == "refused")
        assert last.stage == "import" and last.reason

    def test_a_supermodel(self, tmp_path):
        model = Vcn()(small_resnet({"a": 2, "b": 3})).model
        found = explain(save(model, tmp_path / "super.onnx"))
        assert {entry.code for entry in found} == {"nearly-equal"}

    def test_a_run(self, tmp_path, file):
        model = small_network()
        report(model, Diagnostic("code", "said then", "node", "hint"))
        (tmp_path / "run" / "phases" / "01-import").mkdir(parents=True)
        with pytest.raises(RunError, match="has not recorded anything"):
            explain(tmp_path / "run")
        write_diagnostics(tmp_path / "run" / "phases" / "01-import", space=model)
        assert explain(tmp_path / "run") == (Explanation("space", "code", "node", "said then", "hint"),)

    def test_no_file(self, tmp_path):
        with pytest.raises(ModelError, match="no such file"):
            explain(tmp_path / "a.onnx")

    def test_command(self, file, capsys):
        assert main(["explain", str(file), "--code", "batchnorm-not-folded", "--json"]) == 0
        (entry,) = json.loads(capsys.readouterr().out)
        assert entry["node"] == "bn" and entry["hint"] and entry["stage"] == "finalize"
        assert main(["explain", str(file), "--node", "bn"]) == 0
        printed = capsys.readouterr().out
        assert "batchnorm-not-folded" in printed and "features-found" not in printed
        assert main(["explain", str(file), "--node", "no such node"]) == 0
        assert "nothing of that kind to explain" in capsys.readouterr().out
        assert main(["explain", str(file) + "x"]) == 1
        assert capsys.readouterr().err.startswith("error: ")

    def test_a_backbone_is_imported_as_asked(self, file, tmp_path, capsys):
        found = explain(file, options=ImportOptions(input_size=(32, 32)))
        assert "input-size" in {entry.code for entry in found}
        assert main(["explain", str(file), "--input-size", "32", "--batchnorm", "insert", "--json"]) == 0
        codes = {entry["code"] for entry in json.loads(capsys.readouterr().out)}
        assert "input-size" in codes
        with pytest.raises(ModelError, match="no tensor or node 'nothing'"):
            explain(file, options=ImportOptions(features=("nothing",)))

    def test_options_of_the_import_are_for_backbones(self, tmp_path):
        (tmp_path / "phases").mkdir()
        assert main(["explain", str(tmp_path), "--output-stride", "8"]) == 1
        with pytest.raises(ModelError, match="is a run; options of the import are for backbones only"):
            explain(tmp_path, options=ImportOptions(output_stride=8))

    def test_command_without_torch(self, file):
        code = f"""
import sys
from onnxmtl.cli import main
assert main(["explain", {str(file)!r}]) == 0
assert "torch" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_long_network_is_explained_in_linear_time():
    """Ten thousand weights, hundreds of remarks: one walk."""
    net = Network(("N", 1, 1, 1))
    x, one = net.image, net.weight("w", np.ones((1, 1, 1, 1), np.float32))
    for i in range(3000):
        x = net.add("Conv", [x, one], f"c{i}")
    model = net.model(x)
    MergeEqualNodes()(model)
    assert len(diagnostics(model)) == MOST_PER_CODE
