"""One predict at a time, of all that waits: whatever has queued while a predict ran becomes the next one.

There is no timer and no thread beside those of the requests: the first request of the queue runs the batch, the others
sleep until it has their rows, and the first of those that came meanwhile goes on.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.errors import Overloaded, PredictFailed, PredictTimeout, ServingError
from serving.tensors import Array

log = logging.getLogger("pantry")

Arrays = dict[str, Array]
Signature = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]

SMOOTHING = 0.2  # of the moving average: what the last batch counts for


class Batcher:
    """Runs a model for many threads.

    Args:
        name: of the model, for sentences.
        run: answers arrays with arrays; never called twice at a time. It raises nothing but ServingError.
        max_rows: of one batch; 1 runs every request alone. A request of more rows runs alone, undivided.
        seconds: that a request may wait and run.
        max_queue: requests that may wait.
        observe: told the rows of each run, what its requests waited and what it took, in seconds.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Arrays], Arrays],
        max_rows: int,
        seconds: float,
        max_queue: int,
        observe: Callable[[int, list[float], float], None],
    ) -> None:
        self._name, self._run, self._max_rows, self._observe = name, run, max_rows, observe
        self._seconds, self._max_queue = seconds, max_queue
        self._lock = threading.Lock()
        self._queue: deque[_Ticket] = deque()
        self._leader: _Ticket | None = None
        self._began: float | None = None  # of the run that goes on now
        self._average = 0.0  # seconds of a run

    def predict(self, inputs: Arrays) -> Arrays:
        """Answer, alone or with others that wait.

        Raises:
            Overloaded: the answer would come too late, so it is not begun.
            PredictTimeout: it was begun and did not come in time.
            ServingError: as `run` does.
        """
        ticket = _Ticket(inputs, time.monotonic())
        with self._lock:
            self._admit(ticket)
            self._queue.append(ticket)
            if self._leader is None:
                self._leader = ticket
                ticket.woken.release()
        if not ticket.woken.acquire(timeout=self._seconds):
            self._withdraw(ticket)
        if ticket is self._leader:
            self._lead()
        if ticket.outputs is None:
            raise ticket.error or PredictFailed(f"model {self._name} failed")
        return ticket.outputs

    def _admit(self, ticket: _Ticket) -> None:
        """Refuse what would not be answered in time; where nothing is ahead, nothing is refused."""
        if self._leader is None:
            return
        elapsed = 0.0 if self._began is None else ticket.queued_at - self._began
        wait = max(self._average - elapsed, 0.0) + self._batches() * self._average
        if elapsed > self._seconds:
            wait = self._seconds
        elif len(self._queue) < self._max_queue and wait + self._average <= self._seconds:
            return
        raise Overloaded(
            f"model {self._name} is busy: {len(self._queue)} requests wait, and a new one would for {wait:.1f} s",
            retry_after=max(1, math.ceil(wait)),
        )

    def _batches(self) -> int:
        """Return how many runs those that wait will take."""
        if self._max_rows == 1:
            return len(self._queue)
        return sum(ticket.rows or self._max_rows for ticket in self._queue) // self._max_rows

    def _withdraw(self, ticket: _Ticket) -> None:
        """Take out of the queue what waited for too long.

        Raises:
            Overloaded: it was not begun.
            PredictTimeout: it was.
        """
        with self._lock:
            if ticket.woken.acquire(blocking=False):
                return  # in the last moment
            if ticket not in self._queue:
                raise PredictTimeout(f"model {self._name} did not answer within {self._seconds:g} s")
            self._queue.remove(ticket)
        raise Overloaded(f"model {self._name} is busy: the request waited for {self._seconds:g} s", retry_after=1)

    def _lead(self) -> None:
        batch: list[_Ticket] = []
        try:
            with self._lock:
                batch = self._take()
                self._began = time.monotonic()
            self._answer(batch)
        finally:
            with self._lock:
                self._began = None
                self._leader = self._queue[0] if self._queue else None
                if self._leader is not None:
                    self._leader.woken.release()
            for ticket in batch[1:]:
                ticket.woken.release()

    def _take(self) -> list[_Ticket]:
        """Take the first of the queue, which is the leader's own, and all that fit it."""
        first = self._queue.popleft()
        batch, rows, now = [first], first.rows, time.monotonic()
        if not rows or rows >= self._max_rows:
            return batch
        rest: list[_Ticket] = []
        for ticket in self._queue:
            fits = ticket.signature == first.signature and ticket.rows and rows + ticket.rows <= self._max_rows
            if fits and ticket.queued_at + self._seconds > now:
                batch.append(ticket)
                rows += ticket.rows
            else:
                rest.append(ticket)
        self._queue = deque(rest)
        return batch

    def _answer(self, batch: list[_Ticket]) -> None:
        """Give every ticket its outputs or its error."""
        if len(batch) > 1:
            try:
                outputs = self._timed(batch)
            except ServingError:
                pass  # of one of them, perhaps: each is tried alone
            else:
                if _has_rows(outputs, sum(ticket.rows for ticket in batch)):
                    _share(outputs, batch)
                    return
                self._give_up_batching()
        for ticket in batch:
            if time.monotonic() - ticket.queued_at > self._seconds:
                ticket.error = PredictTimeout(f"model {self._name} did not answer within {self._seconds:g} s")
                continue
            try:
                ticket.outputs = outputs = self._timed([ticket])
            except ServingError as error:
                ticket.error = error
            else:
                if self._max_rows > 1 and ticket.rows and not _has_rows(outputs, ticket.rows):
                    self._give_up_batching()

    def _timed(self, batch: list[_Ticket]) -> Arrays:
        began = time.monotonic()
        try:
            return self._run(batch[0].inputs if len(batch) == 1 else _join(batch))
        except ServingError:
            raise
        except BaseException as error:  # SystemExit, for one: whoever waits must be woken
            raise PredictFailed(f"model {self._name} failed: {type(error).__name__}") from error
        finally:
            seconds = time.monotonic() - began
            self._average += (seconds - self._average) * (SMOOTHING if self._average else 1.0)
            self._observe(sum(t.rows for t in batch) or 1, [began - t.queued_at for t in batch], seconds)

    def _give_up_batching(self) -> None:
        self._max_rows = 1
        log.warning("model %s does not answer one row for each input row: its requests run one by one", self._name)


