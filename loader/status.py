"""Status: ask a running server where its models are, and say it as a table.

The loader knows the server by its HTTP interface alone, so what it reads of /status is spelt out here once more.
"""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

import msgspec

from loader.errors import ServerUnavailable, UsageError
from loader.report import human_bytes

TIMEOUT_SECONDS = 10


class Model(msgspec.Struct, rename="camel"):
    """Where one model is; docs/http-api.md has the keys."""

    name: str
    version: str
    phase: str
    bytes: int = 0
    total_bytes: int = 0
    reason: str = ""
    serving: str | None = None
    on_demand: bool = False


class Server(msgspec.Struct):
    """What a server tells of itself and of its models."""

    ready: bool
    models: list[Model]
    problem: str = ""


def ask(url: str) -> Server:
    """Ask a server's admin port for its status.

    Args:
        url: of the admin port, such as http://127.0.0.1:8081; the path is /status unless it has one.

    Raises:
        UsageError: that is no http URL.
        ServerUnavailable: nobody answers there, or not as a server of ours does.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is no URL of an admin port", hint="Such as http://127.0.0.1:8081")
    page = url if parts.path.strip("/") else f"{url.rstrip('/')}/status"
    hint = "Give the admin port of pantry-serve (8081 by default), for example through kubectl port-forward"
    try:
        with urllib.request.urlopen(page, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - checked above
            return msgspec.json.decode(answer.read(), type=Server)
    except (OSError, ValueError) as error:  # URLError, a refused connection, a time-out; not JSON, or not of this form
        raise ServerUnavailable(f"{page} does not tell a status: {error}", hint=hint) from error


def table(server: Server) -> str:
    """Return a status as people read it: a line a model, and what is wrong."""
    rows = [("MODEL", "VERSION", "PHASE", "BYTES", "SERVING")]
    for model in server.models:
        amount = f"{human_bytes(model.bytes)} of {human_bytes(model.total_bytes)}" if model.total_bytes else "-"
        rows.append((model.name, model.version, model.phase, amount, model.serving or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{model.name} {model.version}: {model.reason}" for model in server.models if model.reason]
    return "\n".join(lines + ([server.problem] if server.problem else []))
