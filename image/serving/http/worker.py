"""The worker: gunicorn's own with threads, but a connection takes a thread only when its whole request has come.

So a client that stalls, or sends a byte a second, costs a few kilobytes and no thread; neither does one that takes its
answer slowly. What a client sends is counted as it comes. Plain small requests for models take no thread at all (see
`lane`). A worker whose model hangs tells those who wait, and ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import selectors
import socket
import time
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from flask import Flask
from gunicorn.http import wsgi
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    NoMoreData,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers import gthread
from gunicorn.workers.gthread import ThreadWorker

from serving.http.arrival import Arrival
from serving.http.connection import RECEIVE_BYTES, Answer, Connection, Doing, Gone
from serving.http.exchange import Exchange
from serving.http.guard import stranger_finder
from serving.http.lane import Lane
from serving.models.catalog import Catalog
from serving.settings import Settings
from serving.sight.logs import write_event, write_failure
from serving.wire.replies import Reply

SWEEP_SECONDS = 0.25
CLOSING_SECONDS = 2.0  # for the client to take its answer before the connection goes
FREE_BYTES = RECEIVE_BYTES  # of a request that count for nothing: small ones always find room
LATE_SECONDS = 2.0  # beyond the deadline: whoever waits for the model is told first
HANGING_SECONDS = 5  # for others to be answered in a worker that hangs
HANGING = 70  # exit status

_STATUSES = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
}


class BufferingWorker(ThreadWorker):
    """One process that answers."""

    def init_process(self) -> None:
        """Prepare, in the new process, and serve until told to stop."""
        settings: Settings = self.app.settings  # type: ignore[attr-defined] # of a GenerationServer
        self._settings = settings
        self._waiting: dict[Connection, None] = {}  # no thread has them; the one that began to wait first is first
        self._busy: dict[Connection, None] = {}  # a thread has them
        self._room = settings.threads * settings.max_body_bytes  # bytes, beyond the free ones of each request
        self._swept = 0.0
        self._hangs = False
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop."""
        app = cast("Flask", self.wsgi)
        self._is_stranger = stranger_finder(app)
        self._catalog: Catalog = app.extensions["catalog"]
        self._lane = Lane(self._catalog, self._settings, self.method_queue.defer, self.tpool.submit, self._reply)
        super().run()
        if self._hangs or self._busy or len(self._lane):  # threads that never return would keep the process
            os._exit(HANGING if self._hangs else 0)

    def wait_for_and_dispatch_events(self, timeout: float | None) -> None:
        """Do one round of the loop."""
        super().wait_for_and_dispatch_events(0 if self._lane.lags else timeout)
        self._lane.end_round()

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection; where there is no room, the one that has been idle for longest goes."""
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._evict()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._evict()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        arrival = Arrival(self._settings.max_body_bytes, self._is_stranger)
        connection = Connection(self.cfg, sock, client, listener.getsockname(), arrival)
        self._wait(connection, Doing.IDLE, self._settings.request_seconds)

    def finish_request(self, conn: Connection, fs: Future[bool]) -> None:  # type: ignore[override] # all are ours
        """Take a connection back from its thread."""
        del self._busy[conn]
        conn.keeps = not fs.cancelled() and fs.exception() is None and fs.result()
        self._answered(conn)

    def handle(self, conn: Connection) -> bool:  # type: ignore[override]
        """Answer the request that has come, in a thread; return whether the connection stays open."""
        keeps = self._answer(conn)
        if keeps:
            conn.arrival.next()
        return keeps

    def murder_keepalived(self, force: bool = False) -> None:
        """Close connections that wait for too long, and find requests that hang."""
        now = time.monotonic()
        if now - self._swept < SWEEP_SECONDS and not force:
            return
        self._swept = now
        for connection in [c for c in self._waiting if force or c.deadline <= now]:
            if connection.doing is Doing.ARRIVING and not force:
                self._refuse_late(connection)
            elif connection.doing is not Doing.IDLE or not connection.is_spoken_to:  # its next request has just come
                self._drop(connection)
        self._lane.give_up(now)
        self._lane.end_round()
        begun = (model.running_since() for model in self._catalog.held)
        if not self._hangs and any(
            since and now - since > self._settings.predict_seconds + LATE_SECONDS for since in begun
        ):
            self._end_hanging()

    def _cap_keepalive(self, deadline: float) -> None:
        """At the end of the worker, which has just stopped taking connections: wait for those it has until then."""
        self.app.note_closed()  # type: ignore[attr-defined] # of a GenerationServer
        for connection in self._waiting:
            if connection.doing is Doing.IDLE:
                connection.deadline = min(connection.deadline, deadline)

    # Below runs in the loop.

    def _wait(self, connection: Connection, doing: Doing, seconds: float) -> None:
        connection.doing, connection.deadline = doing, time.monotonic() + seconds
        self._waiting[connection] = None
        self._watch(connection, selectors.EVENT_WRITE if doing is Doing.SENDING else selectors.EVENT_READ)

    def _watch(self, connection: Connection, event: int) -> None:
        if connection.watched == event:
            return
        if connection.watched:
            self.poller.unregister(connection.sock)
        if event:
            self.poller.register(connection.sock, event, partial(self._ready, connection))
        connection.watched = event

    def _leave(self, connection: Connection) -> None:
        """Stop waiting for a connection. It stays watched: most clients say nothing until they are answered."""
        del self._waiting[connection]

    def _drop(self, connection: Connection) -> None:
        self._leave(connection)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._watch(connection, 0)
        self._room += connection.charged
        self.nr_conns -= 1
        connection.close()

    def _evict(self) -> None:
        idle = (connection for connection in self._waiting if connection.doing is Doing.IDLE)
        if (connection := next(idle, next(iter(self._waiting), None))) is not None:
            self._drop(connection)

    def _ready(self, connection: Connection, _sock: socket.socket) -> None:
        """Go on with a connection that has something to read, or takes something."""
        if connection not in self._waiting:
            self._watch(connection, 0)  # until it is waited for
            return
        try:
            if connection.doing is Doing.SENDING:
                if connection.flush():
                    self._leave(connection)
                    self._sent(connection)
            elif connection.doing is Doing.CLOSING:
                if not connection.sock.recv(RECEIVE_BYTES):
                    raise Gone
            else:
                self._receive(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)
        except Exception as error:  # one connection must not end the loop of all
            write_failure("connection-failed", error)
            if connection in self._waiting:
                self._drop(connection)

    def _receive(self, connection: Connection) -> None:
        if connection.receive() is None:
            return
        self._charge(connection)
        if connection.arrival.ready or connection.doing is Doing.IDLE:
            self._leave(connection)
            self._go_on(connection)
        elif self._room < 0 and connection.charged:
            self._refuse(connection, HTTPStatus.SERVICE_UNAVAILABLE, "no room for more large bodies now", 5)
        elif connection.arrival.waits_to_continue:
            connection.invite()

    def _go_on(self, connection: Connection) -> None:
        """Have a request answered, or wait for the rest of it."""
        if connection.arrival.ready:
            if not self._lane.take(connection):
                self._busy[connection] = None
                self.enqueue_req(connection)
            return
        self._wait(connection, Doing.ARRIVING, self._settings.request_seconds)
        if connection.arrival.waits_to_continue:
            connection.invite()

    def _charge(self, connection: Connection) -> None:
        """Count what the connection's request takes of the common room."""
        size = max(0, connection.arrival.size - FREE_BYTES)
        self._room -= size - connection.charged
        connection.charged = size

    def _reply(self, connection: Connection, reply: Reply, exchange: Exchange, keeps: bool) -> None:
        """Answer a request of the lane."""
        connection.keeps = keeps and self.alive and self.cfg.keepalive > 0
        try:
            connection.reply(reply, exchange.headers())
        except OSError:
            self._close(connection)
            return
        connection.arrival.next()
        self._answered(connection)

    def _answered(self, connection: Connection) -> None:
        """Go on after an answer was made."""
        self._charge(connection)
        if not connection.has_sent:
            self._wait(connection, Doing.SENDING, self._settings.request_seconds)
        else:
            self._sent(connection)

    def _sent(self, connection: Connection) -> None:
        """Go on after an answer has left: with the next request, or to the end."""
        if not connection.keeps:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_WR)
            self._wait(connection, Doing.CLOSING, CLOSING_SECONDS)
        elif connection.arrival.size:
            self._go_on(connection)
        else:
            linger = gthread.STOP_KEEPALIVE_LINGER  # type: ignore[attr-defined]
            self._wait(connection, Doing.IDLE, self.cfg.keepalive if self.alive else min(self.cfg.keepalive, linger))

    def _refuse(self, connection: Connection, status: int, sentence: str, retry_after: int | None = None) -> None:
        """Answer for the app a connection that waits, and close it."""
        self._leave(connection)
        connection.keeps = False
        connection.refuse(status, sentence, retry_after)
        self._wait(connection, Doing.SENDING, CLOSING_SECONDS)

    def _refuse_late(self, connection: Connection) -> None:
        seconds = self._settings.request_seconds
        self._refuse(connection, HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {seconds} s")

    def _end_hanging(self) -> None:
        """Let the worker end, because a model does not return; who waits for it was told so."""
        self._hangs, self.alive = True, False
        self.cfg.set("graceful_timeout", HANGING_SECONDS)
        gthread.STOP_KEEPALIVE_LINGER = 1.0  # type: ignore[attr-defined]
        write_event("worker-hangs", pid=os.getpid(), seconds=self._settings.predict_seconds)

    # Below runs in threads.

    def _answer(self, connection: Connection) -> bool:
        """Answer one request; return whether the connection can have another."""
        arrival, connection.begun = connection.arrival, False
        if arrival.refusal:
            connection.refuse(*arrival.refusal)
            return False
        try:
            request = next(connection.parser)
            return self.handle_request(request, connection) and not arrival.starved
        except (StopIteration, NoMoreData):
            return False
        except ParseException as error:
            status = _STATUSES.get(type(error), HTTPStatus.BAD_REQUEST)
            self._refuse_here(connection, status, f"not a request of HTTP: {str(error)[:200]}")
        except (Gone, OSError):
            pass
        except Exception as error:
            write_failure("request-failed", error)
            self._refuse_here(connection, HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")
        return False

    def _refuse_here(self, connection: Connection, status: int, sentence: str) -> None:
        if not connection.begun:
            connection.refuse(status, sentence)

    def handle_request(self, req: Any, conn: Connection) -> bool:  # type: ignore[override]
        """Run the app; return whether the connection can have another request."""
        req._expected_100_continue = False  # the loop has seen to it
        if not conn.arrival.whole:
            req.force_close()
        response, environ = wsgi.create(req, conn.sock, conn.client, conn.server, self.cfg, Answer, (conn,))
        environ["wsgi.multithread"] = True
        if not (self.alive and self.cfg.keepalive):
            response.force_close()
        pieces = self.wsgi(environ, response.start_response)  # type: ignore[arg-type]
        try:
            for piece in pieces:
                response.write(piece)
            response.close()
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
        return not response.should_close() and bool(conn.parser.finish_body())  # type: ignore[func-returns-value]
