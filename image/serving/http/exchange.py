"""One request and its answer, as the log and the metrics see them; for Flask, a layer of WSGI around the whole app."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from serving.errors import ServingError
from serving.http.trace import parse_traceparent, passed_on, request_id
from serving.sight import metrics
from serving.sight.logs import RequestLine, write_failure, write_requests

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
KEY = "pantry.exchange"


class Exchange:
    """What is known of a request while it is answered; whoever learns more writes it here.

    Attributes:
        method: of HTTP.
        path: without the query.
        id: the client's own, or one made here.
        trace: of the client, or None.
        model: that was asked, by a name that models.yaml has; "" until it is found.
        version: that answers.
        rows: that the model was asked about.
        bytes_in: of the request's body.
        bytes_out: of the answer's body.
        status: of HTTP; 500 until the answer begins.
        beside_error: what the model's author wants an error to say besides.
    """

    __slots__ = (
        "_began",
        "beside_error",
        "bytes_in",
        "bytes_out",
        "id",
        "method",
        "model",
        "path",
        "rows",
        "status",
        "trace",
        "tracestate",
        "version",
    )

    def __init__(self, method: str, path: str, said_id: str, traceparent: str, tracestate: str) -> None:
        self._began = time.perf_counter()
        self.method, self.path = method, path
        self.id = request_id(said_id)
        self.trace = parse_traceparent(traceparent) if traceparent else None
        self.tracestate = tracestate if self.trace else ""
        self.model = self.version = ""
        self.rows = self.bytes_in = self.bytes_out = 0
        self.status = 500
        self.beside_error: Mapping[str, Any] = {}
        metrics.request_began()

    def headers(self) -> list[tuple[str, str]]:
        """Return what the answer says of the request: its id and its place in the trace."""
        headers = [("X-Request-Id", self.id)]
        if self.trace:
            headers.append(("traceparent", self.trace.header))
            if passed_on(self.tracestate):
                headers.append(("tracestate", self.tracestate))
        return headers

    def note_failure(self, error: BaseException) -> None:
        """Log what the client is told without its cause."""
        expected = isinstance(error, ServingError) and (error.status < 500 or error.__cause__ is None)
        if not expected:
            write_failure("request-failed", error, id=self.id)

    def end(self) -> RequestLine:
        """Count it; return what the log is to have."""
        seconds = time.perf_counter() - self._began
        metrics.request_ended()
        metrics.count_request(self.model, self.version, self.status, route_of(self.path), seconds)
        trace = self.trace
        return RequestLine(
            datetime.now(UTC),
            "request",
            self.id,
            self.method[:20],
            self.path[:500].encode("latin-1", "replace").decode("utf-8", "replace"),
            self.status,
            round(seconds * 1000, 3),
            self.model,
            self.version,
            self.rows,
            self.bytes_in,
            self.bytes_out,
            trace.trace_id if trace else "",
            trace.span_id if trace else "",
            trace.parent_id if trace else "",
        )


class Observed:
    """Logs and counts every request that an app answers.

    Args:
        app: of WSGI. It finds its exchange with `exchange_of`.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        said = ("HTTP_X_REQUEST_ID", "HTTP_TRACEPARENT", "HTTP_TRACESTATE")
        method, path = environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", "")
        exchange = environ[KEY] = Exchange(method, path, *(environ.get(name, "") for name in said))
        exchange.bytes_in = _whole_number(environ.get("CONTENT_LENGTH", ""))

        def begin(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            exchange.status = int(status[:3])
            exchange.bytes_out = next((_whole_number(v) for name, v in headers if name.lower() == "content-length"), 0)
            return start_response(status, headers + exchange.headers(), *more)

        try:
            return self._app(environ, begin)
        finally:
            write_requests([exchange.end()])


def exchange_of(environ: Environ) -> Exchange:
    """Return the exchange of a request."""
    return cast("Exchange", environ[KEY])


def route_of(path: str) -> str:
    """Return the kind of a path: v1, v2 or short where it asks a model, health, or other."""
    if path in ("/predict", "/prediction"):
        return "short"
    if path.startswith("/v1/") and path.endswith(":predict"):
        return "v1"
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return "v2"
    if path in ("/healthz", "/v2/health/live", "/v2/health/ready"):
        return "health"
    return "other"


def _whole_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
