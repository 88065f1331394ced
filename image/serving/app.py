"""The Flask app of one generation: the models that it holds, over HTTP.

Models that are desired but not held here are answered from the supervisor's state: 503 with their phase.
"""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from serving import routes
from serving.access import guard
from serving.access.modes import access_from
from serving.catalog import Catalog
from serving.errors import ModelNotReady, ServingError
from serving.exchange import Observed, exchange_of
from serving.logs import write_failure
from serving.model import Model
from serving.responses import answer
from serving.settings import Settings


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
    response = answer({"error": str(error)}, error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    response.headers.update(error.headers)
    if isinstance(error, ModelNotReady) and request.view_args and "name" in request.view_args:
        exchange_of(request.environ).model = request.view_args["name"]  # models.yaml has it
    if error.status >= 500 and error.__cause__ is not None:
        _log_crash(error)
    return response


def _http_error(error: HTTPException) -> Response:
    response = answer({"error": error.description or error.name}, error.code or 500)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _crashed(error: Exception) -> Response:
    _log_crash(error)
    told = f"internal error; the server's log has it under request id {exchange_of(request.environ).id}"
    return answer({"error": told}, 500)


def _log_crash(error: Exception) -> None:
    write_failure("request-failed", error, id=exchange_of(request.environ).id)
