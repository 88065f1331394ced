"""Request bodies to arrays, arrays to answers: what is taken, what is refused, in which words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from loader.bundle.model_config import AnswerSpec, InputSpec, ModelConfig, OutputSpec
from serving.errors import InvalidRequest, PredictFailed
from serving.protocol import decode_infer, decode_instances, decode_json, decode_short, encode_infer, encode_rows
from serving.tensors import DTYPES, datatype_of

ROW = ModelConfig(inputs=(InputSpec("x", "FP64", (-1, 2)),), answer=AnswerSpec("digit", "digits"))
TWO = ModelConfig(inputs=(InputSpec("a", "INT64", (-1,)), InputSpec("b", "BYTES", (-1,))))
FREE = ModelConfig()


def infer(**tensor: Any) -> bytes:
    """Return a v2 request with one tensor, right but for what is given."""
    good = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    return json.dumps({"inputs": [{**good, **tensor}]}).encode()


def test_v2_data_may_be_flat_or_nested() -> None:
    """Both spellings of the protocol give the same array."""
    flat, _ = decode_infer(infer(shape=[2, 2], data=[1, 2, 3, 4]), ROW)
    nested, _ = decode_infer(infer(shape=[2, 2], data=[[1, 2], [3, 4]]), ROW)
    assert flat["x"].tolist() == nested["x"].tolist() == [[1, 2], [3, 4]]
    assert flat["x"].dtype == np.float64


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_comes_back_as_it_went_in(datatype: str) -> None:
    """What a client sends as a datatype is an array of it, and is answered as it."""
    value: Any = {"BOOL": True, "BYTES": "text"}.get(datatype, 1)
    arrays, request_id = decode_infer(
        json.dumps(
            {"id": "7", "inputs": [{"name": "x", "shape": [1], "datatype": datatype, "data": [value]}]}
        ).encode(),
        FREE,
    )
    assert datatype_of(arrays["x"]) == datatype
    answer = encode_infer(arrays, "m", "1", request_id)
    assert answer["outputs"] == [{"name": "x", "datatype": datatype, "shape": [1], "data": [value]}]
    assert answer["id"] == "7"


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
        encode_infer({"y": array}, "m", "1", None)
