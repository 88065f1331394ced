"""What a model takes and answers, as JSON Schemas: for `openapi`.

Three things that no schema says stand in descriptions: lists in any one dimension are equally long, a flat `data` fills
its `shape`, and a model without declared inputs is itself the judge of what it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from loader.bundle.model_config import InputSpec, ModelConfig, OutputSpec
from serving.wire.tensors import DTYPES, made_up

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
_OBJECT: Schema = {"type": ["object", "null"]}


def record(required: dict[str, Schema], **optional: Schema) -> Schema:
    """Return the schema of an object that may have other keys, too."""
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def closed(required: dict[str, Schema]) -> Schema:
    """Return the schema of an object with exactly these keys."""
    return {**record(required), "additionalProperties": False}


def listing(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    """Return the schema of a list."""
    sizes = {"minItems": least} if least else {}
    return {"type": "array", "items": items, **sizes, **({} if most is None else {"maxItems": most})}


def either(schemas: Sequence[Schema]) -> Schema:
    """Return the schema of what fits at least one of several."""
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def element(datatype: str) -> Schema:
    """Return the schema of one value of a tensor."""
    dtype = DTYPES[datatype]
    if dtype.kind == "b":
        return BOOLEAN
    if dtype.kind == "O":
        return STRING
    if dtype.kind == "f":
        return {"type": "number", "minimum": float(np.finfo(dtype).min), "maximum": float(np.finfo(dtype).max)}
    return {"type": "integer", "minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}


def nested(item: Schema, shape: Sequence[int]) -> Schema:
    """Return the schema of nested lists of a shape, in which -1 is any size."""
    for size in reversed(shape):
        item = listing(item) if size == -1 else listing(item, size, size)
    return item


def rows_of(row: Schema, shape: Sequence[int]) -> Schema:
    """Return the schema of one or more rows of a tensor of this shape."""
    return listing(row, 1) if shape[0] == -1 else listing(row, shape[0], shape[0])


def rows_request(config: ModelConfig) -> Schema:
    """Return the schema of V1's requests: `instances`, each a row, or an object with the rows of all inputs."""
    shape = config.inputs[0].shape if config.inputs else (-1,)
    return record({"instances": either([rows_of(row, shape) for row in _row_forms(config.inputs)])})


def short_request(config: ModelConfig) -> Schema:
    """Return the schema of the short forms' requests."""
    rows, asked = _row_forms(config.inputs), config.question
    one_row = not config.inputs or config.inputs[0].shape[0] in (-1, 1)
    objects = [row for row in rows if row.get("type") == "object"]
    several, single = rows_request(config), [closed({name: either(rows)}) for name in {"instance": 0, asked.one: 0}]
    own = [closed({asked.many: several["properties"]["instances"]})] if asked.many != "instances" else []
    return either([several, *own, *([*single, *objects] if one_row else [])])


def form_request(config: ModelConfig) -> Schema:
    """Return the schema of forms: one row, a field for each input that is one value, a file for any other."""
    return closed(
        {spec.name: element(spec.datatype) if len(spec.shape) == 1 else {"format": "binary"} for spec in config.inputs}
    )


def infer_request(config: ModelConfig) -> Schema:
    """Return the schema of v2's requests: every declared input once."""
    tensors = [_input_tensor(spec) for spec in config.inputs]
    inputs = listing(either(tensors), len(tensors), len(tensors)) if tensors else listing(_tensor(STRING), 1)
    names: Schema = {"enum": [spec.name for spec in config.outputs]} if config.outputs else STRING
    outputs = listing(record({"name": names}, parameters=_OBJECT)) | {"type": ["array", "null"]}
    if len(tensors) > 1:
        inputs["allOf"] = [{"contains": record({"name": {"const": spec.name}})} for spec in config.inputs]
    return record({"inputs": inputs}, outputs=outputs, id={"type": ["string", "null"]}, parameters=_OBJECT)


