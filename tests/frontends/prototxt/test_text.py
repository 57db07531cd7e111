"""Prototxt text: every form the format has, every error with its line, nothing dropped without a word."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from helpers import caffe
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt import text
from onnxmtl.frontends.prototxt.schema import message
from onnxmtl.frontends.prototxt.text import parse


def first(body: str):
    return parse(f"layer {{ {body} }}").net.layer[0]


def test_every_way_to_write_a_field():
    net = parse(
        """# a comment { with brackets
        name : 'it\\'s { "a" } name' ; input: "a" "b", input: ["c", 'd']
        input_dim: [1, 0x10, 010] input_dim: -1
        layer < name: "x" # } not the end
          convolution_param: { num_output: 3 weight_filler: <type: "gaussian" std: 1e-2> bias_term: f }
          lrn_param { alpha: .5 beta: 2 k: 1.f norm_region: 1 }
          relu_param { negative_slope: inf } eltwise_param { coeff: [-1, -inf] operation: MAX }
        >
        layer [ { name: "y" }, { name: "z" } ]
        """
    ).net
    assert net.name == 'it\'s { "a" } name'
    assert list(net.input) == ["ab", "c", "d"]
    assert list(net.input_dim) == [1, 16, 8, -1]
    assert [layer.name for layer in net.layer] == ["x", "y", "z"]
    layer = net.layer[0]
    assert layer.convolution_param.num_output == 3 and layer.convolution_param.bias_term is False
    assert layer.convolution_param.weight_filler.std == pytest.approx(0.01)
    assert (layer.lrn_param.alpha, layer.lrn_param.k, layer.lrn_param.norm_region) == (0.5, 1.0, 1)
    assert layer.relu_param.negative_slope == float("inf")
    assert list(layer.eltwise_param.coeff) == [-1.0, float("-inf")]


def test_lines_are_those_of_the_file():
    document = parse('name: "n"\n\nlayer {\n  name: "x"\n  convolution_param {\n    num_output: 1\n  }\n}\nlayer { }\n')
    assert [source.line for source in document.layer] == [3, 9]
    assert [(place.path, place.line) for place in document.layer[0].fields] == [
        ("name", 4),
        ("convolution_param", 5),
        ("convolution_param.num_output", 6),
    ]
    assert [(place.path, place.line) for place in document.header.fields] == [("name", 1)]


def test_unknown_fields_are_listed_and_skipped_whole():
    document = parse(
        'a: 1\nlayer {\n name: "x"\n b { c: "}" d < e: [1, {f: 2}] > }\n convolution_param {\n g: [1, 2]\n pad: 2 } }'
    )
    assert [(p.path, p.line) for p in document.header.unknown] == [("a", 1)]
    assert [(p.path, p.line) for p in document.layer[0].unknown] == [("b", 4), ("convolution_param.g", 6)]
    assert list(document.net.layer[0].convolution_param.pad) == [2]


def test_unknown_engines_are_listed_and_other_unknown_choices_refused():
    document = parse("layer {\n convolution_param { engine: LIBDNN } }")
    assert document.layer[0].unknown[0].path == "convolution_param.engine: LIBDNN"
    with pytest.raises(ModelError, match="takes MAX, AVE, STOCHASTIC, not MIN"):
        first("pooling_param { pool: MIN }")


def test_the_last_of_several_values_counts_and_is_listed():
    document = parse("layer {\n convolution_param {\n group: 1\n group: 2 } }")
    assert document.net.layer[0].convolution_param.group == 2
    assert [(p.path, p.line) for p in document.layer[0].again] == [("convolution_param.group", 4)]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("layer {\n name: 'x'\n", 3, "'}' is missing: the bracket of line 1"),
        ("layer {\n}\n}", 3, "a field name is expected, not '}'"),
        ("layer <\n}", 2, "a field name is expected"),
        ("name: 'x\n'", 1, "closing quote"),
        ("name: @", 1, "unexpected"),
        ("layer {\n type: 'a\\nb' }", 2, "control characters"),
        ("layer { name 'x' }", 1, "':' or '{' expected after 'name'"),
        ("layer { name: }", 1, "a value is expected for 'name', not '}'"),
        ("layer { name: x }", 1, "takes a text in quotes, not x"),
        ("\nlayer { name: 1 }", 2, "takes a text in quotes"),
        ("layer { name: { } }", 1, "is one value"),
        ("layer { convolution_param: 3 }", 1, "is a message"),
        ("layer { convolution_param { num_output: 1.5 } }", 1, "takes a whole number"),
        ("layer { convolution_param { num_output: -1 } }", 1, "out of range"),
        ("layer { convolution_param { num_output: 99999999999 } }", 1, "out of range"),
        ("layer { convolution_param { bias_term: 2 } }", 1, "true or false"),
        ("layer { lrn_param { alpha: 'x' } }", 1, "takes a number"),
        ("layer { pooling_param { pool: 7 } }", 1, "takes MAX, AVE"),
        ("layer { pooling_param { stride: 3x } }", 1, "unexpected"),
        ("layers { type: 'Convolution' }", 1, "takes NONE, ACCURACY"),
        ("layer :", 1, "a value is expected for 'layer', not the end of the file"),
        ("layer", 1, "expected after 'layer', not the end of the file"),
        ("x {" * 1000, 1, "inside each other"),
        ("x [" * 1000, 1, "a value is expected for 'x'"),
    ],
)
def test_errors_name_file_and_line(content, line, words):
    with pytest.raises(ModelError) as caught:
        parse(content, "net.prototxt")
    message_ = str(caught.value)
    assert message_.startswith(f"net.prototxt:{line}: ") and words in message_ and "\n" not in message_


def test_files_that_are_no_text(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="no such file"):
        text.read(tmp_path / "none.prototxt")
    with pytest.raises(ModelError, match="is a directory"):
        text.read(tmp_path)
    file = tmp_path / "net.caffemodel"
    file.write_bytes(b"\x0a\x00\x00")
    with pytest.raises(ModelError, match="is not text"):
        text.read(file)
    file.write_bytes("\ufeffname: 'x' # \u00e9".encode("utf-8-sig") + b"\xff\n")
    with pytest.raises(ModelError, match="unexpected"):  # a second byte order mark
        text.read(file)
    file.write_bytes("name: 'x' # \u00e9".encode("utf-8-sig") + b"\xff\n")
    assert text.read(file).net.name == "x"
    monkeypatch.setattr(text, "MAX_BYTES", 5)
    with pytest.raises(ModelError, match="is larger than"):
        text.read(file)


def test_protobufs_own_text_reads_the_same(fixture_files):
    for file in fixture_files:
        want = text_format.Parse(file.read_text(), message("NetParameter"), allow_unknown_field=True)
        assert text.read(file).net == want


WORDS = (
    "layer name : { } < > [ ] 'a' \" ' 1 -1 1e9 0x true pooling_param pool MAX input input_dim blobs shape dim data # "
    "convolution_param kernel_size layers type , bottom top 'data' 'ReLU' \\ inf"
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["\n", *WORDS.split()]), max_size=40), st.text(max_size=5))
def test_any_text_is_a_document_or_one_error(words, tail):
    content = " ".join(words) + tail
    error = caffe.error_of(caffe.load_text, content)
    assert error is None or "\n" not in error
