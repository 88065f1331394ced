"""The worker: gunicorn's own with threads, but a connection takes a thread only when its whole request has come.

So a client that stalls, or sends a byte a second, costs a few kilobytes and no thread; neither does one that takes its
answer slowly. What a client sends is counted as it comes. A request that hangs is answered for its thread, and the
worker makes room for another one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import selectors
import socket
import time
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Any

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

from serving.access.guard import stranger_finder
from serving.arrival import Arrival
from serving.connection import RECEIVE_BYTES, Answer, Connection, Doing, Gone
from serving.logs import write_event, write_failure
from serving.settings import Settings

SWEEP_SECONDS = 0.25
CLOSING_SECONDS = 2.0  # for the client to take its answer before the connection goes
FREE_BYTES = RECEIVE_BYTES  # of a request that count for nothing: small ones always find room
LATE_SECONDS = 2.0  # beyond the deadline: whoever waits for the model is told by its own thread first
HANGING_SECONDS = 5  # for others to be answered in a worker that hangs
NEXT_SECONDS = 0.001  # a thread that has answered waits so long for the client's next request
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
        self._is_stranger = stranger_finder(self.wsgi)  # type: ignore[arg-type] # the Flask app of a GenerationServer
        super().run()
        if self._busy:  # threads that never return would keep the process
            os._exit(HANGING if self._hangs else 0)

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
        self._charge(conn)
        if conn.sock.fileno() < 0:  # the loop has answered and closed it
            return
        if not conn.has_sent:
            self._wait(conn, Doing.SENDING, self._settings.request_seconds)
        else:
            self._sent(conn)

    def handle(self, conn: Connection) -> bool:  # type: ignore[override]
        """Answer the request that has come, in a thread, and the next ones that are there at once.

        Returns:
            Whether the connection stays open.
        """
        while True:
            conn.begin()
            try:
                if not self._answer(conn):
                    return False
                conn.next()
                if not (conn.arrival.ready or self._comes(conn)):
                    return True
            except (Gone, OSError):
                return False

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
        bound = self._settings.predict_seconds + LATE_SECONDS
        for connection in [c for c in self._busy if now - c.began > bound and c.began and not c.answered]:
            self._answer_for(connection)

    def _cap_keepalive(self, deadline: float) -> None:
        for connection in self._waiting:
            if connection.doing is Doing.IDLE:
                connection.deadline = min(connection.deadline, deadline)

    # Below runs in the loop.

    def _wait(self, connection: Connection, doing: Doing, seconds: float) -> None:
        connection.doing, connection.deadline = doing, time.monotonic() + seconds
        event = selectors.EVENT_WRITE if doing is Doing.SENDING else selectors.EVENT_READ
        self._waiting[connection] = None
        self.poller.register(connection.sock, event, partial(self._ready, connection))

    def _leave(self, connection: Connection) -> None:
        """Stop waiting for a connection."""
        del self._waiting[connection]
        self.poller.unregister(connection.sock)

    def _drop(self, connection: Connection) -> None:
        self._leave(connection)
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
            return  # it was closed since the loop saw it ready
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
        """Give a connection to a thread, or wait for the rest of its request."""
        if connection.arrival.ready:
            self._busy[connection] = None
            connection.began = 0.0
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

    def _answer_for(self, connection: Connection) -> None:
        """Answer for a thread that hangs, and let the worker end."""
        if not connection.claim():
            return
        seconds = self._settings.predict_seconds
        connection.refuse(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"no answer within {seconds} s (PANTRY_PREDICT_SECONDS): what hangs is being replaced",
        )
        connection.close()
        self.nr_conns -= 1
        if not self._hangs:
            self._hangs, self.alive = True, False
            self.cfg.set("graceful_timeout", HANGING_SECONDS)
            gthread.STOP_KEEPALIVE_LINGER = 1.0  # type: ignore[attr-defined]
            write_event("worker-hangs", pid=os.getpid(), seconds=seconds)

    # Below runs in threads.

    def _comes(self, connection: Connection) -> bool:
        """Whether the client's next request is there, or comes in a moment, and nobody else needs the thread."""
        if not connection.has_sent or len(self._busy) >= self.cfg.threads:
            return False
        if connection.receive() is None:
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            if not poll.poll(NEXT_SECONDS * 1000) or connection.receive() is None:
                return False
        return connection.arrival.ready

    def _answer(self, connection: Connection) -> bool:
        """Answer one request; return whether the connection can have another."""
        arrival, request = connection.arrival, None
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
        if connection.claim():
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
