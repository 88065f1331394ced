"""A request to a model: read from a body, answered from arrays. It knows no framework."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

from loader.bundle.model_config import ModelConfig
from serving.wire.binary import JSON_LENGTH
from serving.wire.infer import Inference, decode_infer, encode_infer
from serving.wire.npy import NPY_TYPE, encode_npy
from serving.wire.protocol import decode_json, decode_short, encode_rows, read_instances
from serving.wire.replies import Reply, json_reply
from serving.wire.tensors import Array
from serving.wire.uploads import RAW_TYPE, decode_upload, is_upload


class Form(Enum):
    """How clients ask."""

    SHORT = "short"
    V1 = "v1"
    V2 = "v2"


class Question(msgspec.Struct, frozen=True):
    """What a client wants to know of a model.

    Attributes:
        form: that it came in; the answer comes in the same.
        inputs: arrays by name.
        many: it was asked about several rows; of the short form.
        inference: its other wishes, of v2.
        wants_npy: the answer is to be a .npy file.
    """

    form: Form
    inputs: dict[str, Array]
    many: bool = True
    inference: Inference | None = None
    wants_npy: bool = False

    @property
    def rows(self) -> int:
        """How many rows it is about."""
        first = next(iter(self.inputs.values()))
        return len(first) if first.ndim else 1

    def answer(self, outputs: dict[str, Array], name: str, version: str, config: ModelConfig) -> Reply:
        """Say what the model of a name and version has answered.

        Raises:
            InvalidRequest: an output that is asked for does not exist.
            PredictFailed: an output cannot be said in the form that is asked for.
        """
        if self.wants_npy:
            return Reply(encode_npy(outputs), content_type=NPY_TYPE)
        if self.inference is not None:
            content, tensors = encode_infer(outputs, name, version, self.inference)
            return _with_tensors(msgspec.json.encode(content), tensors)
        rows = encode_rows(outputs, config)
        if self.form is Form.V1:
            return json_reply({"predictions": rows})
        if self.many:
            return json_reply({config.answer.many: rows})
        return json_reply({config.answer.one: rows[0] if rows else None})


def read_question(form: Form, body: bytes, headers: Mapping[str, str], config: ModelConfig) -> Question:
    """Read a request.

    Args:
        form: as its path says.
        body: all of it.
        headers: by lower-case names.
        config: of the model.

    Raises:
        InvalidRequest: it cannot be read, or is not what the model takes.
    """
    content_type = headers.get("content-type", "")
    wants_npy = NPY_TYPE in headers.get("accept", "")
    json_length = headers.get(JSON_LENGTH.lower()) if form is Form.V2 else None
    if json_length is None and is_upload(content_type.partition(";")[0].strip().lower()):
        inputs, many = decode_upload(body, content_type, config)
        inference = Inference(inputs) if form is Form.V2 else None
        return Question(form, inputs, many, inference, wants_npy)
    if form is Form.V2:
        inference = decode_infer(body, config, json_length)
        return Question(form, inference.inputs, inference=inference, wants_npy=wants_npy)
    if form is Form.V1:
        return Question(form, read_instances(body, config), wants_npy=wants_npy)
    inputs, many = decode_short(decode_json(body), config)
    return Question(form, inputs, many, wants_npy=wants_npy)


def _with_tensors(text: bytes, tensors: list[bytes]) -> Reply:
    if not tensors:
        return Reply(text)
    return Reply(b"".join((text, *tensors)), content_type=RAW_TYPE, headers=((JSON_LENGTH, str(len(text))),))
