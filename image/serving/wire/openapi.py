"""The OpenAPI document of the serving port: generated from the routes and from the models that are there now.

Each model has paths of its own, with the shapes, datatypes and labels that it declares; there are no placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version as package_version
from typing import Any, NamedTuple

import msgspec
from werkzeug.routing import Map

from loader.bundle.model_config import ModelConfig
from serving import page
from serving.state import ModelState
from serving.wire import schemas
from serving.wire.npy import NPY_TYPE
from serving.wire.schemas import BOOLEAN, COUNT, STRING, Schema, either, listing, record
from serving.wire.uploads import FORM_TYPE, RAW_TYPE

JSON, IMAGES = "application/json", ("image/png", "image/jpeg")


class Route(NamedTuple):
    """One URL of the app: `/v2/models/<name:name>`, its view's name, and its method."""

    rule: str
    view: str
    method: str


class Described(NamedTuple):
    """One model as its clients meet it; config is None where it is not loaded here, so that little can be said."""

    name: str
    version: str
    config: ModelConfig | None


class _Operation(NamedTuple):
    """What a view takes and answers; what does not depend on the model ignores it."""

    summary: str
    answer: Callable[[ModelConfig], Schema] | None  # None: a file of the page
    body: Callable[[ModelConfig], Schema] | None = None
    example: Callable[[ModelConfig], object] | None = None  # of a body; with one it is for a model to answer
    errors: tuple[int, ...] = ()
    alike: tuple[int, ...] = (200,)  # statuses with that answer
    open: bool = False  # no access needed


REASONS = {
    400: "The body is not what the model takes.",
    401: "No token, or not a valid one; or a wrong name or password.",
    404: "No such model, version or page.",
    413: "The body has more bytes than the server accepts.",
    429: "A name was tried with wrong passwords too often.",
    500: "The model raised, or answered with what the form of the answer cannot say.",
    503: "It cannot answer yet, failed to load, or has too much to do.",
    504: "The model did not answer in time.",
}
_ASKED, _TOLD = (400, 404, 413, 500, 503, 504), (404, 503)
_NAMED = {"name": STRING, "version": STRING}
_STATE = {"$ref": "#/components/schemas/ModelState"}
_METADATA = listing(record({"name": STRING, "datatype": STRING, "shape": listing({"type": "integer"})}))
_V1_VERSION = record({"version": STRING, "state": {"enum": ["START", "LOADING", "AVAILABLE", "END"]}})
_V2_VERSION = record({**_NAMED, "state": {"enum": ["READY", "LOADING", "UNAVAILABLE"]}, "reason": STRING})


def _always(schema: Schema) -> Callable[[ModelConfig], Schema]:
    return lambda _: schema


OPERATIONS = {
    "index": _Operation("Say that the server is there", _always(record({"models": listing(_STATE)}))),
    "models": _Operation("List the models and where each is", _always(record({"models": listing(_STATE)}))),
    "healthz": _Operation(
        "Tell a load balancer whether to send requests here",
        _always(record({"status": {"const": "ok"}})),
        errors=(503,),
        open=True,
    ),
    "login": _Operation(
        "Give a token for a name and a password",
        _always(record({"token": STRING, "expires_in": COUNT})),
        _always(record({"username": STRING, "password": STRING})),
        errors=(400, 401, 404, 413, 429, 503),
        open=True,
    ),
    "predict": _Operation(
        "Ask the default model", schemas.short_answer, schemas.short_request, schemas.rows_example, _ASKED
    ),
    "v1_models": _Operation("List the models as V1 does", _always(record({"models": listing(STRING)}))),
    "v1_status": _Operation(
        "Describe a model as V1 does",
        _always(record({"name": STRING, "ready": BOOLEAN, "model_version_status": listing(_V1_VERSION)})),
        errors=(404,),
    ),
    "v1_predict": _Operation("Ask as V1 does", schemas.rows_answer, schemas.rows_request, schemas.rows_example, _ASKED),
    "v2_server": _Operation("Describe the server", _always(record({**_NAMED, "extensions": listing(STRING)}))),
    "v2_live": _Operation("Tell that the server runs", _always(record({"live": {"const": True}})), open=True),
    "v2_ready": _Operation(
        "Tell whether the server can answer", _always(record({"ready": BOOLEAN})), alike=(200, 503), open=True
    ),
    "v2_index": _Operation(
        "List every version of every model",
        _always(listing(_V2_VERSION)),
        _always(record({}, ready=BOOLEAN)),
        errors=(400, 413),
    ),
    "v2_model": _Operation(
        "Describe a model's versions and tensors",
        _always(record({"name": STRING, "versions": listing(STRING), "inputs": _METADATA, "outputs": _METADATA})),
        errors=_TOLD,
    ),
    "v2_model_ready": _Operation(
        "Tell whether a model can answer", _always(record({**_NAMED, "ready": {"const": True}})), errors=_TOLD
    ),
    "v2_infer": _Operation(
        "Ask as v2 does", schemas.infer_answer, schemas.infer_request, schemas.infer_example, _ASKED
    ),
    "openapi_document": _Operation("This document", _always(record({"openapi": STRING}))),
    "docs_page": _Operation("A page to try the models, and its files", None, open=True),
}


