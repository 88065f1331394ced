"""Request bodies to arrays, arrays to answers: what is taken, what is refused, in which words."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from loader.bundle.model_config import AnswerSpec, InputSpec, ModelConfig, OutputSpec, QuestionSpec
from serving.errors import InvalidRequest, PredictFailed
from serving.wire.infer import Inference, decode_infer, encode_infer
from serving.wire.protocol import decode_instances, decode_json, decode_short, encode_rows
from serving.wire.tensors import DTYPES, datatype_of
from tests.model_kinds import Doubler, Picky
from tests.serve import Server
from tests.test_server import DECLARED, serve

FLOWER = ModelConfig(inputs=(InputSpec("x", "FP64", (-1, 2), columns=("width", "length")),))
ROW = ModelConfig(inputs=(InputSpec("x", "FP64", (-1, 2)),), answer=AnswerSpec("digit", "digits"))
TWO = ModelConfig(inputs=(InputSpec("a", "INT64", (-1,)), InputSpec("b", "BYTES", (-1,))))
FREE = ModelConfig()


def infer(**tensor: Any) -> bytes:
    """Return a v2 request with one tensor, right but for what is given."""
    good = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    return json.dumps({"inputs": [{**good, **tensor}]}).encode()


def test_v2_data_may_be_flat_or_nested() -> None:
    """Both spellings of the protocol give the same array."""
    flat = decode_infer(infer(shape=[2, 2], data=[1, 2, 3, 4]), ROW).inputs
    nested = decode_infer(infer(shape=[2, 2], data=[[1, 2], [3, 4]]), ROW).inputs
    assert flat["x"].tolist() == nested["x"].tolist() == [[1, 2], [3, 4]]
    assert flat["x"].dtype == np.float64


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_comes_back_as_it_went_in(datatype: str) -> None:
    """What a client sends as a datatype is an array of it, and is answered as it."""
    value: Any = {"BOOL": True, "BYTES": "text"}.get(datatype, 1)
    request = decode_infer(
        json.dumps(
            {"id": "7", "inputs": [{"name": "x", "shape": [1], "datatype": datatype, "data": [value]}]}
        ).encode(),
        FREE,
    )
    assert datatype_of(request.inputs["x"]) == datatype
    answer, tensors = encode_infer(request.inputs, "m", "1", request)
    assert tensors == []
    assert answer["outputs"] == [{"name": "x", "datatype": datatype, "shape": [1], "data": [value]}]
    assert answer["id"] == "7"


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"  \n", "the body is empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"x": NaN}', "not JSON"),
        (b'{"x": Infinity}', "not JSON"),
        (b'{"x": 1e999}', "not JSON"),
        (b'"\\ud800"', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xef\xbb\xbf{}", "not JSON"),
    ],
)
def test_what_is_not_json_is_refused(body: bytes, words: str) -> None:
    """Every broken body ends in one sentence."""
    with pytest.raises(InvalidRequest, match=words):
        decode_json(body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[]", "not an inference request"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs": []}', "input 'x' is missing"),
        (infer(name="y"), "input 'y' is unknown; the model takes x"),
        (infer(datatype="FP65"), "datatype 'FP65' is unknown"),
        (infer(datatype="FP32"), "expected FP64, got FP32"),
        (infer(data=[1, 2, 3]), r"shape \[1, 2\] does not hold 3 values"),
        (infer(shape=[2], data=[1, 2]), r"expected shape \[-1, 2\], got \[2\]"),
        (infer(shape=[1, 3], data=[1, 2, 3]), r"expected shape \[-1, 2\], got \[1, 3\]"),
        (infer(shape=[-1, 2]), r"does not hold 2 values"),
        (infer(data=["1", "2"]), "expected FP64, got texts"),
        (infer(data=[True, False]), "expected FP64, got booleans"),
        (infer(data=[1, "2"]), "got numbers and texts"),
        (infer(data=[1, None]), "got null and numbers"),
        (infer(data=[1, {"a": 1}]), "got an object and numbers"),
        (infer(data=[[1, 2], [3]]), "ragged"),
        (infer(datatype="INT8", data=[1, 300]), "does not fit INT8"),
        (infer(datatype="UINT8", data=[1, -1]), "does not fit UINT8"),
        (infer(datatype="INT64", data=[1, 2.5]), "expected INT64, got numbers"),
        (infer(datatype="INT64", data=[1, 10**30]), "larger than 64 bits|expected INT64"),
        (infer(datatype="FP16", data=[1, 1e10]), "does not fit FP16"),
    ],
)
def test_a_v2_request_that_does_not_fit_is_refused(body: bytes, words: str) -> None:
    """Wrong names, types, shapes and numbers are each named."""
    with pytest.raises(InvalidRequest, match=words):
        decode_infer(body, ROW)


def test_one_tensor_twice_is_refused() -> None:
    """There is no telling which one was meant."""
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    with pytest.raises(InvalidRequest, match="given twice"):
        decode_infer(json.dumps({"inputs": [tensor, tensor]}).encode(), ROW)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], 'expected {"instances"'),
        ({"instances": 3}, 'expected {"instances"'),
        ({"instances": []}, "at least one"),
        ({"instances": [[1, 2], [3]]}, "ragged"),
        ({"instances": [[1, 2, 3]]}, r"expected shape \[-1, 2\], got \[1, 3\]"),
        ({"instances": [{"y": [1, 2]}]}, "input 'y' is unknown"),
        ({"instances": [{"x": [1, 2]}, {}]}, "different keys"),
        ({"instances": [["a", "b"]]}, "expected FP64, got texts"),
    ],
)
def test_a_v1_request_that_does_not_fit_is_refused(content: Any, words: str) -> None:
    """Wrong rows are named."""
    with pytest.raises(InvalidRequest, match=words):
        decode_instances(content, ROW)


def test_a_model_with_two_inputs_takes_rows_as_lists() -> None:
    """A row may have one value for each input, in their order: rows of a table with numbers and texts."""
    arrays = decode_instances({"instances": [[1, "x"], [2, "y"]]}, TWO)
    assert {name: array.tolist() for name, array in arrays.items()} == {"a": [1, 2], "b": ["x", "y"]}
    assert decode_short({"instance": [1, "x"]}, TWO)[1] is False
    for rows, words in (
        ([[1, "x"], [2]], r"^instance 1: expected a list of 2 values \(a, b\), got 1$"),
        ([[1, "x", 3]], "^instance 0: expected a list of 2 values"),
        ([["x", 1]], "^input 'a': expected INT64, got texts$"),
        ([[1, 2]], "^input 'b': expected BYTES, got whole numbers$"),
        ([[1, "x"], {"a": 1, "b": "x"}], "every instance must be an object with a, b, or all must be lists"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            decode_instances({"instances": rows}, TWO)


def test_a_model_has_its_own_names_for_rows() -> None:
    """What `question` says names one row and several in the short forms, beside the names that always work."""
    config = msgspec.structs.replace(TWO, question=QuestionSpec("person", "people"))
    for body, many in (
        ({"people": [[1, "x"]]}, True),
        ({"instances": [[1, "x"]]}, True),
        ({"person": [1, "x"]}, False),
        ({"instance": {"a": 1, "b": "x"}}, False),
    ):
        arrays, several = decode_short(body, config)
        assert ({name: array.tolist() for name, array in arrays.items()}, several) == ({"a": [1], "b": ["x"]}, many)
    wrongs: tuple[Any, ...] = ({"people": [1, "x"], "more": 1}, {"people": 3}, {})
    for wrong in wrongs:
        with pytest.raises(
            InvalidRequest, match=r'expected {"instances": \[...\]} or {"people": \[...\]} or {"instance"'
        ):
            decode_short(wrong, config)
    with pytest.raises(InvalidRequest, match="people is empty"):
        decode_short({"people": []}, config)
    with pytest.raises(InvalidRequest, match='expected {"instances"'):
        decode_instances({"people": [[1, "x"]]}, config)  # V1 knows its own name alone


def test_a_model_with_two_inputs_takes_rows_as_objects() -> None:
    """Each row names its values; the model gets one array an input, in its own order."""
    arrays = decode_instances({"instances": [{"b": "x", "a": 1}, {"a": 2, "b": "y"}]}, TWO)
    assert list(arrays) == ["a", "b"]
    assert arrays["a"].tolist() == [1, 2]
    assert arrays["b"].tolist() == ["x", "y"]
    with pytest.raises(InvalidRequest, match="every instance must be an object with a, b"):
        decode_instances({"instances": [1]}, TWO)
    with pytest.raises(InvalidRequest, match="input 'b' is missing"):
        decode_instances({"instances": [{"a": 1}]}, TWO)


def test_short_forms_ask_about_one_row_or_many() -> None:
    """A row by itself, by input names, or a list of rows."""
    assert decode_short({"instance": [1, 2]}, ROW)[1] is False
    assert decode_short({"x": [1, 2]}, ROW)[0]["x"].tolist() == [[1, 2]]
    assert decode_short({"instances": [[1, 2]]}, ROW)[1] is True
    wrongs: tuple[Any, ...] = ({}, [], 3, {"z": 1})
    for wrong in wrongs:
        with pytest.raises(InvalidRequest, match=r'expected {"instances": \[...\]} or {"instance": ...} or {"x": ...}'):
            decode_short(wrong, ROW)


def test_columns_come_by_name_in_the_models_order() -> None:
    """A row may be an object by columns, in any order; a list and an object by the input's name do as before."""
    rows = {"instances": [{"length": 2, "width": 1}, {"width": 3, "length": 4}]}
    assert decode_instances(rows, FLOWER)["x"].tolist() == [[1, 2], [3, 4]]
    assert decode_short({"length": 2, "width": 1}, FLOWER)[0]["x"].tolist() == [[1, 2]]
    for same in ({"x": [1, 2]}, {"instance": [1, 2]}, {"instance": {"x": [1, 2]}}):
        assert decode_short(same, FLOWER)[0]["x"].tolist() == [[1, 2]]
    for row, words in (
        ({"width": 1}, "^column 'length' is missing$"),
        ({}, "^columns 'width', 'length' are missing$"),
        ({"width": 1, "length": 2, "depth": 3}, "^column 'depth' is unknown; the model takes width, length$"),
        ({"Width": 1, "length": 2}, "^column 'width' is missing; column 'Width' is unknown; the model takes"),
        ({"width": 1, **dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 0)}, "'s', 't' and 6 more are unknown"),
        ({"width": 1, "length": "2"}, "^column 'length': expected FP64, got texts$"),
        ({"width": None, "length": "2"}, "column 'width': .* got null; column 'length': expected FP64, got texts$"),
        ({"width": True, "length": 2.5}, "^column 'width': expected FP64, got booleans$"),
        ({"width": 1, "length": [2]}, r"^column 'length': expected shape \[-1\], got \[1, 1\]$"),
        ({"width": [1], "length": [2]}, r"expected shape \[-1, 2\], got \[1, 2, 1\]"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            decode_instances({"instances": [row]}, FLOWER)
    with pytest.raises(InvalidRequest, match="^instance 1: column 'length' is missing$"):
        decode_instances({"instances": [{"width": 1, "length": 2}, {"width": 1}]}, FLOWER)
    with pytest.raises(InvalidRequest, match="^column 'length' is missing; column 'depth' is unknown"):
        decode_short({"width": 1, "depth": 2}, FLOWER)


def test_inputs_have_as_many_rows_as_one_another() -> None:
    """A model is not asked about rows of which one input has more."""
    tensors = [
        {"name": "a", "shape": [2], "datatype": "INT64", "data": [1, 2]},
        {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["x"]},
    ]
    with pytest.raises(InvalidRequest, match="different numbers of rows: a 2, b 1"):
        decode_infer(json.dumps({"inputs": tensors}).encode(), TWO)


def test_one_long_text_among_many_takes_no_more_than_itself() -> None:
    """Texts of different lengths are kept as they are: a common width would fill the memory."""
    texts = ["x" * 1_000_000, *["y"] * 100_000]
    assert decode_instances({"instances": texts}, FREE)["input"].nbytes < 1_000_000


def test_a_million_rows_are_read_without_a_loop_over_them() -> None:
    """As many numbers as a body holds are an array within a second or two, or refused as quickly."""
    body = b'{"instances": [' + b"1," * 999_999 + b"1]}"
    began = time.process_time()
    assert decode_instances(decode_json(body), FREE)["input"].shape == (1_000_000,)
    with pytest.raises(InvalidRequest, match=r"got \[1000000\]"):
        decode_instances(decode_json(body), ROW)
    assert time.process_time() - began < 4


HOSTILE = [
    b"[" * 100_000,
    b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"instances": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}",
    b'{"instances": [[1e400, 1]]}',
    b'{"instances": [[NaN, 1]]}',
    b'{"instances": [[-Infinity, 1]]}',
    b'{"instances": [[' + b"1" * 5000 + b", 1]]}",
    b'{"instances": [[' + b"1" * 310 + b", 1]]}",
    b'{"instances": [["\\ud800", "a"]]}',
    b'{"instances": [["\xff", "a"]]}',
    b'\xef\xbb\xbf{"instances": [[1, 2]]}',
    '{"instances": [[1, 2]]}'.encode("utf-16"),
    '{"instances": [[1, 2]]}'.encode("utf-32"),
    b'{"instances": []}',
    b'{"instances": [[]]}',
    b'{"instances": [[], [1, 2]]}',
    b'{"instances": [[1, 2], 3]}',
    b'{"instances": [[1, [2]]]}',
    b'{"instances": [[true, false]]}',
    b'{"instances": [[1, true]]}',
    b'{"instances": [null]}',
    b'{"instances": {"0": [1, 2]}}',
    b'{"instances": [[1, 2]]} {}',
    b'{"inputs": [{"name": "x", "shape": [0, 2], "datatype": "FP64", "data": []}]}',
    b'{"inputs": [{"name": "x", "shape": [9223372036854775808], "datatype": "FP64", "data": [1]}]}',
    b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [[1], 2]}]}',
    b'{"inputs": [{"name": "x", "shape": ["1", 2], "datatype": "FP64", "data": [1, 2]}]}',
    b'{"inputs": [{"name": "x", "shape": null, "datatype": "FP64", "data": [1, 2]}]}',
    b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": {"a": 1}}]}',
    b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2], "parameters": []}]}',
    b'{"inputs": [null]}',
    b'{"id": 5, "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]}',
]


