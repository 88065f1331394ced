"""The short way from a connection to a model and back, for plain requests that are small.

The worker's loop reads the question and sends the answer itself; what has come in one round of the loop goes to the
models together, and only they take a thread. It answers as the app would, byte for byte, and takes a fraction of the
time: no thread is woken, and no framework is asked, for each request.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from serving.errors import ModelNotReady, ServingError
from serving.http.connection import Connection
from serving.http.exchange import Exchange
from serving.http.plain import LONGEST_HEAD, PlainRequest, read_plain
from serving.models.catalog import Catalog
from serving.models.model import Model
from serving.models.ticket import Ticket
from serving.settings import Settings
from serving.sight.logs import RequestLine, write_failure, write_requests
from serving.wire.question import Form, Question, read_question
from serving.wire.replies import Reply, crash, refusal

ROUND_SECONDS = 0.01
SMALL_BYTES = 64 * 1024  # of a body or an answer: it takes the loop a millisecond or two


class Lane:
    """The plain requests of one worker that are being answered.

    Args:
        catalog: the models.
        settings: of the server.
        in_loop: has a function called in the worker's loop; may itself be called in any thread.
        in_thread: has a function called in a thread.
        send: sends a reply on a connection, with the headers of its exchange, and keeps it open or not.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        in_loop: Callable[[Callable[[], None]], object],
        in_thread: Callable[[Callable[[], object]], object],
        send: Callable[[Connection, Reply, Exchange, bool], None],
    ) -> None:
        self._catalog, self._seconds = catalog, settings.predict_seconds
        self._largest = min(SMALL_BYTES, settings.max_body_bytes)
        self._in_loop, self._in_thread, self._send = in_loop, in_thread, send
        self._came: deque[_Asked] = deque()  # and was not read yet
        self._asked: dict[Connection, _Asked] = {}
        self._done: deque[_Asked] = deque()
        self._ended: list[RequestLine] = []  # in this round of the loop
        self._told = False  # the loop will look into _done

    def __len__(self) -> int:
        return len(self._asked)

    def take(self, connection: Connection) -> bool:
        """Take a connection whose request has come, if it is plain and small."""
        arrival = connection.arrival
        if not arrival.whole or arrival.is_from_stranger or arrival.refusal:
            return False
        if arrival.size > self._largest + LONGEST_HEAD:  # a large one stays in its pieces
            return False
        said = arrival.content
        head = read_plain(said)
        if head is None or head.body_length > self._largest:
            return False
        end = head.length + head.body_length
        arrival.keep_from(end)
        asked = _Asked(connection, head, said[head.length : end])
        self._asked[connection] = asked
        self._came.append(asked)
        return True

    @property
    def lags(self) -> bool:
        """Whether requests wait for the next round."""
        return bool(self._came)

    def end_round(self) -> None:
        """At the end of a round of the loop: read what has come, hand it to the models, log what was answered.

        What takes longer than a moment to read waits for the next round: others are to be heard meanwhile.
        """
        read: list[_Asked] = []
        until = time.monotonic() + ROUND_SECONDS
        while self._came and time.monotonic() < until:
            asked = self._came.popleft()
            if self._go(asked, partial(asked.read, self._catalog)):
                read.append(asked)
        for asked in read:
            self._go(asked, partial(asked.submit, partial(self._note_done, asked)))
        ended, self._ended = self._ended, []
        write_requests(ended)

    def give_up(self, now: float) -> None:
        """Answer those whose time is over."""
        for asked in list(self._asked.values()):
            if asked.ticket is not None and not asked.writes and now - asked.ticket.queued_at > self._seconds:
                asked.model.withdraw(asked.ticket)
                self._answer(asked)

    def _go(self, asked: _Asked, step: Callable[[], None]) -> bool:
        """Take a step with a request; answer it where that fails."""
        try:
            step()
        except ServingError as error:
            self._refuse(asked, error)
        except Exception as error:
            self._crash(asked, error)
        else:
            return True
        return False

    def _note_done(self, asked: _Asked) -> None:
        """Tell the loop of an answer; in the model's thread."""
        self._done.append(asked)
        if not self._told:
            self._told = True
            self._in_loop(self._collect)

    def _collect(self) -> None:
        self._told = False  # before looking: what comes from now on is told again
        while self._done:
            self._answer(self._done.popleft())

    def _answer(self, asked: _Asked) -> None:
        if self._asked.get(asked.connection) is not asked or asked.ticket is None or asked.writes:
            return  # it was answered when its time was over
        outputs = asked.ticket.outputs
        if outputs is not None and sum(array.nbytes for array in outputs.values()) > SMALL_BYTES:
            in_loop = self._in_loop
            asked.writes = True
            self._in_thread(lambda: in_loop(self._replying(asked)))
        else:
            self._replying(asked)()

    def _replying(self, asked: _Asked) -> Callable[[], None]:
        """Write an answer, in any thread; return what sends it, in the loop."""
        try:
            return partial(self._reply, asked, asked.answer())
        except ServingError as error:
            return partial(self._refuse, asked, error)
        except Exception as error:
            return partial(self._crash, asked, error)

    def _refuse(self, asked: _Asked, error: ServingError) -> None:
        if isinstance(error, ModelNotReady) and asked.head.name:
            asked.exchange.model = asked.head.name  # models.yaml has it
        asked.exchange.note_failure(error)
        self._reply(asked, refusal(error, asked.exchange.beside_error))

    def _crash(self, asked: _Asked, error: Exception) -> None:
        asked.exchange.note_failure(error)
        self._reply(asked, crash(asked.exchange.id, asked.exchange.beside_error))

    def _reply(self, asked: _Asked, reply: Reply) -> None:
        del self._asked[asked.connection]
        exchange = asked.exchange
        exchange.status, exchange.bytes_out = reply.status, len(reply.body)
        self._ended.append(exchange.end())  # counted first: whoever has the answer finds it among the metrics
        try:
            self._send(asked.connection, reply, exchange, asked.head.keeps)
        except Exception as error:
            write_failure("connection-failed", error)


class _Asked:
    """One request on its way."""

    __slots__ = ("_body", "_question", "connection", "exchange", "head", "model", "ticket", "writes")

    _question: Question
    model: Model

    def __init__(self, connection: Connection, head: PlainRequest, body: bytes) -> None:
        self.connection, self.head, self._body = connection, head, body
        said = [head.headers.get(name, "") for name in ("x-request-id", "traceparent", "tracestate")]
        self.exchange = Exchange("POST", head.path, *said)
        self.exchange.bytes_in = len(body)
        self.ticket: Ticket | None = None
        self.writes = False  # a thread writes the answer

    def read(self, catalog: Catalog) -> None:
        """Find the model and read the question."""
        head = self.head
        self.model = model = catalog.get(head.name or catalog.default, head.version)
        self.exchange.model, self.exchange.version = model.name, model.version
        if head.form is Form.SHORT:
            self.exchange.beside_error = model.config.answer.error
        self._question = read_question(head.form, self._body, head.headers, model.config)
        self.exchange.rows = self._question.rows

    def submit(self, done: Callable[[], None]) -> None:
        """Ask the model."""
        self.ticket = self.model.submit(self._question.inputs, done)

    def answer(self) -> Reply:
        """Return what the model has answered."""
        assert self.ticket is not None
        model = self.model
        return self._question.answer(self.ticket.result(), model.name, model.version, model.config)
