"""model.yaml: how a bundle wants to be served. Every key is optional; DESIGN section 3 has the whole file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from loader.bundle import yaml_struct
from loader.bundle.errors import ModelConfigInvalid

MODEL_CONFIG_NAME = "model.yaml"
ALIVE_PAGES = ("/", "/healthz")  # what tells that the server is there; the default model's author may choose its words

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]


class ImageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an image becomes one row of a tensor.

    Attributes:
        size: width and height in pixels that the model expects; an image is resized to it.
        mode: "L" for grey, one number a pixel; "RGB" for three.
        maximum: what the brightest value, 255, becomes; the darkest is 0.
        background: what the model's own images have; one whose edge is of the other kind is inverted.
    """

    size: tuple[int, int]
    mode: Literal["L", "RGB"] = "L"
    maximum: float = 255.0
    background: Literal["black", "white"] | None = None


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One declared input: -1 in its shape is any size, and its first dimension counts the rows.

    With columns, a row may be an object by their names; they are in the order of the last of two dimensions.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    image: ImageSpec | None = None
    columns: tuple[str, ...] = ()


class OutputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One declared output; with labels, V1 and the short forms answer an index as its label.

    Its method is that of the unpickled object which gives it.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()
    method: str = "predict"


class QuestionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the short forms call one row, and several: beside these names, which always work."""

    one: str = "instance"
    many: str = "instances"


class AnswerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the short forms call one answer, and several; and what their errors say beside the sentence."""

    one: str = "prediction"
    many: str = "predictions"
    error: dict[str, Any] = {}


class BatchingSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How concurrent requests become one predict; 1 row keeps them apart."""

    max_rows: Annotated[int, msgspec.Meta(ge=1)] = 64


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a model.yaml."""

    asset: str | None = None
    predictor: str | None = None
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    question: QuestionSpec = QuestionSpec()
    answer: AnswerSpec = AnswerSpec()
    batching: BatchingSpec = BatchingSpec()
    golden: str | None = None
    alive: dict[str, str | dict[str, Any]] = {}


def parse_model_config(text: bytes, where: str) -> ModelConfig:
    """Read the content of a model.yaml.

    Args:
        text: UTF-8 YAML; empty means every default.
        where: what to call it in an error.

    Raises:
        ModelConfigInvalid: not YAML, an unknown key, a value of the wrong type, or a predictor of no valid form.
    """
    config = yaml_struct.decode(text or b"{}", ModelConfig, where, ModelConfigInvalid)
    specs: list[InputSpec | OutputSpec] = [*config.inputs, *config.outputs]
    for spec in specs:
        if not spec.shape or any(size < -1 or size == 0 for size in spec.shape):
            raise ModelConfigInvalid(
                f"{where}: {spec.name} has shape {list(spec.shape)}, expected sizes above 0, or -1 for any"
            )
    for given in config.inputs:
        if given.columns and (given.shape[1:] != (len(given.columns),) or len(set(given.columns)) < len(given.columns)):
            raise ModelConfigInvalid(
                f"{where}: {given.name} has {len(set(given.columns))} different columns, but shape {list(given.shape)}"
            )
    asked, taken = config.question, {spec.name for spec in config.inputs}.union(*(s.columns for s in config.inputs))
    if clash := taken & ({asked.one, asked.many} - {"instance", "instances"}):
        raise ModelConfigInvalid(f"{where}: question has the name of an input or column, {min(clash)!r}; rename one")
    if asked.one == asked.many:
        raise ModelConfigInvalid(f"{where}: question has the name {asked.one!r} for one row and for several")
    if strange := set(config.alive).difference(ALIVE_PAGES):
        raise ModelConfigInvalid(f"{where}: alive has {min(strange)!r}, expected {' or '.join(ALIVE_PAGES)}")
    methods = [spec.method for spec in config.outputs if spec.method != "predict"]
    if config.predictor is not None and methods:
        raise ModelConfigInvalid(f"{where}: method {methods[0]!r} and a predictor, expected one of them")
    if config.predictor is not None and config.predictor.count(":") != 1:
        raise ModelConfigInvalid(f"{where}: predictor is {config.predictor!r}, expected FILE.py:CLASS")
    return config
