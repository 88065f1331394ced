"""Rows in JSON, in V1 (TensorFlow Serving's REST API) and the short forms: bodies to arrays by name, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from loader.bundle.model_config import InputSpec, ModelConfig, OutputSpec
from serving.errors import InvalidRequest, PredictFailed
from serving.wire.tensors import (
    DEFAULT_INPUT,
    DTYPES,
    MOST_NAMES,
    Array,
    check_inputs,
    check_shape,
    fit,
    misnamed,
    to_array,
)


class _RowsOfNumbers(msgspec.Struct):
    instances: list[list[float]]


_ROWS_OF_NUMBERS = msgspec.json.Decoder(_RowsOfNumbers)


def decode_json(body: bytes) -> Any:
    """Read a JSON body.

    Raises:
        InvalidRequest: empty, not UTF-8, not JSON, NaN or Infinity, or nested too deeply.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise broken_json(body, error) from error


def broken_json(body: bytes | memoryview, error: Exception, form: str = "JSON") -> InvalidRequest:
    """Return what to say about a body that cannot be decoded.

    Args:
        body: all of it.
        error: msgspec's.
        form: what it was to be.
    """
    if not bytes(body).strip():
        return InvalidRequest("the body is empty, expected JSON")
    if isinstance(error, RecursionError):
        return InvalidRequest("the body is nested too deeply")
    if isinstance(error, msgspec.ValidationError):
        return InvalidRequest(f"the body is not {form}: {error}")
    return InvalidRequest(f"the body is not JSON: {error}")


def decode_instances(content: Any, config: ModelConfig, name: str = "instances") -> dict[str, Array]:
    """Read the V1 form, {"instances": [row, …]}.

    A row is a value or, with several inputs, an object by their names or a list in their order. The short forms may
    have another name for the rows.

    Raises:
        InvalidRequest: not of this form, or not what the model takes.
    """
    if not isinstance(content, dict) or not isinstance(content.get(name), list):
        raise InvalidRequest(f'expected {{"{name}": [...]}}')
    rows = content[name]
    if not rows:
        raise InvalidRequest(f"{name} is empty, expected at least one")
    return check_inputs(_by_input(rows, config.inputs, name), config.inputs)


def read_instances(body: bytes, config: ModelConfig) -> dict[str, Array]:
    """Read the V1 form from a body.

    Raises:
        InvalidRequest: as `decode_json` and `decode_instances` say.
    """
    if len(config.inputs) == 1 and len(config.inputs[0].shape) == 2 and config.inputs[0].datatype in {"FP64", "FP32"}:
        # Most models take rows of numbers. Where the JSON is just that, nobody needs to look at each number again.
        spec = config.inputs[0]
        try:
            rows = _ROWS_OF_NUMBERS.decode(body).instances
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            rows = []
        if len(set(map(len, rows))) == 1:
            array = fit(np.array(rows, DTYPES["FP64"]), spec.datatype, "instances")
            return check_inputs({spec.name: array}, config.inputs)
    return decode_instances(decode_json(body), config)


def decode_short(content: Any, config: ModelConfig) -> tuple[dict[str, Array], bool]:
    """Read a short form: {"instances": [...]}, {"instance": row}, or one row as an object by input names or columns.

    The model may have names of its own for the first two.

    Returns:
        Arrays by name, and whether the client asked about several rows.

    Raises:
        InvalidRequest: of none of these forms, or not what the model takes.
    """
    if isinstance(content, dict) and "instances" in content:
        return decode_instances(content, config), True
    asked, names = config.question, {spec.name for spec in config.inputs}
    if isinstance(content, dict) and len(content) == 1:
        ((name, value),) = content.items()
        if name == asked.many and isinstance(value, list):
            return decode_instances(content, config, name), True
        if name in ("instance", asked.one):
            return decode_instances({"instances": [value]}, config), False
    columns = set(config.inputs[0].columns) if len(config.inputs) == 1 else set()
    if isinstance(content, dict) and not content.keys().isdisjoint(names | columns):
        return decode_instances({"instances": [content]}, config), False
    forms = [f'{{"{name}": [...]}}' for name in dict.fromkeys(("instances", asked.many))]
    forms += [f'{{"{name}": ...}}' for name in dict.fromkeys(("instance", asked.one))]
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