def rows_example(config: ModelConfig) -> object:
    """Return a request of V1, which is one of the short forms, too."""
    rows = {spec.name: made_up(spec).tolist() for spec in config.inputs}
    count = len(next(iter(rows.values())))
    by_name = [{name: row[i] for name, row in rows.items()} for i in range(count)]
    return {"instances": by_name if len(rows) > 1 else next(iter(rows.values()))}


def infer_example(config: ModelConfig) -> object:
    """Return a request of v2."""
    examples = [(spec, made_up(spec).tolist()) for spec in config.inputs]
    return {
        "inputs": [
            {"name": spec.name, "datatype": spec.datatype, "shape": list(np.shape(data)), "data": data}
            for spec, data in examples
        ]
    }


def rows_answer(config: ModelConfig) -> Schema:
    """Return the schema of V1's answers."""
    return record({"predictions": listing(_answer_row(config.outputs))})


def short_answer(config: ModelConfig) -> Schema:
    """Return the schema of the short forms' answers: one, or several."""
    row = _answer_row(config.outputs)
    return either([record({config.answer.one: row}), record({config.answer.many: listing(row)})])


def infer_answer(config: ModelConfig) -> Schema:
    """Return the schema of v2's answers."""
    outputs = listing(either([_tensor({"const": spec.name}) for spec in config.outputs] or [_tensor(STRING)]))
    return record({"model_name": STRING, "model_version": STRING, "outputs": outputs}, id=STRING)


def _tensor(name: Schema) -> Schema:
    return record({"name": name, "datatype": {"enum": list(DTYPES)}, "shape": listing(COUNT), "data": listing({})})


def _input_tensor(spec: InputSpec) -> Schema:
    item = element(spec.datatype)
    least = 0 if -1 in spec.shape[1:] else abs(math.prod(spec.shape))  # of one row, or of the only rows there may be
    rows = rows_of(nested(item, spec.shape[1:]), spec.shape)
    data = [listing(item, least), *([rows] if len(spec.shape) > 1 else [])]
    names: dict[str, Schema] = {"name": {"const": spec.name}, "datatype": {"const": spec.datatype}}
    return record({**names, "shape": _shape(spec.shape), "data": either(data)}, parameters=_OBJECT)


def _row(spec: InputSpec | OutputSpec) -> Schema:
    return nested(element(spec.datatype), spec.shape[1:])


def _row_forms(inputs: Sequence[InputSpec]) -> list[Schema]:
    """Return the schemas of a row: a value, a list of all inputs, an object by their names or by columns."""
    if not inputs:
        return [{}]
    by_name = closed({spec.name: _row(spec) for spec in inputs})
    if len(inputs) > 1:
        in_order = {"type": "array", "prefixItems": [_row(spec) for spec in inputs], "items": False}
        return [by_name, in_order | {"minItems": len(inputs)}]
    value = element(inputs[0].datatype)
    by_column = [closed(dict.fromkeys(inputs[0].columns, value))] if inputs[0].columns else []
    return [_row(inputs[0]), by_name, *by_column]


def _shape(shape: Sequence[int]) -> Schema:
    sizes: list[Schema] = [COUNT if size == -1 else {"const": size} for size in shape]
    sizes[0] = {"type": "integer", "minimum": 1} if shape[0] == -1 else sizes[0]
    return {"type": "array", "prefixItems": sizes, "items": False, "minItems": len(sizes)}


def _answer_row(outputs: Sequence[OutputSpec]) -> Schema:
    """Return the schema of one row: a value, with several outputs an object; labels stand for their indexes."""
    rows = {
        spec.name: nested({"enum": list(spec.labels)} if spec.labels else element(spec.datatype), spec.shape[1:])
        for spec in outputs
    }
    if not rows:
        return {}
    return next(iter(rows.values())) if len(rows) == 1 else record(rows)
