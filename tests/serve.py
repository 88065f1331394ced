"""A real `pantry-serve` process for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests


class Server:
    """Starts on free ports when first asked to serve, and follows `desire` like the chart's ConfigMap.

    Attributes:
        volume: the directory it serves from.
        log: the file that has its output.
    """

    def __init__(self, home: Path) -> None:
        self.volume, self._models, self.log = home / "volume", home / "models.yaml", home / "serve.log"
        self.volume.mkdir()
        self.port, self.admin_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The serving port's base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *options: str, **environment: str | int) -> None:
        """Start the process with options; keyword arguments are PANTRY_… settings in lower case."""
        settings = {f"PANTRY_{name.upper()}": str(value) for name, value in environment.items()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serving.cli", "--models", str(self._models), "--volume", str(self.volume)),
                    *("--bind", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin_port}", *options),
                ],
                env={**os.environ, "PANTRY_DRAIN_SECONDS": "4", **settings},
                stdout=log,
                stderr=log,
            )

    def desire(self, *models: dict[str, str] | tuple[str, str]) -> None:
        """Replace models.yaml; a pair is a name and a version."""
        entries = [
            model if isinstance(model, dict) else {"name": model[0], "version": model[1], "storageUri": "gs://b/m"}
            for model in models
        ]
        temporary = self._models.with_suffix(".new")
        temporary.write_text(json.dumps({"models": entries}))
        temporary.replace(self._models)

    def admin(self, path: str) -> requests.Response:
        """GET a page of the admin port."""
        return requests.get(f"http://127.0.0.1:{self.admin_port}{path}", timeout=20)

    def model(self, name: str) -> dict[str, Any]:
        """Return a model's state."""
        return next(dict(model) for model in self.admin("/status").json()["models"] if model["name"] == name)

    def wait_for(self, name: str, phase: str, version: str | None = None, seconds: float = 90) -> dict[str, Any]:
        """Wait until a model is in a phase (and desired in a version), and return its state."""

        def reached() -> dict[str, Any] | None:
            state = self.model(name)
            return state if state["phase"] == phase and version in (None, state["version"]) else None

        return dict(wait_until(reached, f"{name} to be {phase}", seconds, lambda: self.log.read_text()[-3000:]))

    def post(self, path: str, **arguments: Any) -> requests.Response:
        """POST to the serving port."""
        return requests.post(f"{self.url}{path}", timeout=20, **arguments)

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """Stop it, and return its exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=30)
        self.process = None
        return status


def wait_until(
    reached: Callable[[], Any], what: str, seconds: float = 60, context: Callable[[], str] = lambda: ""
) -> Any:
    """Ask until the answer is true, or any HTTP response, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            answer = reached()
            if answer or isinstance(answer, requests.Response):
                return answer
        except (requests.ConnectionError, StopIteration):
            pass
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}\n{context()}")


def free_port() -> int:
    """Return a port of loopback that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
