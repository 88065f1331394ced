"""NumPy's .npy files: one array, in a body or an answer. Never Python objects in it: that would be a pickle."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from serving.errors import InvalidRequest, PredictFailed
from serving.wire.tensors import Array, reshape

NPY_TYPE = "application/x-npy"
_format: Any = np.lib.format  # it comes without types
_READ_HEADER = {(1, 0): _format.read_array_header_1_0, (2, 0): _format.read_array_header_2_0}


def decode_npy(body: bytes, what: str) -> Array:
    """Read an array; texts become Python's. Its size is known to be that of the body before any memory is taken.

    Raises:
        InvalidRequest: no .npy file, or one of a dtype other than booleans, numbers and texts, or cut short.
    """
    file = io.BytesIO(body)
    shape, fortran, dtype = _header(file, what)
    if dtype.kind not in "biufSU" or not dtype.itemsize or (dtype.kind == "f" and dtype.itemsize > 8):
        raise InvalidRequest(f"{what}: dtype {str(dtype)[:100]} is not taken; expected booleans, numbers or texts")
    data = memoryview(body)[file.tell() :]
    size = math.prod(shape) * dtype.itemsize if min(shape, default=0) >= 0 else -1
    if size != len(data):
        raise InvalidRequest(f"{what}: shape {str(shape)[:100]} of {dtype} does not take {len(data)} bytes")
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise InvalidRequest(f"{what}: a byte of a boolean is neither 0 nor 1")
    flat = np.frombuffer(data, dtype)
    array = reshape(flat, shape[::-1], what).transpose() if fortran else reshape(flat, shape, what)
    if dtype.kind in "SU":
        return _texts(array, what)
    return np.array(array, dtype.newbyteorder("="), order="C")


def encode_npy(outputs: dict[str, Array]) -> bytes:
    """Return a model's only output as a .npy file.

    Raises:
        InvalidRequest: there are several outputs.
        PredictFailed: it mixes texts with what are none.
    """
    if len(outputs) != 1:
        raise InvalidRequest(f"the model answers with {', '.join(outputs)}; a .npy file holds one array: ask for JSON")
    (array,) = outputs.values()
    if array.dtype.kind == "O":
        if not all(isinstance(item, str) for item in array.ravel().tolist()):
            raise PredictFailed("the model answered with other things among texts, which only JSON can say")
        array = array.astype(str)
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _header(file: io.BytesIO, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, fortran, dtype = _READ_HEADER[_format.read_magic(file)](file)  # of at most 10,000 characters
        return shape, fortran, dtype
    except Exception as error:  # the parser of Python 2's headers raises many kinds, and says which in no document
        raise InvalidRequest(f"{what}: not a .npy file that can be read") from error


def _texts(array: Array, what: str) -> Array:
    try:
        texts = array.astype(str) if array.dtype.kind == "U" else np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what}: a text is not UTF-8") from error
    return texts.astype(object)
