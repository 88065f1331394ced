"""A small Cloud Storage on loopback: listings in pages, ranges of pinned generations, and lies that a test tells it.

It speaks what a sync asks for: `GET /storage/v1/b/B/o?prefix=&pageToken=&fields=` and
`GET /download/storage/v1/b/B/o/NAME?alt=media&generation=G` with Range. Objects are held in memory.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import json
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from tests.sources import crc32c

BUCKET = "test-bucket"
PREFIX = "models/digits/1/"
URI = f"gs://{BUCKET}/{PREFIX}".rstrip("/")
EVER = 10**9  # times that a lie is told which never ends

Kind = Literal["list", "media", "other"]


@dataclass
class Stored:
    """An object: its bytes as stored, and what a listing and its headers say of it."""

    data: bytes
    generation: int
    crc32c: str
    encoding: str = ""


@dataclass
class Ask:
    """A request, and how far its answer came.

    Attributes:
        kind: listing, read of an object, or anything else.
        name: of the object, without the prefix; "" for a listing.
        start: first byte asked for.
        end: one beyond the last, or None for all.
        sent: bytes of the answer's body that were handed to the socket.
        done: when the whole body was; 0 before.
    """

    kind: Kind
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    name: str = ""
    start: int = 0
    end: int | None = None
    sent: int = 0
    at: float = field(default_factory=time.monotonic)
    done: float = 0.0


@dataclass
class Answer:
    """What goes back; lies change it.

    Attributes:
        says: Content-Length, where it is not the body's.
        raw: bytes that are sent instead of an HTTP answer.
        silence: (bytes, seconds): after so many bytes of the body nothing comes for so long.
        ends: how the connection goes on: it is kept, closed, or reset.
        endless: whether the body is repeated until the client hangs up.
        trickles: whether the body comes byte by byte, twenty a second.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    says: int | None = None
    raw: bytes | None = None
    silence: tuple[int, float] | None = None
    ends: Literal["kept", "closed", "reset"] = "kept"
    endless: bool = False
    trickles: bool = False


Lie = Callable[[Ask, Answer], None]


@dataclass
class _Told:
    lie: Lie
    kind: Kind
    name: str | None
    skip: int
    times: int
    first: bool


