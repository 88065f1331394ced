"""The Flask app of one generation: the models that it holds, over HTTP.

Models that are desired but not held here are answered from the supervisor's state: 503 with their phase.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from pathlib import Path

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from serving import routes
from serving.catalog import Catalog
from serving.errors import ServingError
from serving.model import Model
from serving.responses import answer
from serving.settings import Settings

log = logging.getLogger("pantry.requests")


def create_app(models: dict[str, Model], runtime: Path, settings: Settings) -> Flask:
    """Make the app.

    Args:
        models: loaded, by name.
        runtime: the directory where the supervisor writes its state.
        settings: of the server.
    """
    _log_to_stdout()
    app = Flask("serving", static_folder=None)
    app.extensions["catalog"] = Catalog(models, runtime)
    app.extensions["max_body_bytes"] = settings.max_body_bytes
    app.before_request(_begin)
    app.after_request(_end)
    app.register_error_handler(ServingError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _crashed)
    routes.register(app)
    return app


def _begin() -> None:
    g.began = time.perf_counter()
    g.request_id = request.headers.get("X-Request-Id", "")[:128] or uuid.uuid4().hex


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "event": "request",
        "id": g.request_id,
        "method": request.method,
        "path": request.path[:500],
        "status": response.status_code,
        "milliseconds": round((time.perf_counter() - g.began) * 1000, 3),
    }
    log.info(json.dumps({**line, **g.get("logged", {})}))
    return response


def _refused(error: ServingError) -> Response:
    response = answer({"error": str(error)}, error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
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
    return answer({"error": f"internal error; the server's log has it under request id {g.request_id}"}, 500)


def _log_crash(error: Exception) -> None:
    logging.getLogger("pantry").error("request %s failed", g.request_id, exc_info=error)


def _log_to_stdout() -> None:
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
