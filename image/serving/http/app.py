"""The Flask app of one generation: the models that it holds, over HTTP.

Models that are desired but not held here are answered from the supervisor's state: 503 with their phase.
"""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from serving.access.modes import access_from
from serving.errors import ModelNotReady, ServingError
from serving.http import guard, routes
from serving.http.exchange import Observed, exchange_of
from serving.http.responses import answer, respond
from serving.models.catalog import Catalog
from serving.models.model import Model
from serving.settings import Settings
from serving.wire.replies import crash, refusal


def create_app(models: dict[str, Model], runtime: Path, settings: Settings) -> Flask:
    """Make the app.

    Args:
        models: loaded, by name.
        runtime: the directory where the supervisor writes its state.
        settings: of the server.
    """
    app = Flask("serving", static_folder=None)
    app.extensions["catalog"] = Catalog(models, runtime)
    app.extensions["max_body_bytes"] = settings.max_body_bytes
    guard.protect(app, access_from(settings))
    app.register_error_handler(ServingError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _crashed)
    routes.register(app)
    app.wsgi_app = Observed(app.wsgi_app)  # type: ignore[method-assign] # as Flask's documentation does
    return app


def _refused(error: ServingError) -> Response:
    if isinstance(error, ModelNotReady) and request.view_args and "name" in request.view_args:
        exchange_of(request.environ).model = request.view_args["name"]  # models.yaml has it
    exchange = exchange_of(request.environ)
    exchange.note_failure(error)
    return respond(refusal(error, exchange.beside_error))


def _http_error(error: HTTPException) -> Response:
    response = answer({"error": error.description or error.name}, error.code or 500)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _crashed(error: Exception) -> Response:
    exchange = exchange_of(request.environ)
    exchange.note_failure(error)
    return respond(crash(exchange.id, exchange.beside_error))
