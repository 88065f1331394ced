"""Arrays and the Open Inference Protocol's datatypes: which is which, and what a client's numbers become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from loader.bundle.model_config import InputSpec
from serving.errors import InvalidRequest

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("uint16"),
    "UINT32": np.dtype("uint32"),
    "UINT64": np.dtype("uint64"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("int16"),
    "INT32": np.dtype("int32"),
    "INT64": np.dtype("int64"),
    "FP16": np.dtype("float16"),
    "FP32": np.dtype("float32"),
    "FP64": np.dtype("float64"),
    "BYTES": np.dtype("object"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_KINDS = {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "U": "texts"}
_ACCEPTED = {"b": "b", "u": "iu", "i": "iu", "f": "iuf", "O": "U"}  # kinds of the client's array, by kind of the tensor

Array = np.ndarray[Any, np.dtype[Any]]


def datatype_of(array: Array) -> str:
    """Return the protocol's name for an array's dtype; texts of any kind are BYTES."""
    return _NAMES.get(array.dtype.newbyteorder("="), "BYTES")


def to_array(data: object, what: str, datatype: str | None = None) -> Array:
    """Make an array of nested JSON lists.

    Args:
        data: numbers, booleans or texts, alone or in lists of equal length.
        what: what to call it in an error.
        datatype: the protocol's name of the wanted dtype; None takes what numpy makes of the data.

    Raises:
        InvalidRequest: ragged, of mixed kinds, of another kind than asked for, or too large for the dtype.
    """
    kinds = _kinds(data)
    if len(kinds) > 1 or not kinds <= _KINDS.keys():
        names = sorted(_KINDS.get(kind, kind) for kind in kinds)
        raise InvalidRequest(f"{what}: expected numbers, or texts, or booleans; got {' and '.join(names)}")
    try:
        array = np.array(data)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"{what}: expected lists of equal length, got ragged ones") from error
    if array.dtype.kind not in _KINDS:
        raise InvalidRequest(f"{what}: a number is larger than 64 bits hold")
    if datatype is None:
        return array
    dtype = DTYPES[datatype]
    if array.size and array.dtype.kind not in _ACCEPTED[dtype.kind]:
        raise InvalidRequest(f"{what}: expected {datatype}, got {_KINDS[array.dtype.kind]}")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.max()) > limits.max or int(array.min()) < limits.min:
            raise InvalidRequest(f"{what}: a number does not fit {datatype} ({limits.min} to {limits.max})")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(cast).all():
        raise InvalidRequest(f"{what}: a number does not fit {datatype}")
    return cast


def check_shape(array: Array, shape: Sequence[int], what: str) -> None:
    """Compare an array's shape with a declared one, in which -1 is any size.

    Raises:
        InvalidRequest: they differ.
    """
    fits = len(shape) == array.ndim and all(want in (-1, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        raise InvalidRequest(f"{what}: expected shape {list(shape)}, got {list(array.shape)}")


def check_inputs(arrays: dict[str, Array], declared: Sequence[InputSpec]) -> None:
    """Compare named arrays with a model's declared inputs.

    Raises:
        InvalidRequest: one is missing, unknown, of another shape, or has another number of rows than the first.
    """
    if unknown := sorted(arrays.keys() - {spec.name for spec in declared}):
        names = ", ".join(spec.name for spec in declared)
        raise InvalidRequest(f"input {unknown[0]!r} is unknown; the model takes {names}")
    for spec in declared:
        if spec.name not in arrays:
            raise InvalidRequest(f"input {spec.name!r} is missing")
        check_shape(arrays[spec.name], spec.shape, f"input {spec.name!r}")


def _kinds(data: object) -> set[str]:
    """Collect the kinds of all leaves, without recursion: a hostile body may be nested deeply.

    Booleans among numbers count as a mixture; whole and broken numbers together are numbers.
    """
    kinds: set[str] = set()
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, bool):
            kinds.add("b")
        elif isinstance(item, int | float):
            kinds.add("f")
        elif isinstance(item, str):
            kinds.add("U")
        else:
            kinds.add("null" if item is None else "an object")
    return kinds