def document(routes: Iterable[Route], models: Sequence[Described], access: bool = False) -> dict[str, Any]:
    """Describe the serving port.

    Args:
        routes: of the app.
        models: all that there are; the first is the default model.
        access: whether a token is asked for.
    """
    paths: dict[str, dict[str, Any]] = {}
    default = models[0] if models else None
    for route in routes:
        for model in models if "<" in route.rule else [default]:
            path = _path(route.rule, model)
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, model, access)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pantry",
            "version": package_version("pantry"),
            "description": "What the models take and answer. Lists in any one dimension are equally long, and a flat "
            "`data` fills its `shape`. What a model declares no inputs for, it judges itself. Any request may be "
            "answered with 408 (it did not arrive in time), 431 (its head is too large) or 503 (no room for its body).",
        },
        "tags": [_tag(model) for model in models],
        "paths": dict(sorted(paths.items())),
        "components": _components(access),
    }


def routes_of(url_map: Map) -> list[Route]:
    """Return an app's routes."""
    return [
        Route(rule.rule, rule.endpoint.split()[0], method)
        for rule in url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]


def _path(rule: str, model: Described | None) -> str:
    values = {"name": model.name, "version": model.version} if model else {}
    return re.sub(r"<\w+:(\w+)>", lambda found: values[found[1]], rule)


def _operation(route: Route, path: str, model: Described | None, access: bool) -> dict[str, Any]:
    operation = OPERATIONS[route.view]
    config = (model.config if model else None) or ModelConfig()
    described: dict[str, Any] = {
        "operationId": f"{route.method.lower()} {path}",
        "summary": operation.summary,
        "responses": _answers(operation, path, config) | _errors(operation, access),
    }
    if model and ("<" in route.rule or operation.example):
        described["tags"] = [model.name]
    if operation.body is not None and route.method == "POST":
        described["requestBody"] = {"required": operation.example is not None, "content": _bodies(operation, config)}
    if access and not operation.open:
        described["security"] = [{"token": []}]
    if access and route.view == "login":
        described["security"] = [{"password": []}, {}]
    return described


def _bodies(operation: _Operation, config: ModelConfig) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": operation.body(config)}} if operation.body else {}
    if operation.example is None:
        return content
    if config.inputs:
        content[JSON]["example"] = operation.example(config)
    if len(config.inputs) == 1:
        spec = config.inputs[0]
        kinds = [*(IMAGES if spec.image else ()), *((NPY_TYPE, RAW_TYPE) if spec.datatype != "BYTES" else ())]
        content |= {kind: {} for kind in kinds if kind != RAW_TYPE or spec.shape.count(-1) <= 1}
    return content | ({FORM_TYPE: {"schema": schemas.form_request(config)}} if config.inputs else {})


def _answers(operation: _Operation, path: str, config: ModelConfig) -> dict[str, Any]:
    if operation.answer is None:
        content: dict[str, Any] = {page.FILES[path].media_type: {}}
    else:
        content = _said(operation.answer(config), config.alive.get(path))
    if operation.example is not None:
        content[NPY_TYPE] = {}
    if operation is OPERATIONS["v2_infer"]:
        content[RAW_TYPE] = {}
    return {str(status): {"description": "The answer.", "content": content} for status in operation.alike}


def _said(schema: Schema, alive: str | dict[str, Any] | None) -> dict[str, Any]:
    """Return an answer's content: JSON of a schema, or what the default model's author lets the page say."""
    if isinstance(alive, str):
        return {JSON: {"schema": schema}, "text/plain": {"schema": {"const": alive}}}
    return {JSON: {"schema": schema if alive is None else either([{"const": alive}, schema])}}


def _errors(operation: _Operation, access: bool) -> dict[str, Any]:
    statuses = {*operation.errors, *((401,) if access and not operation.open else ())}
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}


def _tag(model: Described) -> dict[str, Any]:
    """Return a model's tag, with its declaration: what the page at /docs makes its form of."""
    config = model.config
    declared = {"version": model.version, "loaded": config is not None}
    if config is not None:
        declared |= msgspec.to_builtins({"inputs": config.inputs, "outputs": config.outputs})
    return {"name": model.name, "description": f"Version {model.version}", "x-pantry-model": declared}


def _components(access: bool) -> dict[str, Any]:
    _, structs = msgspec.json.schema_components([ModelState], ref_template="#/components/schemas/{name}")
    error = {"description": "One sentence.", **record({"error": STRING})}
    after = {"Retry-After": {"description": "Seconds.", "schema": COUNT}}
    responses = {
        str(status): {
            "description": reason,
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
            **({"headers": after} if status in (429, 503) else {}),
        }
        for status, reason in REASONS.items()
    }
    schemes = {"token": {"type": "http", "scheme": "bearer"}, "password": {"type": "http", "scheme": "basic"}}
    return {"schemas": {**structs, "Error": error}, "responses": responses} | (
        {"securitySchemes": schemes} if access else {}
    )
