"""Tensors as bytes: the binary tensor extension of the Open Inference Protocol.

A body is JSON, as long as its header Inference-Header-Content-Length says, then the tensors in the order of the JSON,
each as long as its parameter `binary_data_size` says, nothing between and nothing behind them.

A tensor is its elements in row-major order, little-endian; BOOL is one byte an element, 0 or 1. An element of BYTES is
its length in four bytes, little-endian, then that many bytes: here they are UTF-8, as texts are in JSON.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from serving.errors import InvalidRequest, PredictFailed
from serving.wire.tensors import DTYPES, Array, datatype_of, reshape

JSON_LENGTH = "Inference-Header-Content-Length"
_LENGTH = struct.Struct("<I")

Buffer = bytes | memoryview


def split_body(body: bytes, json_length: str | None) -> tuple[Buffer, memoryview]:
    """Part a body into its JSON and the bytes of its tensors.

    Args:
        body: all of it.
        json_length: the request's header, or None where it has none and all is JSON.

    Raises:
        InvalidRequest: the header is no number, or larger than the body.
    """
    if json_length is None:
        return body, memoryview(b"")
    if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 20):
        raise InvalidRequest(f"{JSON_LENGTH} is {json_length[:50]!r}, expected a number of bytes")
    if int(json_length) > len(body):
        raise InvalidRequest(f"{JSON_LENGTH} is {json_length}, but the body has {len(body)} bytes")
    whole = memoryview(body)
    return whole[: int(json_length)], whole[int(json_length) :]


def from_bytes(data: Buffer, datatype: str, shape: list[int], what: str) -> Array:
    """Make an array of a tensor's bytes; the array is its own copy, and can be written to.

    Args:
        data: exactly the tensor.
        datatype: the protocol's name.
        shape: as the client claims it.
        what: what to call it in an error.

    Raises:
        InvalidRequest: the bytes are not as many as the shape says, or do not hold elements of this datatype.
    """
    count = math.prod(shape) if min(shape, default=0) >= 0 else -1
    if datatype == "BYTES":
        return reshape(_texts(data, count, what), shape, what)
    dtype = DTYPES[datatype]
    if count * dtype.itemsize != len(data):
        raise InvalidRequest(
            f"{what}: shape {str(shape)[:100]} of {datatype} takes {max(count, 0) * dtype.itemsize} bytes, "
            f"got {len(data)}"
        )
    if datatype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise InvalidRequest(f"{what}: a byte of BOOL is neither 0 nor 1")
    return reshape(np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype), shape, what)


def to_bytes(array: Array) -> bytes:
    """Return an array as a tensor's bytes.

    Raises:
        PredictFailed: it mixes texts with what are none.
    """
    if (datatype := datatype_of(array)) != "BYTES":
        return array.astype(DTYPES[datatype].newbyteorder("<"), copy=False).tobytes()
    parts: list[bytes] = []
    for item in array.ravel().tolist():
        if not isinstance(item, str | bytes):
            raise PredictFailed(f"the model answered with a {type(item).__name__} among texts, which only JSON can say")
        text = item.encode("utf-8", "replace") if isinstance(item, str) else item
        parts += (_LENGTH.pack(len(text)), text)
    return b"".join(parts)


def _texts(data: Buffer, count: int, what: str) -> Array:
    if not 0 <= count * _LENGTH.size <= len(data):
        raise InvalidRequest(f"{what}: {len(data)} bytes are too few for {max(count, 0)} elements of BYTES")
    texts = np.empty(count, dtype=object)
    view, start = memoryview(data), 0
    for index in range(count):
        body = start + _LENGTH.size
        end = body + _LENGTH.unpack_from(view, start)[0] if body <= len(view) else body
        if end > len(view):
            raise InvalidRequest(f"{what}: element {index} of BYTES reaches beyond the tensor's {len(view)} bytes")
        try:
            texts[index] = str(view[body:end], "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{what}: element {index} of BYTES is no UTF-8 text") from error
        start = end
    if start != len(view):
        raise InvalidRequest(f"{what}: {len(view) - start} bytes are left over after {count} elements of BYTES")
    return texts
