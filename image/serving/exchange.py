"""One request and its answer, as the log and the metrics see them: a layer of WSGI around the whole app."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, cast

from serving import metrics
from serving.logs import RequestLine, write_request
from serving.trace import parse_traceparent, passed_on, request_id

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
KEY = "pantry.exchange"


class Exchange:
    """What is known of a request while it is answered; whoever learns more writes it here.

    Attributes:
        id: the client's own, or one made here.
        trace: of the client, or None.
        model: that was asked, by a name that models.yaml has; "" until it is found.
        version: that answers.
        rows: that the model was asked about.
        bytes_in: of the request's body.
        bytes_out: of the answer's body.
        status: of HTTP; 500 until the answer begins.
    """

    __slots__ = ("bytes_in", "bytes_out", "id", "model", "rows", "status", "trace", "tracestate", "version")

    def __init__(self, environ: Environ) -> None:
        self.id = request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        said = environ.get("HTTP_TRACEPARENT")
        self.trace = parse_traceparent(said) if said else None
        self.tracestate = environ.get("HTTP_TRACESTATE", "") if self.trace else ""
        self.model = self.version = ""
        self.rows = self.bytes_out = 0
        self.bytes_in = _whole_number(environ.get("CONTENT_LENGTH", ""))
        self.status = 500

    def headers(self) -> list[tuple[str, str]]:
        """Return what the answer says of the request: its id and its place in the trace."""
        headers = [("X-Request-Id", self.id)]
        if self.trace:
            headers.append(("traceparent", self.trace.header))
            if passed_on(self.tracestate):
                headers.append(("tracestate", self.tracestate))
        return headers


class Observed:
    """Logs and counts every request that an app answers.

    Args:
        app: of WSGI. It finds its exchange with `exchange_of`.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        began = time.perf_counter()
        exchange = environ[KEY] = Exchange(environ)

        def begin(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            exchange.status = int(status[:3])
            exchange.bytes_out = next((_whole_number(v) for name, v in headers if name.lower() == "content-length"), 0)
            return start_response(status, headers + exchange.headers(), *more)

        metrics.request_began()
        try:
            return self._app(environ, begin)
        finally:
            metrics.request_ended()
            _told(exchange, environ, time.perf_counter() - began)


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


def _told(exchange: Exchange, environ: Environ, seconds: float) -> None:
    path = str(environ.get("PATH_INFO", ""))
    trace = exchange.trace
    metrics.count_request(exchange.model, exchange.version, exchange.status, route_of(path), seconds)
    write_request(
        RequestLine(
            datetime.now(UTC),
            "request",
            exchange.id,
            environ.get("REQUEST_METHOD", "")[:20],
            path[:500].encode("latin-1", "replace").decode("utf-8", "replace"),
            exchange.status,
            round(seconds * 1000, 3),
            exchange.model,
            exchange.version,
            exchange.rows,
            exchange.bytes_in,
            exchange.bytes_out,
            trace.trace_id if trace else "",
            trace.span_id if trace else "",
            trace.parent_id if trace else "",
        )
    )


def _whole_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