def test_no_hostile_body_gets_more_than_a_sentence(server: Server) -> None:
    """On every page that predicts, each is answered with 400 and one sentence, and the next right request with 200."""
    serve(server, Doubler(), DECLARED)
    for page in ("/predict", "/v1/models/m:predict", "/v2/models/m/infer"):
        for body in HOSTILE:
            answer = server.post(page, data=body)
            assert (answer.status_code, list(answer.json())) == (400, ["error"]), (page, body[:80], answer.text)
            assert len(answer.json()["error"]) < 500
    twice = b'{"instance": [9, 9], "instance": [1, 2]}'
    assert server.post("/predict", data=twice).json() == {"prediction": [2.0, 4.0]}
    assert "Traceback" not in server.log.read_text()


def test_a_text_that_the_model_has_not_learned_is_the_clients_mistake(server: Server) -> None:
    """A declaration says that texts come, not which: the model that refuses one is answered for with 400."""
    serve(server, Picky(), "inputs: [{name: city, datatype: BYTES, shape: [-1]}]\n")
    answer = server.post("/predict", json={"city": "Atlantis"})
    assert (answer.status_code, "does not take this input" in answer.json()["error"]) == (400, True)


def test_labels_stand_for_their_indexes() -> None:
    """A client reads words; an index without a word is the model's fault."""
    config = ModelConfig(outputs=(OutputSpec("y", "INT64", (-1,), labels=("cat", "dog")),))
    assert encode_rows({"y": np.array([1, 0])}, config) == ["dog", "cat"]
    with pytest.raises(PredictFailed, match="beyond its 2 labels"):
        encode_rows({"y": np.array([2])}, config)


def test_several_outputs_are_answered_as_objects() -> None:
    """One object a row, by output name."""
    outputs = {"a": np.array([1, 2]), "b": np.array([[0.5], [1.5]])}
    assert encode_rows(outputs, FREE) == [{"a": 1, "b": [0.5]}, {"a": 2, "b": [1.5]}]
    with pytest.raises(PredictFailed, match="different numbers of rows"):
        encode_rows({"a": np.array([1]), "b": np.array([1, 2])}, FREE)


@pytest.mark.parametrize("array", [np.array([np.nan]), np.array([np.inf]), np.array([object()], dtype=object)])
def test_what_json_cannot_say_is_the_models_failure(array: Any) -> None:
    """NaN is not quietly turned into null."""
    with pytest.raises(PredictFailed):
        encode_infer({"y": array}, "m", "1", Inference({}))