def _by_input(rows: list[Any], declared: Sequence[InputSpec], what: str) -> dict[str, Array]:
    types = set(map(type, rows))
    if types == {list} and len(declared) > 1:
        return _by_place(rows, declared)
    if types != {dict}:
        if len(declared) > 1:
            names = ", ".join(spec.name for spec in declared)
            raise InvalidRequest(
                f"the model takes several inputs: every instance must be an object with {names}, or all must be lists"
            )
        name, datatype = (declared[0].name, declared[0].datatype) if declared else (DEFAULT_INPUT, None)
        return {name: to_array(rows, what, datatype)}
    if len(declared) == 1 and declared[0].columns and rows[0].keys() != {declared[0].name}:
        return {declared[0].name: _by_column(rows, declared[0])}
    keys = rows[0].keys()
    if any(row.keys() != keys for row in rows):
        raise InvalidRequest("instances are objects with different keys, expected the same in all")
    datatypes = {spec.name: spec.datatype for spec in declared}
    return {key: to_array([row[key] for row in rows], f"input {key[:100]!r}", datatypes.get(key)) for key in keys}


def _by_place(rows: list[list[Any]], declared: Sequence[InputSpec]) -> dict[str, Array]:
    """Read rows that are lists of one value for each input, in their order."""
    for number, row in enumerate(rows):
        if len(row) != len(declared):
            names = ", ".join(spec.name for spec in declared)
            raise InvalidRequest(
                f"instance {number}: expected a list of {len(declared)} values ({names}), got {len(row)}"
            )
    return {
        spec.name: to_array(list(values), f"input {spec.name!r}", spec.datatype)
        for spec, values in zip(declared, zip(*rows, strict=True), strict=True)
    }


def _by_column(rows: list[dict[str, Any]], spec: InputSpec) -> Array:
    columns = set(spec.columns)
    for number, row in enumerate(rows):
        if row.keys() != columns:
            where = f"instance {number}: " if len(rows) > 1 else ""
            raise InvalidRequest(where + misnamed("column", spec.columns, row))
    try:
        return to_array([[row[column] for column in spec.columns] for row in rows], "instances", spec.datatype)
    except InvalidRequest as error:
        raise InvalidRequest(_wrong_columns(rows, spec) or str(error)) from error


def _wrong_columns(rows: list[dict[str, Any]], spec: InputSpec) -> str:
    """Say what is wrong with which columns."""
    wrong = []
    for column in spec.columns:
        what = f"column {column!r}"
        try:
            check_shape(to_array([row[column] for row in rows], what, spec.datatype), [-1], what)
        except InvalidRequest as error:
            wrong.append(str(error))
    more = f"; and {len(wrong) - MOST_NAMES} more" if len(wrong) > MOST_NAMES else ""
    return "; ".join(wrong[:MOST_NAMES]) + more


def _labelled(array: Array, spec: OutputSpec | None) -> list[Any]:
    rows = np.atleast_1d(array)
    if spec is None or not spec.labels or rows.dtype.kind not in "iu":
        return plain(rows)
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(spec.labels):
        raise PredictFailed(f"output {spec.name} has an index beyond its {len(spec.labels)} labels")
    return plain(np.asarray(spec.labels, dtype=object)[rows])


def plain(array: Array) -> list[Any]:
    """Return an array as nested lists of what JSON knows.

    Raises:
        PredictFailed: a number is not finite (JSON has no word for it), or an object is no text.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PredictFailed("the model answered with NaN or Infinity, which JSON cannot say")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype.kind in "SO":
        array = np.vectorize(_text, otypes=[object])(array) if array.size else array
    return list(array.tolist())


def _text(item: object) -> object:
    if isinstance(item, bytes):
        return item.decode("utf-8", "replace")
    if isinstance(item, str | bool | int | float) or item is None:
        return item
    raise PredictFailed(f"the model answered with a {type(item).__name__}, expected numbers or texts")
