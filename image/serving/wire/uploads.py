"""Bodies other than JSON: images, .npy files, raw tensors, and forms that have them as their parts.

All of it is in memory, within the size that a body may have: nothing is written to a disk.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

from loader.bundle.model_config import InputSpec, ModelConfig
from serving.errors import InvalidRequest
from serving.wire.binary import from_bytes
from serving.wire.images import decode_image
from serving.wire.npy import NPY_TYPE, decode_npy
from serving.wire.protocol import decode_json
from serving.wire.tensors import DEFAULT_INPUT, DTYPES, Array, check_inputs, fit, to_array

RAW_TYPE, FORM_TYPE = "application/octet-stream", "multipart/form-data"
MAX_PARTS = 100  # of a form; each is an input of the model
ONLY_FILE = "file"  # a part of this name is the only input, whatever the model calls it
_TYPES_BY_SUFFIX = {"npy": NPY_TYPE, "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg"}


class _Part(NamedTuple):
    array: Array
    many: bool


def is_upload(mimetype: str) -> bool:
    """Tell whether a body of this type is something else than JSON."""
    return mimetype in {NPY_TYPE, RAW_TYPE, FORM_TYPE} or mimetype.startswith("image/")


def decode_upload(body: bytes, content_type: str, config: ModelConfig) -> tuple[dict[str, Array], bool]:
    """Read a body that is no JSON.

    Args:
        body: all of it.
        content_type: the header, of a type that `is_upload`.
        config: of the model.

    Returns:
        Arrays by name, and whether the client asked about several rows.

    Raises:
        InvalidRequest: it cannot be read, or is not what the model takes.
    """
    mimetype, options = parse_options_header(content_type)
    if not body:
        raise InvalidRequest(f"the body is empty, expected {mimetype}")
    if mimetype == FORM_TYPE:
        parts = _form(body, options.get("boundary", ""), config)
    else:
        spec = _only(config)
        parts = {spec.name if spec else DEFAULT_INPUT: _decode(body, mimetype, spec, "the body")}
    if len({part.many for part in parts.values()}) > 1:
        raise InvalidRequest("some parts of the form are one row, others are several; expected the same of all")
    inputs = check_inputs({name: part.array for name, part in parts.items()}, config.inputs)
    return inputs, next(iter(parts.values())).many


def _only(config: ModelConfig) -> InputSpec | None:
    """Return the only declared input, or None where nothing is declared."""
    if len(config.inputs) > 1:
        names = ", ".join(spec.name for spec in config.inputs)
        raise InvalidRequest(f"the model takes several inputs ({names}): send JSON, or a form with a part for each")
    return config.inputs[0] if config.inputs else None


def _decode(data: bytes, mimetype: str, spec: InputSpec | None, what: str) -> _Part:
    if mimetype.startswith("image/"):
        return _Part(decode_image(data, spec), many=False)
    if mimetype == NPY_TYPE:
        return _npy(data, spec, what)
    if mimetype == RAW_TYPE:
        return _Part(_raw(data, spec, what), many=True)
    raise InvalidRequest(f"{what} is {mimetype[:100]!r}; expected an image, {NPY_TYPE} or {RAW_TYPE}")


def _npy(data: bytes, spec: InputSpec | None, what: str) -> _Part:
    array = decode_npy(data, what)
    if spec is None:
        return _Part(array, many=array.ndim > 0)
    array = fit(array, spec.datatype, what)
    if array.ndim == len(spec.shape) - 1:
        return _Part(array.reshape([1, *array.shape]), many=False)
    return _Part(array, many=True)


def _raw(data: bytes, spec: InputSpec | None, what: str) -> Array:
    """Make an array of nothing but its elements: the declaration has the dtype and all sizes but one."""
    if spec is None or spec.datatype == "BYTES" or spec.shape.count(-1) > 1:
        raise InvalidRequest(
            f"{what}: raw tensors are taken for a declared input of numbers with at most one size left open; send JSON"
        )
    unit = DTYPES[spec.datatype].itemsize * math.prod(size for size in spec.shape if size != -1)
    count, rest = divmod(len(data), unit)
    if rest or (-1 not in spec.shape and count != 1):
        raise InvalidRequest(
            f"{what}: {spec.datatype} of shape {list(spec.shape)} takes {'a multiple of ' * (-1 in spec.shape)}"
            f"{unit} bytes, got {len(data)}"
        )
    return from_bytes(data, spec.datatype, [count if size == -1 else size for size in spec.shape], what)


def _form(body: bytes, boundary: str, config: ModelConfig) -> dict[str, _Part]:
    if not boundary:
        raise InvalidRequest(f"{FORM_TYPE} has no boundary in its Content-Type")
    parser = MultiPartParser(lambda *_, **__: io.BytesIO(), max_form_memory_size=len(body), max_form_parts=MAX_PARTS)
    try:
        fields, files = parser.parse(io.BytesIO(body), boundary.encode(), len(body))
    except (HTTPException, ValueError) as error:
        raise InvalidRequest(
            f"the body is no {FORM_TYPE} that can be read (boundary, end, at most {MAX_PARTS} parts)"
        ) from error
    specs = {spec.name: spec for spec in config.inputs}
    parts: dict[str, _Part] = {}
    contents: list[tuple[str, FileStorage | str]] = [*files.items(multi=True), *fields.items(multi=True)]
    for key, content in contents:
        if not key:
            raise InvalidRequest("a part of the form has no name")
        spec = specs.get(key)
        if spec is None and key == ONLY_FILE:
            spec = _only(config)
            name = spec.name if spec else DEFAULT_INPUT
        else:
            name = key
        what = f"part {key[:100]!r}"
        if name in parts:
            raise InvalidRequest(f"{what}: input {name!r} is given twice")
        if config.inputs and spec is None:
            raise InvalidRequest(f"{what} is no input; the model takes {', '.join(specs)}")
        parts[name] = (
            _field(content, spec, what)
            if isinstance(content, str)
            else _decode(content.stream.read(), _type_of(content), spec, what)
        )
    if not parts:
        raise InvalidRequest("the form has no parts, expected a file, or a field for each input")
    return parts


def _field(text: str, spec: InputSpec | None, what: str) -> _Part:
    """Read one row of text: itself where the model takes texts, or else JSON."""
    datatype = spec.datatype if spec else None
    if spec and spec.datatype == "BYTES" and len(spec.shape) == 1:
        return _Part(to_array([text], what, datatype), many=False)
    try:
        return _Part(to_array([decode_json(text.encode())], what, datatype), many=False)
    except InvalidRequest as error:
        raise InvalidRequest(f"{what}: {error}") from error


def _type_of(file: FileStorage) -> str:
    """Return what a file is; clients that do not know send the type of raw bytes, and the name says more."""
    suffix = (file.filename or "").rpartition(".")[2].lower()
    return _TYPES_BY_SUFFIX.get(suffix, RAW_TYPE) if file.mimetype in {"", RAW_TYPE} else file.mimetype
