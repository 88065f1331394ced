"""The wire forms: request bodies to named arrays, named arrays to answers. Open Inference Protocol v2, V1, short forms.

Sources: OIP `inference_rest` (v2), TensorFlow Serving's REST API (V1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from loader.bundle.model_config import InputSpec, ModelConfig, OutputSpec
from serving.errors import InvalidRequest, PredictFailed
from serving.model import DEFAULT_INPUT
from serving.tensors import DTYPES, Array, check_inputs, datatype_of, to_array


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _InferRequest(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None


def decode_json(body: bytes) -> Any:
    """Read a JSON body.

    Raises:
        InvalidRequest: empty, not UTF-8, not JSON, NaN or Infinity, or nested too deeply.
    """
    if not body.strip():
        raise InvalidRequest("the body is empty, expected JSON")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error


def decode_infer(body: bytes, config: ModelConfig) -> tuple[dict[str, Array], str | None]:
    """Read a v2 inference request.

    Returns:
        Arrays by name, of the declared dtypes and shapes, and the request's id.

    Raises:
        InvalidRequest: not such a request, or not what the model takes.
    """
    try:
        request = msgspec.convert(decode_json(body), _InferRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not an inference request: {error}") from error
    arrays: dict[str, Array] = {}
    for tensor in request.inputs:
        what = f"input {tensor.name!r}"
        if tensor.name in arrays:
            raise InvalidRequest(f"{what} is given twice")
        if tensor.datatype not in DTYPES:
            raise InvalidRequest(
                f"{what}: datatype {tensor.datatype!r} is unknown; expected one of {', '.join(DTYPES)}"
            )
        array = to_array(tensor.data, what, tensor.datatype)
        if min(tensor.shape, default=0) < 0 or math.prod(tensor.shape) != array.size:
            raise InvalidRequest(f"{what}: shape {tensor.shape} does not hold {array.size} values")
        arrays[tensor.name] = array.reshape(tensor.shape)
    for spec in config.inputs:
        if spec.name in arrays and (got := datatype_of(arrays[spec.name])) != spec.datatype:
            raise InvalidRequest(f"input {spec.name!r}: expected {spec.datatype}, got {got}")
    return _checked(arrays, config), request.id


def encode_infer(outputs: dict[str, Array], name: str, version: str, request_id: str | None) -> dict[str, Any]:
    """Return a v2 inference response."""
    tensors = [
        {"name": key, "datatype": datatype_of(array), "shape": list(array.shape), "data": _plain(array.ravel())}
        for key, array in outputs.items()
    ]
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": tensors}
    return answer if request_id is None else {**answer, "id": request_id}


def decode_instances(content: Any, config: ModelConfig) -> dict[str, Array]:
    """Read the V1 form, {"instances": [row, …]}, where a row is a value or, with several inputs, an object by name.

    Raises:
        InvalidRequest: not of this form, or not what the model takes.
    """
    if not isinstance(content, dict) or not isinstance(content.get("instances"), list):
        raise InvalidRequest('expected {"instances": [...]}')
    rows = content["instances"]
    if not rows:
        raise InvalidRequest("instances is empty, expected at least one")
    return _checked(_columns(rows, config.inputs), config)


def decode_short(content: Any, config: ModelConfig) -> tuple[dict[str, Array], bool]:
    """Read a short form: {"instances": [...]}, {"instance": row}, or one row as an object by input names.

    Returns:
        Arrays by name, and whether the client asked about several rows.

    Raises:
        InvalidRequest: of none of these forms, or not what the model takes.
    """
    if isinstance(content, dict) and "instances" in content:
        return decode_instances(content, config), True
    names = {spec.name for spec in config.inputs}
    if isinstance(content, dict) and content.keys() == {"instance"}:
        return decode_instances({"instances": [content["instance"]]}, config), False
    if isinstance(content, dict) and content and content.keys() <= names:
        return decode_instances({"instances": [content]}, config), False
    forms = ['{"instances": [...]}', '{"instance": ...}']
    if names:
        forms.append("{" + ", ".join(f'"{name}": ...' for name in sorted(names)) + "}")
    raise InvalidRequest(f"expected {' or '.join(forms)}")


def encode_rows(outputs: dict[str, Array], config: ModelConfig) -> list[Any]:
    """Return one answer a row: a value, or with several outputs an object by name. Labels stand for their indexes.

    Raises:
        PredictFailed: outputs have different numbers of rows, or a label's index is out of range.
    """
    specs = {spec.name: spec for spec in config.outputs}
    columns = {name: _labelled(array, specs.get(name)) for name, array in outputs.items()}
    if len({len(column) for column in columns.values()}) > 1:
        raise PredictFailed("the model's outputs have different numbers of rows")
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _columns(rows: list[Any], declared: Sequence[InputSpec]) -> dict[str, Array]:
    if not all(isinstance(row, dict) for row in rows):
        if len(declared) > 1:
            names = ", ".join(spec.name for spec in declared)
            raise InvalidRequest(f"the model takes several inputs: every instance must be an object with {names}")
        name, datatype = (declared[0].name, declared[0].datatype) if declared else (DEFAULT_INPUT, None)
        return {name: to_array(rows, "instances", datatype)}
    keys = rows[0].keys()
    if any(row.keys() != keys for row in rows):
        raise InvalidRequest("instances are objects with different keys, expected the same in all")
    datatypes = {spec.name: spec.datatype for spec in declared}
    return {key: to_array([row[key] for row in rows], f"input {key!r}", datatypes.get(key)) for key in keys}


def _checked(arrays: dict[str, Array], config: ModelConfig) -> dict[str, Array]:
    if not config.inputs:
        if not arrays:
            raise InvalidRequest("no inputs")
        return arrays
    check_inputs(arrays, config.inputs)
    return {spec.name: arrays[spec.name] for spec in config.inputs}


def _labelled(array: Array, spec: OutputSpec | None) -> list[Any]:
    rows = np.atleast_1d(array)
    if spec is None or not spec.labels or rows.dtype.kind not in "iu":
        return _plain(rows)
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(spec.labels):
        raise PredictFailed(f"output {spec.name} has an index beyond its {len(spec.labels)} labels")
    return _plain(np.asarray(spec.labels, dtype=object)[rows])


def _plain(array: Array) -> list[Any]:
    """Return nested lists of what JSON knows.

    Raises:
        PredictFailed: a number is not finite (JSON has no word for it), or an object is no text.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PredictFailed("the model answered with NaN or Infinity, which JSON cannot say")
    if array.dtype.kind in "SO":
        array = np.vectorize(_text, otypes=[object])(array) if array.size else array
    return list(array.tolist())


def _text(item: object) -> object:
    if isinstance(item, bytes):
        return item.decode("utf-8", "replace")
    if isinstance(item, str | bool | int | float) or item is None:
        return item
    raise PredictFailed(f"the model answered with a {type(item).__name__}, expected numbers or texts")
