"""One client's connection: it is never waited for. What it does not take at once goes out when it can."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus
from typing import Any

import msgspec
from gunicorn import SERVER
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import Response as GunicornResponse
from gunicorn.util import http_date
from gunicorn.workers.gthread import TConn

from serving.http.arrival import Arrival
from serving.sight.logs import write_event
from serving.sight.metrics import count_refusal
from serving.wire.replies import Reply

RECEIVE_BYTES = 64 * 1024

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@functools.lru_cache(2)
def _date(second: int) -> str:
    return str(http_date(second))


class Doing(Enum):
    """What a connection does while no thread has it."""

    IDLE = "idle"  # nothing of a request has come
    ARRIVING = "arriving"
    SENDING = "sending"
    CLOSING = "closing"  # the client has its answer, and may still be sending


class Gone(ConnectionError):
    """The client has gone."""


class Connection(TConn):
    """A connection, and the request that is arriving or being answered on it.

    Attributes:
        arrival: the bytes that have come.
        doing: what it does while no thread has it.
        deadline: when that has taken too long, monotonic seconds.
        watched: the event that the loop looks for, or 0.
        begun: whether something of the app's answer has been sent.
        keeps: whether it stays open after the answer that is going out.
        charged: bytes of its request that are counted as taking memory.
    """

    def __init__(self, cfg: Config, sock: socket.socket, client: Any, server: Any, arrival: Arrival) -> None:
        super().__init__(cfg, sock, client, server)
        self.arrival = arrival
        self.parser: RequestParser = RequestParser(cfg, (), client)
        self.parser.unreader = self.arrival
        self.doing, self.deadline, self.watched, self.charged = Doing.IDLE, 0.0, 0, 0
        self.begun = self.keeps = False
        self._outbox = bytearray()

    def receive(self) -> int | None:
        """Take in what has come; return how many bytes, None where there are none yet.

        Raises:
            Gone: and nothing of a request had come.
        """
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Gone from error
        if data:
            self.arrival.feed(data)
        elif self.arrival.size:
            self.arrival.end()
        else:
            raise Gone
        return len(data)

    @property
    def is_spoken_to(self) -> bool:
        """Whether the client has sent what nobody has received yet."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def invite(self) -> None:
        """Tell a client that waits to go on with its body."""
        with contextlib.suppress(OSError):  # the next read finds out
            self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def send(self, data: bytes) -> None:
        """Send, and keep what is not taken at once."""
        if not self._outbox:
            with contextlib.suppress(BlockingIOError):
                data = data[self.sock.send(data) :]
        self._outbox += data

    def refuse(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        """Answer without the app, and say that the connection ends."""
        body = msgspec.json.encode({"error": sentence})
        lines = [f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}", "Content-Type: application/json"]
        if retry_after is not None:
            lines.append(f"Retry-After: {retry_after}")
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        with contextlib.suppress(OSError):
            self.send("\r\n".join(lines).encode() + body)
        count_refusal(int(status))
        write_event("request-refused", status=int(status), reason=sentence)

    def reply(self, reply: Reply, headers: Iterable[tuple[str, str]]) -> None:
        """Answer without gunicorn, as it would."""
        lines = [
            f"HTTP/1.1 {reply.status} {_PHRASES[reply.status]}",
            f"Server: {SERVER}",
            f"Date: {_date(int(time.time()))}",
            f"Connection: {'keep-alive' if self.keeps else 'close'}",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
            *[f"{name}: {value}" for name, value in (*reply.headers, *headers)],
            "\r\n",
        ]
        self.send("\r\n".join(lines).encode("latin-1") + reply.body)

    def flush(self) -> bool:
        """Send more of what was not taken; return whether all is sent."""
        while self._outbox:
            try:
                sent = self.sock.send(self._outbox[:RECEIVE_BYTES])
            except BlockingIOError:
                return False
            del self._outbox[:sent]
        return True

    @property
    def has_sent(self) -> bool:
        """Whether all is sent."""
        return not self._outbox


class Answer(GunicornResponse):
    """A response whose head goes out with the first piece of its body."""

    def __init__(self, request: Any, sock: socket.socket, cfg: Config, connection: Connection) -> None:
        super().__init__(request, sock, cfg)
        self._connection, self._head = connection, b""

    def send_headers(self) -> None:
        """Make the head."""
        if not self.headers_sent:
            self.headers_sent = True
            lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
            self._head = "".join(lines).encode("latin-1")

    def _emit_body(self, data: bytes) -> None:
        self._send(b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def close(self) -> None:
        """Send what is left."""
        self.send_headers()
        self._send(b"0\r\n\r\n" if self.chunked else b"")

    def _send(self, data: bytes) -> None:
        data, self._head = self._head + data, b""
        if data:
            self._connection.begun = True
            self._connection.send(data)
