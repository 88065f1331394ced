"""Inference requests of the Open Inference Protocol v2: its JSON, with or without binary tensors.

Source: OIP `inference_rest`, and Triton's binary tensor extension of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from loader.bundle.model_config import ModelConfig
from serving.errors import InvalidRequest
from serving.wire.binary import JSON_LENGTH, from_bytes, split_body, to_bytes
from serving.wire.protocol import broken_json, plain
from serving.wire.tensors import DTYPES, Array, check_inputs, datatype_of, reshape, to_array

_NOT_TAKEN = ("classification", "shared_memory_region")  # of the protocol's parameters; others may be ignored


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class _Requested(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    outputs: list[_Requested] | None = None
    parameters: dict[str, Any] | None = None


_DECODER = msgspec.json.Decoder(_Request)


@dataclass(frozen=True, slots=True)
class Inference:
    """One request.

    Attributes:
        inputs: arrays by name, of the declared datatypes and shapes.
        id: the client's own, or None.
        wanted: the outputs that are asked for, and whether as binary tensors; None means all.
        binary: outputs are wanted as binary tensors where `wanted` does not say.
    """

    inputs: dict[str, Array]
    id: str | None = None
    wanted: Mapping[str, bool] | None = None
    binary: bool = False


def decode_infer(body: bytes, config: ModelConfig, json_length: str | None = None) -> Inference:
    """Read an inference request.

    Args:
        body: JSON, then the binary tensors.
        config: of the model.
        json_length: the header Inference-Header-Content-Length, or None where the request has none.

    Raises:
        InvalidRequest: not such a request, a length that lies, or not what the model takes.
    """
    text, rest = split_body(body, json_length)
    try:
        request = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise broken_json(text, error, "an inference request") from error
    arrays: dict[str, Array] = {}
    datatypes = {tensor.name: tensor.datatype for tensor in request.inputs}
    start = 0
    for tensor in request.inputs:
        what = f"input {tensor.name[:100]!r}"
        if tensor.name in arrays:
            raise InvalidRequest(f"{what} is given twice")
        if tensor.datatype not in DTYPES:
            raise InvalidRequest(
                f"{what}: datatype {tensor.datatype[:100]!r} is unknown; expected one of {', '.join(DTYPES)}"
            )
        size = _binary_size(tensor, what)
        if size is None:
            arrays[tensor.name] = _from_json(tensor, what)
            continue
        if size > len(rest) - start:
            said = "" if json_length is not None else f" (the request has no {JSON_LENGTH})"
            raise InvalidRequest(f"{what}: binary_data_size is {size}, the body has {len(rest) - start} bytes{said}")
        arrays[tensor.name] = from_bytes(rest[start : start + size], tensor.datatype, tensor.shape, what)
        start += size
    if start != len(rest):
        raise InvalidRequest(f"the body has {len(rest) - start} bytes behind its tensors")
    for spec in config.inputs:
        if (got := datatypes.get(spec.name, spec.datatype)) != spec.datatype:
            raise InvalidRequest(f"input {spec.name!r}: expected {spec.datatype}, got {got}")
    binary = _flag(request.parameters, "binary_data_output", default=False, what="the request")
    return Inference(check_inputs(arrays, config.inputs), request.id, _wanted(request, binary, config), binary)


def encode_infer(
    outputs: dict[str, Array], name: str, version: str, inference: Inference
) -> tuple[dict[str, Any], list[bytes]]:
    """Make an inference response.

    Returns:
        Its JSON, and the binary tensors that follow.

    Raises:
        InvalidRequest: an output that is asked for does not exist.
        PredictFailed: an output cannot be said in the form that is asked for.
    """
    wanted = dict.fromkeys(outputs, inference.binary) if inference.wanted is None else inference.wanted
    if missing := [key for key in wanted if key not in outputs]:
        raise InvalidRequest(f"output {missing[0][:100]!r} is unknown; the model answers with {', '.join(outputs)}")
    tensors, buffers = [], []
    for key, binary in wanted.items():
        array = outputs[key]
        tensor: dict[str, Any] = {"name": key, "datatype": datatype_of(array), "shape": list(array.shape)}
        if binary:
            buffers.append(to_bytes(array))
            tensor["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            tensor["data"] = plain(array.ravel())
        tensors.append(tensor)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": tensors}
    if inference.id is not None:
        answer["id"] = inference.id
    return answer, buffers


def _binary_size(tensor: _Tensor, what: str) -> int | None:
    """Return how many bytes of the body are a tensor, or None where JSON has it."""
    parameters = tensor.parameters or {}
    _refuse(parameters, what)
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidRequest(f"{what}: binary_data_size is {str(size)[:50]}, expected a number of bytes")
    if tensor.data is not None:
        raise InvalidRequest(f"{what} has both data and binary_data_size, expected one of them")
    return size


def _from_json(tensor: _Tensor, what: str) -> Array:
    if tensor.data is None:
        raise InvalidRequest(f"{what} has neither data nor binary_data_size")
    return reshape(to_array(tensor.data, what, tensor.datatype), tensor.shape, what)


def _wanted(request: _Request, binary: bool, config: ModelConfig) -> dict[str, bool] | None:
    if not request.outputs:
        return None
    wanted: dict[str, bool] = {}
    declared = [spec.name for spec in config.outputs]
    for output in request.outputs:
        what = f"output {output.name[:100]!r}"
        if output.name in wanted:
            raise InvalidRequest(f"{what} is asked for twice")
        if declared and output.name not in declared:
            raise InvalidRequest(f"{what} is unknown; the model answers with {', '.join(declared)}")
        _refuse(output.parameters, what)
        wanted[output.name] = _flag(output.parameters, "binary_data", default=binary, what=what)
    return wanted


def _flag(parameters: dict[str, Any] | None, name: str, *, default: bool, what: str) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{what}: parameter {name} is {str(value)[:50]!r}, expected true or false")
    return value


def _refuse(parameters: dict[str, Any] | None, what: str) -> None:
    if parameters and (refused := [name for name in _NOT_TAKEN if parameters.get(name)]):
        raise InvalidRequest(f"{what}: the protocol's extension {refused[0]!r} is not offered here")
