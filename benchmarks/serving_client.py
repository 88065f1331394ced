"""All clients of a server in one process, on kept-alive connections: each asks again when it has its answer."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.measure import Failed

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_PATIENCE_SECONDS = 20


@dataclass
class Answers:
    """What came back in time.

    Attributes:
        seconds: that each request took.
        bodies: of the answers, each with the number of the request that it answers.
        unfinished: requests that were answered when the time was over; they are checked and not counted.
    """

    seconds: list[float]
    bodies: list[tuple[int, bytes]]
    unfinished: int = 0


@dataclass
class Client:
    """One connection: the request that it asks, when it began to, and what has come of the answer."""

    connection: socket.socket
    request: int
    began: float
    said: bytes = b""


def post(path: str, body: bytes) -> bytes:
    """Return a request's bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def ask(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Answers:
    """Keep a server busy with clients that send the requests in turns.

    Raises:
        Failed: an answer is not 200, a connection ends, or an answer never comes.
        OSError: the server is not there.
    """
    answers = Answers([], [])
    with connected(port, clients) as selector:
        asked = 0
        for key in selector.get_map().values():
            client: Client = key.data
            client.request, client.began = asked % len(requests), time.perf_counter()
            client.connection.sendall(requests[client.request])
            asked += 1
        end = time.perf_counter() + seconds
        waiting = clients
        while waiting:
            ready = selector.select(_PATIENCE_SECONDS)
            if not ready:
                raise Failed(f"no answer in {_PATIENCE_SECONDS} s to {waiting} of {clients} clients")
            for key, _ in ready:
                client = key.data
                body = received(client)
                if body is None:
                    continue
                now = time.perf_counter()
                answers.bodies.append((client.request, body))
                if now > end:  # what is still under way is let finish: the next figure is to find an idle server
                    answers.unfinished += 1
                    waiting -= 1
                    continue
                answers.seconds.append(now - client.began)
                client.request, client.began, client.said = asked % len(requests), now, b""
                client.connection.sendall(requests[client.request])
                asked += 1
    return answers


@contextlib.contextmanager
def connected(port: int, clients: int) -> Iterator[selectors.BaseSelector]:
    """Connect clients, and close them when the block ends."""
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(clients):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, Client(connection, 0, 0.0))
        yield selector


def received(client: Client) -> bytes | None:
    """Take in what has come; return the answer's body when that is all of it.

    Raises:
        Failed: the answer is not 200, or the connection ends.
    """
    said = client.connection.recv(65536)
    if not said:
        raise Failed(f"the server closed a connection; it had said {client.said[:200]!r}")
    client.said += said
    head, found, body = client.said.partition(b"\r\n\r\n")
    if not found:
        return None
    length = _LENGTH.search(head)
    if length:
        if len(body) < int(length[1]):
            return None
    elif _CHUNKED.search(head):
        if not body.endswith(b"0\r\n\r\n"):
            return None
        body = _joined(body)
    if not head.startswith(b"HTTP/1.1 200"):
        raise Failed(client.said[:500].decode(errors="replace"))
    return body


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        body += chunks[: int(size, 16)]
        chunks = chunks[int(size, 16) + 2 :]
    return body
