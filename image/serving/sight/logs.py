"""The log: one JSON line a request, an event, a message of a library. All of it goes to standard output.

No write is of more than PIPE_BUF bytes, or of a part of a line, so lines of several processes never mix. Where nobody
takes the lines, they are dropped and counted: a stuck collector of logs must not stop the server.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

LONGEST_LINE = 4096  # bytes: PIPE_BUF of Linux
PATIENCE_SECONDS = 1.0
STANDARD_OUTPUT = 1


class RequestLine(msgspec.Struct, omit_defaults=True):
    """The line of one request.

    Attributes:
        time: when it was answered.
        event: always "request".
        id: the client's own, or one made here.
        method: of HTTP.
        path: without the query, which may hold secrets; cut to 500 characters.
        status: of HTTP.
        milliseconds: that it took in the worker.
        model: that was asked.
        version: that answered.
        rows: that it was asked about.
        bytes_in: of the request's body.
        bytes_out: of the answer's body.
        trace_id: of the client's trace, where it has one.
        span_id: of this request in it.
        parent_id: of the client's span.
    """

    time: datetime
    event: str
    id: str
    method: str
    path: str
    status: int
    milliseconds: float
    model: str = ""
    version: str = ""
    rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""


class JsonHandler(logging.Handler):
    """Writes what libraries and models log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, with the traceback in a field of its own."""
        try:
            fields = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
            error = record.exc_info[1] if record.exc_info else None
            write_event("log", **fields, **_told(error))
        except Exception:
            self.handleError(record)


class _Output:
    """Where lines go."""

    def __init__(self) -> None:
        self.dropped: Callable[[], None] = lambda: None
        self._stuck = False

    def write(self, line: bytes) -> None:
        """Write a line, or drop it where nobody takes it in time; wait for the first one only."""
        try:
            _, writable, _ = select.select((), (STANDARD_OUTPUT,), (), 0 if self._stuck else PATIENCE_SECONDS)
            self._stuck = not writable
            if writable:
                os.write(STANDARD_OUTPUT, line)
                return
        except OSError:  # closed, or its reader has gone
            pass
        self.dropped()


_output = _Output()


def write_requests(requests: Iterable[RequestLine]) -> None:
    """Write the lines of requests, as many as possible at once."""
    together = b""
    for request in requests:
        line = msgspec.json.encode(request) + b"\n"
        if together and len(together) + len(line) > LONGEST_LINE:
            _output.write(together)
            together = b""
        together += line
    if together:
        _output.write(together)


def write_event(event: str, **fields: object) -> None:
    """Write the line of an event."""
    _output.write(encode_line({"time": datetime.now(UTC), "event": event, **fields}))


def write_failure(event: str, error: BaseException, **fields: object) -> None:
    """Write the line of an event that an exception made, with its traceback in a field."""
    write_event(event, **fields, **_told(error))


def encode_line(fields: dict[str, Any]) -> bytes:
    """Return fields as a line that is short enough to be written at once: the longest texts lose their middle."""
    while len(line := _encode(fields)) > LONGEST_LINE:
        texts = [(len(value), name) for name, value in fields.items() if isinstance(value, str)]
        longest = max(texts)[1]
        text = fields[longest]
        if len(text) < 200:
            break  # it is long for another reason, such as a list of many models
        keep = len(text) // 3
        fields = {**fields, longest: f"{text[:keep]} … {text[-keep:]}"}
    return line


def configure(dropped: Callable[[], None] = lambda: None) -> None:
    """Send what this process logs, warns of, and ends with, to the log.

    Args:
        dropped: called for every line that nobody took.
    """
    _output.dropped = dropped
    handler = JsonHandler()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("gunicorn.error").addHandler(handler)  # gunicorn keeps it apart from the root
    logging.captureWarnings(True)
    sys.excepthook = lambda _kind, error, _where: write_failure("crash", error)
    threading.excepthook = _thread_ended


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        write_failure("crash", args.exc_value, thread=args.thread.name if args.thread else "")


def _encode(fields: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(fields, enc_hook=str) + b"\n"
    except (TypeError, ValueError):  # half a surrogate, as in the name of a file that is not UTF-8
        return json.dumps(fields, default=str, skipkeys=True).encode() + b"\n"


def _told(error: BaseException | None) -> dict[str, str]:
    if error is None:
        return {}
    text = ""
    with contextlib.suppress(Exception):  # an exception's own words may raise
        text = "".join(traceback.format_exception(error))
    return {"error": type(error).__name__, "traceback": text}
