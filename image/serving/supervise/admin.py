"""The admin port: health, phases and metrics for the cluster, answered by the supervisor itself from the first second.

/livez    200 while the supervisor runs; it never waits for a model
/readyz   200 when requests can be answered, else 503; the body has every model's phase, bytes and reason
/status   the same body, always 200; as a table, where that is what the client reads
/metrics  for Prometheus
"""

from __future__ import annotations

import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from serving.sight import logs
from serving.state import ServerState
from serving.supervise.exposition import Exposition


class AdminServer(ThreadingHTTPServer):
    """Serves the current state on its own threads.

    Attributes:
        state: what to tell; the supervisor replaces it.
        exposition: the metrics; None until there is a supervisor.
    """

    daemon_threads = True
    state = ServerState(ready=False, models=())
    exposition: Exposition | None = None

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)

    def start(self) -> None:
        """Answer from now on, in the background."""
        threading.Thread(target=self.serve_forever, name="admin", daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Log what is not the client's own affair, as going away in the middle is."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            logs.write_failure("admin-failed", error)


class _Handler(BaseHTTPRequestHandler):
    server: AdminServer
    timeout = 10  # seconds that a client may be silent
    server_version, sys_version = "pantry", ""

    def do_GET(self) -> None:
        state = self.server.state
        match self.path.partition("?")[0]:
            case "/livez":
                self._answer(HTTPStatus.OK, {"live": True})
            case "/readyz":
                self._answer(HTTPStatus.OK if state.ready else HTTPStatus.SERVICE_UNAVAILABLE, state)
            case "/status" if prefers_text(self.headers.get("Accept", "")):
                self._send(HTTPStatus.OK, table(state).encode(), "text/plain; charset=utf-8")
            case "/status":
                self._answer(HTTPStatus.OK, state)
            case "/metrics":
                self._metrics()
            case _:
                self._answer(HTTPStatus.NOT_FOUND, {"error": "try /livez, /readyz, /status or /metrics"})

    def _metrics(self) -> None:
        exposition = self.server.exposition
        if exposition is None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the server is starting"})
            return
        try:
            body, content_type = exposition.render(self.headers.get("Accept", ""))
        except Exception as error:
            logs.write_failure("metrics-broken", error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "the metrics cannot be read; the log says why"})
            return
        self._send(HTTPStatus.OK, body, content_type)

    def _answer(self, status: HTTPStatus, content: object) -> None:
        self._send(status, msgspec.json.encode(content) + b"\n", "application/json")

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds."""


def prefers_text(accept: str) -> bool:
    """Tell whether an Accept header asks for text more than for JSON, as browsers do.

    Args:
        accept: the header; "" and */* are content with JSON.
    """
    text = json = 0.0
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = next((_number(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
        if kind in ("text/html", "text/plain", "text/*"):
            text = max(text, quality)
        elif kind in ("application/json", "application/*", "*/*"):
            json = max(json, quality)
    return text > json


def table(state: ServerState) -> str:
    """Return a state as people read it: a line about the server, one a model, and what is wrong."""
    rows = [("MODEL", "VERSION", "PHASE", "MIB", "SERVING")]
    for model in state.models:
        done, total = model.bytes / 2**20, model.total_bytes / 2**20
        amount = f"{done:.1f} of {total:.1f}" if total else "-"
        rows.append((model.name, model.version, model.phase, amount, model.serving or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ready = "ready" if state.ready else "not ready"
    lines = [f"{ready}, generation {state.generation}, up {state.uptime_seconds:.0f} s", ""]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    told = [f"{model.name} {model.version}: {model.reason}" for model in state.models if model.reason]
    if state.problem:
        told.append(state.problem)
    return "\n".join([*lines, *(["", *told] if told else []), ""])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
