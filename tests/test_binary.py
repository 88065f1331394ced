"""The binary tensor extension: bytes to arrays and back, and every length that lies."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.bundle.model_config import InputSpec, ModelConfig, OutputSpec
from serving.errors import InvalidRequest, PredictFailed
from serving.wire.binary import from_bytes, to_bytes
from serving.wire.infer import Inference, decode_infer, encode_infer
from serving.wire.tensors import DTYPES, datatype_of

ROW = ModelConfig(inputs=(InputSpec("x", "FP32", (-1, 2)),))
FREE = ModelConfig()
NUMBERS = sorted(set(DTYPES) - {"BYTES"})


def request(*tensors: bytes, json_length: int | str | None = None, **changes: Any) -> tuple[bytes, str]:
    """Return the body and the header of a request with one tensor of two FP32, right but for what is given."""
    data = b"".join(tensors) or struct.pack("<2f", 1, 2)
    good = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [{**good, **changes}]}).encode()
    return text + data, str(len(text) if json_length is None else json_length)


def texts(*items: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_every_datatype_goes_there_and_back(datatype: str) -> None:
    """An array of each datatype has the same values, and can be written to, after the journey through bytes."""
    array = np.array([[0, 1, 1], [1, 0, 1]], DTYPES[datatype])
    back = from_bytes(to_bytes(array), datatype, [2, 3], "x")
    assert (back.dtype, back.tolist(), datatype_of(back)) == (array.dtype, array.tolist(), datatype)
    assert back.flags.writeable


@pytest.mark.parametrize("array", [np.array([1, 258], ">u2"), np.arange(8, dtype="<u2")[2:6:2].reshape(2, 1).T])
def test_bytes_are_little_endian_and_in_row_order(array: Any) -> None:
    """Whatever the memory of an array looks like, its bytes are as the protocol says."""
    assert to_bytes(array) == struct.pack("<2H", *array.ravel().tolist())


def test_not_a_number_survives_in_bytes() -> None:
    """NaN and Infinity have no word in JSON, but have one here, in both directions."""
    body, length = request(struct.pack("<2f", np.nan, np.inf))
    inputs = decode_infer(body, ROW, length).inputs
    assert str(inputs["x"].tolist()) == "[[nan, inf]]"
    _, (tensor,) = encode_infer({"y": inputs["x"]}, "m", "1", Inference({}, binary=True))
    assert tensor == struct.pack("<2f", np.nan, np.inf)


def test_texts_have_their_lengths_before_them() -> None:
    """Texts of no letters, of many, and of several bytes a letter go there and back, from every kind of array."""
    words = ["", "a", "größer", "\U0001f600" * 1000]
    data = texts(*(word.encode() for word in words))
    array = from_bytes(data, "BYTES", [2, 2], "x")
    assert array.ravel().tolist() == words
    assert to_bytes(array) == to_bytes(np.array(words)) == to_bytes(np.array([word.encode() for word in words])) == data
    with pytest.raises(PredictFailed, match="an? int among texts"):
        to_bytes(np.array(["a", 1], dtype=object))


def test_json_and_binary_tensors_mix_in_one_request() -> None:
    """Each tensor is where it says it is; those in bytes follow in the order of the JSON."""
    tensors = [
        {"name": "a", "shape": [2], "datatype": "UINT8", "parameters": {"binary_data_size": 2}},
        {"name": "b", "shape": [1], "datatype": "INT64", "data": [7]},
        {"name": "c", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
    ]
    text = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True, "other": "ignored"}}).encode()
    inference = decode_infer(text + b"\x01\xff" + texts(b"hi"), FREE, str(len(text)))
    assert {name: array.tolist() for name, array in inference.inputs.items()} == {
        "a": [1, 255],
        "b": [7],
        "c": [["hi"]],
    }
    assert inference.binary


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (request(json_length="x"), "is 'x', expected a number of bytes"),
        (request(json_length="-1"), "expected a number"),
        (request(json_length="²"), "expected a number"),
        (request(json_length="9" * 5000), "expected a number"),
        (request(json_length=10_000), "is 10000, but the body has"),
        (request(json_length=5), "not JSON"),
        (request(json_length=0), "the body is empty"),
        (request(parameters={"binary_data_size": 9}), "binary_data_size is 9, the body has 8 bytes"),
        (request(parameters={"binary_data_size": 7}), r"FP32 takes 8 bytes, got 7"),
        (request(b"1234567890"), "takes 8 bytes, got 10"),
        (request(parameters={"binary_data_size": -8}), "is -8, expected a number of bytes"),
        (request(parameters={"binary_data_size": True}), "is True, expected a number of bytes"),
        (request(parameters={"binary_data_size": "8"}), "is 8, expected a number of bytes"),
        (request(parameters={"binary_data_size": 10**30}), "the body has 8 bytes"),
        (request(parameters={}), "neither data nor binary_data_size"),
        (request(data=[1, 2]), "both data and binary_data_size"),
        (request(shape=[1, 2], data=[1, 2], parameters={}), "8 bytes behind its tensors"),
        (request(shape=[-1, -2]), "FP32 takes 0 bytes, got 8"),
        (request(shape=[2**62, 2**62]), "takes .* bytes, got 8"),
        (request(shape=[0, 2**70], parameters={"binary_data_size": 0}), "does not hold 0 values"),
        (request(shape=[1] * 70 + [2]), "does not hold 2 values"),
        (request(datatype="BOOL", shape=[8]), "a byte of BOOL is neither 0 nor 1"),
        (request(datatype="BYTES", shape=[2], parameters={"binary_data_size": 8}), "element 0 of BYTES reaches beyond"),
        (request(texts(b"a"), datatype="BYTES", shape=[2]), "5 bytes are too few for 2 elements"),
        (request(texts(b"abcd"), datatype="BYTES", shape=[2]), "element 1 of BYTES reaches beyond"),
        (request(texts(b"a", b"b"), datatype="BYTES", shape=[1]), "5 bytes are left over after 1 elements"),
        (request(texts(b"\xff"), datatype="BYTES", shape=[1]), "element 0 of BYTES is no UTF-8"),
        (request(texts(b"a"), datatype="BYTES", shape=[10**18]), "too few"),
        (request(datatype="INT32"), "expected FP32, got INT32"),
        (request(datatype="FP65"), "datatype 'FP65' is unknown"),
        (request(parameters={"shared_memory_region": "r"}), "'shared_memory_region' is not offered"),
    ],
)
def test_every_length_that_lies_is_refused(body: tuple[bytes, str], words: str) -> None:
    """Headers, sizes and shapes that do not fit the bytes are each named."""
    with pytest.raises(InvalidRequest, match=words):
        decode_infer(body[0], ROW, body[1])


def test_a_binary_tensor_needs_the_header() -> None:
    """Without it the whole body is JSON, and no bytes follow."""
    text = json.dumps(
        {"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "parameters": {"binary_data_size": 1}}]}
    )
    with pytest.raises(InvalidRequest, match="the request has no Inference-Header-Content-Length"):
        decode_infer(text.encode(), FREE)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 60), st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 9)))
def test_random_bytes_end_in_an_array_or_a_sentence(data: bytes, length: int, datatype: str, shape: list[int]) -> None:
    """No tensor of random bytes, and no random body, raises anything else."""
    for attempt in (
        lambda: from_bytes(data, datatype, shape, "x"),
        lambda: decode_infer(data, FREE, str(length)),
        lambda: decode_infer(request(data, shape=shape, datatype=datatype)[0], FREE, request(data)[1]),
    ):
        with contextlib.suppress(InvalidRequest):
            attempt()


def wanting(*outputs: dict[str, Any]) -> bytes:
    tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}
    return json.dumps({"inputs": [tensor], "outputs": outputs}).encode()


def test_a_client_gets_the_outputs_it_asks_for_in_its_order_and_form() -> None:
    """A subset, each in JSON or in bytes."""
    inference = decode_infer(wanting({"name": "c", "parameters": {"binary_data": True}}, {"name": "a"}), FREE)
    outputs = {"a": np.array([1]), "b": np.array([2]), "c": np.array([[1.5]], "float32")}
    content, tensors = encode_infer(outputs, "m", "1", inference)
    assert content["outputs"] == [
        {"name": "c", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}},
        {"name": "a", "datatype": "INT64", "shape": [1], "data": [1]},
    ]
    assert tensors == [struct.pack("<f", 1.5)]
    with pytest.raises(InvalidRequest, match="output 'c' is unknown; the model answers with a"):
        encode_infer({"a": np.array([1])}, "m", "1", inference)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([{"name": "y"}, {"name": "y"}], "asked for twice"),
        ([{"name": "z"}], "output 'z' is unknown; the model answers with y"),
        ([{"name": "y", "parameters": {"classification": 3}}], "'classification' is not offered"),
        ([{"name": "y", "parameters": {"shared_memory_region": "a"}}], "'shared_memory_region' is not offered"),
        ([{"name": "y", "parameters": {"binary_data": 1}}], "expected true or false"),
        ([{}], "missing required field `name`"),
    ],
)
def test_outputs_that_cannot_be_given_are_refused_before_the_model_is_asked(outputs: Any, words: str) -> None:
    """Where the model declares its outputs, a wrong wish costs no prediction."""
    config = ModelConfig(outputs=(OutputSpec("y", "FP64", (-1,)),))
    with pytest.raises(InvalidRequest, match=words):
        decode_infer(wanting(*outputs), config)