class LyingStore(ThreadingHTTPServer):
    """One bucket with one prefix. Truthful until `lies` is called.

    Attributes:
        asks: every request so far.
        slow: seconds before every read of an object is answered.
        rate: bytes a second at which a connection gives an object, 0 for all at once.
        page: objects on a page of a listing.
        with_crc32c: whether listings and headers tell it.
        keeps_generations: whether a read gets the generation that it names, or is told that it is gone; if not,
            it gets what is there, and the header says which generation that is.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, Stored] = {}
        self.asks: list[Ask] = []
        self.lock = threading.Lock()
        self.scheme = "http"
        self._told: list[_Told] = []
        self._generation = 1_700_000_000_000_000
        self.forget()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def forget(self) -> None:
        """Hold nothing, lie about nothing, count nothing."""
        with self.lock:
            self.objects = {}
        self.behave()
        self.asks = []

    def behave(self) -> None:
        """Tell the truth from now on, and quickly."""
        with self.lock:
            self._told = []
        self.slow = self.rate = 0.0
        self.page = 1000
        self.with_crc32c = self.keeps_generations = True

    def put(self, objects: dict[str, bytes], encoding: str = "") -> None:
        """Hold objects, names without the prefix; one that is there already gets a new generation."""
        for name, data in objects.items():
            with self.lock:
                self._generation += 1
                self.objects[PREFIX + name] = Stored(data, self._generation, crc32c(data), encoding)

    def remove(self, name: str) -> None:
        with self.lock:
            self.objects.pop(PREFIX + name, None)

    def lies(
        self,
        lie: Lie,
        kind: Kind = "media",
        name: str | None = None,
        *,
        skip: int = 0,
        times: int = 1,
        first: bool = False,
    ) -> None:
        """Tell a lie.

        Args:
            lie: what becomes of a true answer.
            kind: of the requests that get it.
            name: of the object, or None for any.
            skip: requests before that are answered truthfully.
            times: how often it is told.
            first: tell it before the true answer is looked up.
        """
        with self.lock:
            self._told.append(_Told(lie, kind, name, skip, times, first))

    def reads(self, name: str | None = None) -> list[Ask]:
        """The reads of objects so far; the manifest's only where it is named."""
        wanted = {name} if name else {ask.name for ask in self.asks} - {"manifest.json"}
        return [ask for ask in list(self.asks) if ask.kind == "media" and ask.name in wanted]

    @property
    def moved(self) -> int:
        """Bytes of objects that were sent, the manifest's left out."""
        return sum(ask.sent for ask in self.reads())

    def answer(self, ask: Ask) -> Answer:
        """What is true, then what a lie makes of it: the first one that is still to be told."""
        with self.lock:
            self.asks.append(ask)
            told = next((told for told in self._told if self._strikes(told, ask)), None)
        if told and told.first:
            told.lie(ask, Answer())
        with self.lock:
            answer = self._truth(ask)
        if told and not told.first:
            told.lie(ask, answer)
        return answer

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up or are killed are what the tests are about."""

    @staticmethod
    def _strikes(told: _Told, ask: Ask) -> bool:
        if told.kind != ask.kind or told.name not in (None, ask.name) or not told.times:
            return False
        if told.skip:
            told.skip -= 1
            return False
        told.times -= 1
        return True

    def _truth(self, ask: Ask) -> Answer:
        if ask.kind == "list":
            return self._listing(ask) if f"/b/{BUCKET}/" in ask.path else refusal(404)
        stored = self.objects.get(PREFIX + ask.name)
        if ask.kind == "other" or stored is None:
            return refusal(404)
        if self.keeps_generations and ask.query.get("generation", str(stored.generation)) != str(stored.generation):
            return refusal(404)
        return self._media(ask, stored)

    def _listing(self, ask: Ask) -> Answer:
        prefix, after = ask.query.get("prefix", ""), base64.b64decode(ask.query.get("pageToken", "")).decode()
        names = sorted(name for name in self.objects if name.startswith(prefix) and name > after)
        items = [self._item(name, self.objects[name]) for name in names[: self.page]]
        listing: dict[str, Any] = {"kind": "storage#objects", "items": items}
        if names[self.page :]:
            listing["nextPageToken"] = base64.b64encode(names[self.page - 1].encode()).decode()
        if fields := re.search(r"items\(([^)]*)\)", ask.query.get("fields", "")):
            listing["items"] = [{key: item[key] for key in fields[1].split(",") if key in item} for item in items]
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())

    def _item(self, name: str, stored: Stored) -> dict[str, str]:
        item = {
            "name": name,
            "bucket": BUCKET,
            "size": str(len(stored.data)),
            "generation": str(stored.generation),
            "contentEncoding": stored.encoding,
        }
        return {**item, "crc32c": stored.crc32c} if self.with_crc32c else item

    def _media(self, ask: Ask, stored: Stored) -> Answer:
        headers = {"Content-Type": "application/octet-stream", "x-goog-generation": str(stored.generation)}
        if self.with_crc32c:
            headers["x-goog-hash"] = f"crc32c={stored.crc32c}"
        if stored.encoding == "gzip" and "gzip" not in ask.headers.get("accept-encoding", ""):
            return Answer(200, headers, gzip.decompress(stored.data))  # what the real store does, ranges or not
        if stored.encoding:
            headers["Content-Encoding"] = stored.encoding
        size = len(stored.data)
        if ask.end is None:
            return Answer(200, headers, stored.data)
        if ask.start >= size:
            return refusal(416)
        ask.end = min(ask.end, size)
        headers["Content-Range"] = f"bytes {ask.start}-{ask.end - 1}/{size}"
        return Answer(206, headers, stored.data[ask.start : ask.end])


def refusal(status: int, message: str = "the store says no") -> Answer:
    """An error as Cloud Storage words it."""
    body = json.dumps({"error": {"code": status, "message": message, "errors": []}}).encode()
    return Answer(status, {"Content-Type": "application/json"}, body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    server: LyingStore

    def do_GET(self) -> None:
        ask = self._ask()
        if ask.kind == "media" and self.server.slow:
            time.sleep(self.server.slow)
        if self._is_left():
            self.close_connection = True
            return
        answer = self.server.answer(ask)
        with contextlib.suppress(OSError):
            self._send(ask, answer)
        if answer.ends != "kept":
            self.close_connection = True
        if answer.ends == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    do_POST = do_GET  # noqa: N815 -- the name that http.server looks for

    def _is_left(self) -> bool:
        """Tell whether the client has hung up: what a sync of an earlier test gave up is not asked in this one."""
        hung_up = select.poll()
        hung_up.register(self.connection, select.POLLRDHUP)
        return bool(hung_up.poll(0))

    def _ask(self) -> Ask:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.rfile.read(int(headers.get("content-length") or 0))
        if re.fullmatch(r"/storage/v1/b/[^/]+/o", url.path):
            return Ask("list", url.path, query, headers)
        found = re.fullmatch(rf"(?:/download|/moved)?/storage/v1/b/{BUCKET}/o/(.+)", url.path)
        if not found or query.get("alt") != "media":
            return Ask("other", url.path, query, headers)
        ask = Ask("media", url.path, query, headers, unquote(found[1]).removeprefix(PREFIX))
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", "")):
            ask.start, ask.end = int(wanted[1]), int(wanted[2]) + 1
        return ask

    def _send(self, ask: Ask, answer: Answer) -> None:
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            return
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.endless:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(answer.body) if answer.says is None else answer.says))
        self.end_headers()
        for piece in self._pieces(answer):
            self.wfile.write(piece)
            ask.sent += len(piece)
        ask.done = time.monotonic()

    def _pieces(self, answer: Answer) -> Iterator[memoryview]:
        body, rate = memoryview(answer.body), self.server.rate
        if answer.endless:
            for _ in range(10**9 // max(len(body), 1)):
                yield body
        elif answer.silence:
            head, seconds = answer.silence
            yield body[:head]
            time.sleep(seconds)
            yield body[head:]
        elif answer.trickles:
            for start in range(len(body)):
                yield body[start : start + 1]
                time.sleep(0.05)
        elif rate:
            step = 64 * 1024
            for start in range(0, len(body), step):
                yield body[start : start + step]
                time.sleep(step / rate)
        else:
            yield body

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running(store: LyingStore, tls: ssl.SSLContext | None = None) -> Iterator[LyingStore]:
    """Serve until the end of the block, over TLS where a context is given."""
    if tls:
        store.socket, store.scheme = tls.wrap_socket(store.socket, server_side=True), "https"
    thread = threading.Thread(target=functools.partial(store.serve_forever, poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        thread.join()
        store.server_close()