class _Ticket:
    """One request that waits; `rows` is 0 where it can only run alone."""

    __slots__ = ("error", "inputs", "outputs", "queued_at", "rows", "signature", "woken")

    def __init__(self, inputs: Arrays, now: float) -> None:
        self.inputs, self.queued_at = inputs, now
        self.rows, self.signature = _shape_of(inputs)
        self.outputs: Arrays | None = None
        self.error: ServingError | None = None
        self.woken = threading.Lock()
        self.woken.acquire()


def _shape_of(inputs: Arrays) -> tuple[int, Signature]:
    """Return the number of rows, and what must be equal for two requests to become one."""
    rows = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    signature = tuple((name, array.dtype, array.shape[1:]) for name, array in inputs.items())
    return (rows.pop() if len(rows) == 1 else 0), signature


def _join(batch: Sequence[_Ticket]) -> Arrays:
    return {name: np.concatenate([ticket.inputs[name] for ticket in batch]) for name in batch[0].inputs}


def _share(outputs: Arrays, batch: Sequence[_Ticket]) -> None:
    start = 0
    for ticket in batch:
        stop = start + ticket.rows
        ticket.outputs = {name: array[start:stop] for name, array in outputs.items()}
        start = stop


def _has_rows(outputs: Arrays, rows: int) -> bool:
    return all(array.ndim > 0 and array.shape[0] == rows for array in outputs.values())
