"""Arrays and the Open Inference Protocol's datatypes: which is which, and what a client's numbers become."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
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
DEFAULT_INPUT, DEFAULT_OUTPUT = "input", "output"  # the names of what a model does not declare
MAX_DIMENSIONS = 32  # as many as numpy 1 knows
MOST_NAMES = 20  # in one sentence
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_KINDS = {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "O": "texts"}
_ACCEPTED = {"b": "b", "u": "iu", "i": "iu", "f": "iuf", "O": "O"}  # kinds of the client's array, by kind of the tensor
_WORDS = {bool: "booleans", int: "numbers", float: "numbers", str: "texts", type(None): "null", dict: "an object"}

_KIND_OF = {  # of an array, by the types of its elements
    frozenset({float}): "f",
    frozenset({int, float}): "f",
    frozenset({int}): "i",
    frozenset({bool}): "?",
    frozenset({str}): "O",
}

Array = np.ndarray[Any, np.dtype[Any]]


def datatype_of(array: Array) -> str:
    """Return the protocol's name for an array's dtype; texts of any kind are BYTES, longer floats are cut to FP64."""
    dtype = array.dtype.newbyteorder("=")
    return _NAMES.get(dtype, "FP64" if dtype.kind == "f" else "BYTES")


def to_array(data: object, what: str, datatype: str | None = None) -> Array:
    """Make an array of nested JSON lists.

    Args:
        data: numbers, booleans or texts, alone or in lists of equal length.
        what: what to call it in an error.
        datatype: the protocol's name of the wanted dtype; None takes INT64, FP64, BOOL or BYTES, whatever fits.

    Raises:
        InvalidRequest: ragged, of mixed kinds, of another kind than asked for, or too large for the dtype.
    """
    leaves, types, shape = _flatten(data, what)
    if not leaves:
        return np.empty(shape, DTYPES[datatype or "FP64"])
    kind = _KIND_OF.get(frozenset(types))
    if kind is None:
        words = sorted({_WORDS.get(found, found.__name__) for found in types})
        raise InvalidRequest(f"{what}: expected numbers, or texts, or booleans; got {' and '.join(words)}")
    if kind == "f" and datatype and DTYPES[datatype].kind in "iu" and _are_whole(leaves):
        leaves, kind = [int(leaf) for leaf in leaves], "i"  # 1.0 is a whole number, and some languages write it so
    if kind == "f" or (kind == "i" and datatype in {"FP64", "FP32", "FP16"}):
        array = _floats(leaves, what)
    elif kind == "i":
        array = _integers(leaves, what)
    else:
        array = np.array(leaves, dtype=kind)
    return (array if datatype is None else fit(array, datatype, what)).reshape(shape)


def _are_whole(leaves: Sequence[int | float]) -> bool:
    return all(type(leaf) is int or float.is_integer(leaf) for leaf in leaves)


def fit(array: Array, datatype: str, what: str) -> Array:
    """Return an array in a datatype that holds all its values; NaN and Infinity stay what they are.

    Raises:
        InvalidRequest: of another kind, or too large.
    """
    dtype = DTYPES[datatype]
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in _ACCEPTED[dtype.kind]:
        raise InvalidRequest(f"{what}: expected {datatype}, got {_KINDS[array.dtype.kind]}")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.max()) > limits.max or int(array.min()) < limits.min:
            raise InvalidRequest(f"{what}: a number does not fit {datatype} ({limits.min} to {limits.max})")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind == "f" and (np.isfinite(cast) != np.isfinite(array)).any():
        raise InvalidRequest(f"{what}: a number does not fit {datatype}")
    return cast


def made_up(spec: InputSpec) -> Array:
    """Return zeros, or texts, of a declared shape, with one row where there may be any number."""
    shape = [max(size, 1) for size in spec.shape]
    return np.full(shape, "text", object) if spec.datatype == "BYTES" else np.zeros(shape, DTYPES[spec.datatype])


def reshape(array: Array, shape: Sequence[int], what: str) -> Array:
    """Give an array the shape that a client claims for it.

    Raises:
        InvalidRequest: the shape does not hold as many values.
    """
    if tuple(shape) == array.shape:
        return array
    try:
        if min(shape, default=0) >= 0:
            return array.reshape(shape)
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest(f"{what}: shape {_short(shape)} does not hold {array.size} values")


def check_shape(array: Array, shape: Sequence[int], what: str) -> None:
    """Compare an array's shape with a declared one, in which -1 is any size.

    Raises:
        InvalidRequest: they differ, or it has no rows.
    """
    got = array.shape
    if len(shape) != len(got) or any(want not in (-1, have) for want, have in zip(shape, got, strict=True)):
        raise InvalidRequest(f"{what}: expected shape {list(shape)}, got {_short(got)}")
    if not got[0]:
        raise InvalidRequest(f"{what}: there are no rows, expected at least one")


def check_inputs(arrays: dict[str, Array], declared: Sequence[InputSpec]) -> dict[str, Array]:
    """Compare named arrays with a model's declared inputs.

    Returns:
        The arrays in declared order; where nothing is declared, as they are.

    Raises:
        InvalidRequest: one is missing, unknown, of another shape, or has another number of rows than the first.
    """
    if not declared:
        if not arrays:
            raise InvalidRequest("no inputs")
        return arrays
    checked: dict[str, Array] = {}
    counts: set[int] = set()
    for spec in declared:
        array = arrays.get(spec.name)
        if array is None:
            break
        check_shape(array, spec.shape, f"input {spec.name!r}")
        checked[spec.name] = array
        if spec.shape[0] == -1:
            counts.add(len(array))
    if len(checked) < len(arrays) or len(checked) < len(declared):
        raise InvalidRequest(misnamed("input", [spec.name for spec in declared], arrays))
    if len(counts) > 1:
        told = ", ".join(f"{name} {len(array)}" for name, array in checked.items())
        raise InvalidRequest(f"inputs have different numbers of rows: {told}")
    return checked


def misnamed(kind: str, wanted: Sequence[str], given: Iterable[str]) -> str:
    """Say which names are missing and which are unknown.

    Args:
        kind: of what has these names, in the singular.
        wanted: all that there have to be.
        given: others.
    """
    found, known = dict.fromkeys(given), set(wanted)
    missing, unknown = [name for name in wanted if name not in found], [name for name in found if name not in known]
    parts = [f"{_listed(kind, missing)} missing"] if missing else []
    parts += [f"{_listed(kind, unknown)} unknown", f"the model takes {', '.join(wanted)}"] if unknown else []
    return "; ".join(parts)


def _listed(kind: str, names: list[str]) -> str:
    told = ", ".join(repr(name[:100]) for name in names[:MOST_NAMES])
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{kind} {told} is" if len(names) == 1 else f"{kind}s {told}{more} are"


def _flatten(data: object, what: str) -> tuple[list[Any], set[type], list[int]]:
    """Return the leaves of nested lists, their types, and the shape of the nest.

    Level by level, and without a loop over elements: a body may be nested deeply, or have a million numbers.
    """
    level: list[Any] = [data]
    shape: list[int] = []
    while (types := set(map(type, level))) == {list}:
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise InvalidRequest(f"{what}: expected lists of equal length, got ragged ones")
        if len(shape) == MAX_DIMENSIONS:
            raise InvalidRequest(f"{what}: nested too deeply, at most {MAX_DIMENSIONS} lists in one another are taken")
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    if list in types:
        raise InvalidRequest(f"{what}: expected lists of equal length, got ragged ones")
    return level, types, shape


def _floats(numbers: list[Any], what: str) -> Array:
    try:
        return np.array(numbers, DTYPES["FP64"])
    except OverflowError as error:
        raise InvalidRequest(f"{what}: a number is larger than FP64 holds") from error


def _integers(numbers: list[Any], what: str) -> Array:
    try:
        return np.array(numbers, DTYPES["INT64"])
    except OverflowError as error:
        if min(numbers) < 0 or max(numbers) >= 2**64:
            raise InvalidRequest(f"{what}: a number is larger than 64 bits hold") from error
        return np.array(numbers, DTYPES["UINT64"])


def _short(shape: Sequence[int]) -> str:
    text = str(list(shape))
    return text if len(text) <= 100 else f"{text[:100]}…"
