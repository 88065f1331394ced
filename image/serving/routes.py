"""Every URL of the serving port."""

from __future__ import annotations

from importlib.metadata import version as package_version
from typing import Any, cast

from flask import Flask, Response, current_app, g, request
from werkzeug.routing import BaseConverter

from serving.catalog import Catalog
from serving.errors import BodyTooLarge, InvalidRequest, ModelNotReady
from serving.images import decode_image
from serving.model import Model
from serving.protocol import decode_infer, decode_instances, decode_json, decode_short, encode_infer, encode_rows
from serving.responses import answer
from serving.state import ModelState, Phase, sentence

IMAGE_TYPES = ("image/png", "image/jpeg")


class _NameConverter(BaseConverter):
    """A model's name: a colon begins V1's verb, so that GET /v1/models/m:predict is the wrong method, not a model."""

    regex = "[^/:]+"


def register(app: Flask) -> None:
    """Add all routes to an app."""
    app.url_map.converters["name"] = _NameConverter
    for rule, view, methods in (
        ("/", index, ["GET"]),
        ("/healthz", healthz, ["GET"]),
        ("/predict", predict, ["POST"]),
        ("/prediction", predict, ["POST"]),
        ("/v1/models/<name:name>", v1_status, ["GET"]),
        ("/v1/models/<name:name>:predict", v1_predict, ["POST"]),
        ("/v1/models/<name:name>/versions/<name:version>:predict", v1_predict, ["POST"]),
        ("/v2", v2_server, ["GET"]),
        ("/v2/health/live", v2_live, ["GET"]),
        ("/v2/health/ready", v2_ready, ["GET"]),
        ("/v2/models/<name:name>", v2_model, ["GET"]),
        ("/v2/models/<name:name>/ready", v2_model_ready, ["GET"]),
        ("/v2/models/<name:name>/infer", v2_infer, ["POST"]),
        ("/v2/models/<name:name>/versions/<name:version>", v2_model, ["GET"]),
        ("/v2/models/<name:name>/versions/<name:version>/ready", v2_model_ready, ["GET"]),
        ("/v2/models/<name:name>/versions/<name:version>/infer", v2_infer, ["POST"]),
    ):
        app.add_url_rule(rule, f"{view.__name__} {rule}", view, methods=methods)


def index() -> Response:
    """List the models and where each is."""
    return answer({"models": catalog().state.models})


def healthz() -> Response:
    """Tell a load balancer whether to send requests here."""
    state = catalog().state
    if state.ready:
        return answer({"status": "ok"})
    reasons = [sentence(model) for model in state.models if not model.serving]
    raise ModelNotReady("; ".join(reasons) or state.problem or "the server has no models")


def predict() -> Response:
    """Answer the default model's short form: JSON or an image."""
    model = _use(catalog().get(catalog().default))
    if request.mimetype in IMAGE_TYPES:
        inputs, many = decode_image(read_body(), model.config), False
    else:
        inputs, many = decode_short(decode_json(read_body()), model.config)
    rows = encode_rows(model.predict(inputs), model.config)
    if many:
        return answer({model.config.answer.many: rows})
    return answer({model.config.answer.one: rows[0] if rows else None})


def v1_status(name: str) -> Response:
    """Describe a model as V1 does."""
    state = catalog().describe(name)
    return answer({"name": name, "ready": state.serving is not None, "model_version_status": _versions(state)})


def v1_predict(name: str, version: str | None = None) -> Response:
    """Answer a V1 request."""
    model = _use(catalog().get(name, version))
    inputs = decode_instances(decode_json(read_body()), model.config)
    return answer({"predictions": encode_rows(model.predict(inputs), model.config)})


def v2_server() -> Response:
    """Describe the server."""
    return answer({"name": "pantry", "version": package_version("pantry"), "extensions": []})


def v2_live() -> Response:
    """Tell that the server runs."""
    return answer({"live": True})


def v2_ready() -> Response:
    """Tell whether the server can answer."""
    ready = catalog().state.ready
    return answer({"ready": ready}, 200 if ready else 503)


def v2_model(name: str, version: str | None = None) -> Response:
    """Describe a model's versions and tensors."""
    model = catalog().get(name, version)
    tensors = {
        key: [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]
        for key, specs in (("inputs", model.config.inputs), ("outputs", model.config.outputs))
    }
    return answer({"name": name, "versions": [model.version], "platform": "pantry", **tensors})


def v2_model_ready(name: str, version: str | None = None) -> Response:
    """Tell whether a model can answer."""
    model = catalog().get(name, version)
    return answer({"name": name, "version": model.version, "ready": True})


def v2_infer(name: str, version: str | None = None) -> Response:
    """Answer a v2 inference request."""
    model = _use(catalog().get(name, version))
    inputs, request_id = decode_infer(read_body(), model.config)
    return answer(encode_infer(model.predict(inputs), name, model.version, request_id))


def catalog() -> Catalog:
    """Return this app's models."""
    return cast("Catalog", current_app.extensions["catalog"])


def read_body() -> bytes:
    """Read the request's body, counting as it comes, whatever it claims about its length.

    Flask's own limit, MAX_CONTENT_LENGTH, would cut a chunked body silently.

    Raises:
        BodyTooLarge: it has more bytes than the server accepts.
        InvalidRequest: it broke off, or is compressed.
    """
    limit = cast("int", current_app.extensions["max_body_bytes"])
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise InvalidRequest("a compressed body is not taken; send it without Content-Encoding")
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"the body has {request.content_length} bytes, at most {limit} are taken")
    stream = request.environ["wsgi.input"]
    body = cast("bytes", stream.read(limit + 1))
    if len(body) > limit:
        raise BodyTooLarge(f"the body has more than {limit} bytes")
    if len(body) < (request.content_length or 0):
        raise InvalidRequest(f"the body broke off after {len(body)} of {request.content_length} bytes")
    return body


def _use(model: Model) -> Model:
    g.logged = {"model": model.name, "version": model.version}
    return model


def _versions(state: ModelState) -> list[dict[str, Any]]:
    """Return the statuses of the desired version, and of another one that still answers, in V1's words."""
    words = {Phase.READY: "AVAILABLE", Phase.LOADING: "LOADING", Phase.WARMING: "LOADING", Phase.FAILED: "END"}
    error = {"error_code": "UNKNOWN", "error_message": state.reason} if state.phase is Phase.FAILED else {}
    desired = {"version": state.version, "state": words.get(state.phase, "START"), "status": error}
    if state.serving in (None, state.version):
        return [desired]
    return [desired, {"version": state.serving, "state": "AVAILABLE", "status": {}}]
