"""Every URL of the serving port."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as package_version
from typing import Any, cast

from flask import Flask, Response, current_app, request
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.routing import BaseConverter

from serving import page
from serving.errors import BodyTooLarge, InvalidRequest, ModelNotReady
from serving.http import guard
from serving.http.exchange import exchange_of
from serving.http.responses import answer, respond
from serving.models.catalog import Catalog
from serving.models.model import Model
from serving.state import ModelState, Phase, sentence
from serving.wire import openapi
from serving.wire.question import Form, read_question
from serving.wire.repository import decode_index, index_of


class _NameConverter(BaseConverter):
    """A model's name: a colon begins V1's verb, so that GET /v1/models/m:predict is the wrong method, not a model."""

    regex = "[^/:]+"


def register(app: Flask) -> None:
    """Add all routes to an app."""
    app.url_map.converters["name"] = _NameConverter
    rules: list[tuple[str, Callable[..., Response], list[str]]] = [
        ("/", index, ["GET"]),
        ("/healthz", healthz, ["GET"]),
        ("/models", models, ["GET"]),
        ("/login", login, ["GET", "POST"]),
        ("/predict", predict, ["POST"]),
        ("/prediction", predict, ["POST"]),
        ("/v1/models", v1_models, ["GET"]),
        ("/v1/models/<name:name>", v1_status, ["GET"]),
        ("/v1/models/<name:name>:predict", v1_predict, ["POST"]),
        ("/v1/models/<name:name>/versions/<name:version>:predict", v1_predict, ["POST"]),
        ("/v2", v2_server, ["GET"]),
        ("/v2/health/live", v2_live, ["GET"]),
        ("/v2/health/ready", v2_ready, ["GET"]),
        ("/v2/repository/index", v2_index, ["POST"]),
        ("/v2/models/<name:name>", v2_model, ["GET"]),
        ("/v2/models/<name:name>/ready", v2_model_ready, ["GET"]),
        ("/v2/models/<name:name>/infer", v2_infer, ["POST"]),
        ("/v2/models/<name:name>/versions/<name:version>", v2_model, ["GET"]),
        ("/v2/models/<name:name>/versions/<name:version>/ready", v2_model_ready, ["GET"]),
        ("/v2/models/<name:name>/versions/<name:version>/infer", v2_infer, ["POST"]),
        ("/openapi.json", openapi_document, ["GET"]),
        *((path, docs_page, ["GET"]) for path in page.FILES),
    ]
    for rule, view, methods in rules:
        app.add_url_rule(rule, f"{view.__name__} {rule}", view, methods=methods)


def index() -> Response:
    """Say that the server is there, in the words of the default model's author, or list the models."""
    return _alive() or models()


def models() -> Response:
    """List the models and where each is."""
    return answer({"status": "alive", "models": catalog().state.models})  # the status is for V1's clients


def healthz() -> Response:
    """Tell a load balancer whether to send requests here."""
    state = catalog().state
    if state.ready:
        return _alive() or answer({"status": "ok"})
    reasons = [sentence(model) for model in state.models if not model.serving]
    if guard.is_restricted():  # this page is open to all, and models' names are not
        raise ModelNotReady("the server is not ready")
    raise ModelNotReady("; ".join(reasons) or state.problem or "the server has no models")


def login() -> Response:
    """Give a token for a name and a password."""
    return guard.login(read_body)


def predict() -> Response:
    """Answer the default model's short form."""
    return _asked(Form.SHORT, catalog().get(catalog().default))


def v1_models() -> Response:
    """List the models as V1 does."""
    return answer({"models": [model.name for model in catalog().state.models]})


def v1_status(name: str) -> Response:
    """Describe a model as V1 does."""
    state = catalog().describe(name)
    return answer({"name": name, "ready": state.serving is not None, "model_version_status": _versions(state)})


def v1_predict(name: str, version: str | None = None) -> Response:
    """Answer a V1 request."""
    return _asked(Form.V1, catalog().get(name, version))


def v2_server() -> Response:
    """Describe the server."""
    return answer({"name": "pantry", "version": package_version("pantry"), "extensions": ["binary_tensor_data"]})


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
    return _asked(Form.V2, catalog().get(name, version))


def v2_index() -> Response:
    """List every version of every model, and where it is."""
    return answer(index_of(catalog().state.models, only_ready=decode_index(read_body())))


def openapi_document() -> Response:
    """Describe this port, as it is now."""
    content = openapi.document(
        openapi.routes_of(current_app.url_map), catalog().described(), access=guard.is_restricted()
    )
    return page.revalidated(answer(content), request)


def docs_page() -> Response:
    """Show a person the models."""
    return page.serve(request)


def catalog() -> Catalog:
    """Return this app's models."""
    return cast("Catalog", current_app.extensions["catalog"])


def read_body(limit: int | None = None) -> bytes:
    """Read the request's body, counting as it comes, whatever it claims about its length.

    Flask's own limit, MAX_CONTENT_LENGTH, would cut a chunked body silently.

    Raises:
        BodyTooLarge: it has more bytes than the server accepts.
        InvalidRequest: it broke off, is compressed, or its chunks are malformed.
    """
    if limit is None:
        limit = cast("int", current_app.extensions["max_body_bytes"])
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise InvalidRequest("a compressed body is not taken; send it without Content-Encoding")
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"the body has {request.content_length} bytes, at most {limit} are taken")
    stream = request.environ["wsgi.input"]
    try:
        body = cast("bytes", stream.read(limit + 1))
    except NoMoreData as error:
        raise InvalidRequest("the body broke off before its last chunk") from error
    except ParseException as error:
        raise InvalidRequest(f"the body's chunks cannot be read: {str(error)[:200]}") from error
    exchange_of(request.environ).bytes_in = len(body)
    if len(body) > limit:
        raise BodyTooLarge(f"the body has more than {limit} bytes")
    if len(body) < (request.content_length or 0):
        raise InvalidRequest(f"the body broke off after {len(body)} of {request.content_length} bytes")
    return body


def _alive() -> Response | None:
    """Return what the default model's author lets this page say while the model can answer."""
    words = catalog().alive(request.path)
    if isinstance(words, str):
        return Response(words, mimetype="text/plain")
    return None if words is None else answer(words)


def _asked(form: Form, model: Model) -> Response:
    exchange = exchange_of(request.environ)
    exchange.model, exchange.version = model.name, model.version
    if form is Form.SHORT:
        exchange.beside_error = model.config.answer.error
    headers = {name.lower(): value for name, value in request.headers}
    question = read_question(form, read_body(), headers, model.config)
    exchange.rows = question.rows
    return respond(question.answer(model.predict(question.inputs), model.name, model.version, model.config))


def _versions(state: ModelState) -> list[dict[str, Any]]:
    """Return the statuses of the desired version, and of another one that still answers, in V1's words."""
    words = {Phase.READY: "AVAILABLE", Phase.LOADING: "LOADING", Phase.WARMING: "LOADING", Phase.FAILED: "END"}
    error = {"error_code": "UNKNOWN", "error_message": state.reason} if state.phase is Phase.FAILED else {}
    desired = {"version": state.version, "state": words.get(state.phase, "START"), "status": error}
    if state.serving in (None, state.version):
        return [desired]
    return [desired, {"version": state.serving, "state": "AVAILABLE", "status": {}}]
