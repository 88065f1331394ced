"""The admin port: health and phases for the cluster, answered by the supervisor itself from the first second.

/livez   200 while the supervisor runs; it never waits for a model
/readyz  200 when requests can be answered, else 503; the body has every model's phase, bytes and reason
/status  the same body, always 200
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from serving.state import ServerState


class AdminServer(ThreadingHTTPServer):
    """Serves the current state on its own threads.

    Attributes:
        state: what to tell; the supervisor replaces it.
    """

    daemon_threads = True
    state = ServerState(ready=False, models=())

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)

    def start(self) -> None:
        """Answer from now on, in the background."""
        threading.Thread(target=self.serve_forever, name="admin", daemon=True).start()


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
            case "/status":
                self._answer(HTTPStatus.OK, state)
            case _:
                self._answer(HTTPStatus.NOT_FOUND, {"error": "try /livez, /readyz or /status"})

    def _answer(self, status: HTTPStatus, content: object) -> None:
        body = msgspec.json.encode(content) + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds."""
