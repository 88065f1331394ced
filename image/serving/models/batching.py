"""One predict at a time, of all that waits: whatever has queued while a predict ran becomes the next one.

A lone request never waits. Where requests wait already, or several were just answered, the next run is put off for a
fraction of what it takes: those who were answered are about to ask again, and one run for all is sooner over than two.
Clients that do not come back are soon not waited for.

Each model has one thread that runs it, for as long as the process lives; who asks may wait for the answer, or be called
when it is there.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from serving.errors import Overloaded, PredictFailed, PredictTimeout, ServingError
from serving.models.returning import Returning
from serving.models.ticket import Arrays, Ticket, has_rows, join, share

log = logging.getLogger("pantry")

PATIENCE = 0.25  # of a run's time: how long to wait for those who were just answered
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
        self._queue: deque[Ticket] = deque()
        self._waiting = 0  # weight of the queue
        self._runner: threading.Thread | None = None
        self._called = threading.Lock()  # released to wake the runner
        self._called.acquire()
        self._wakes_at = 0  # requests in the queue that wake it; 0 while it is awake
        self._returning = Returning()
        self._began: float | None = None  # of the run that goes on now
        self._size = 1.0  # of that run: a request of many rows counts for as many runs as its rows would fill
        self._average = 0.0  # seconds of a run of size 1

    def predict(self, inputs: Arrays) -> Arrays:
        """Answer, alone or with others that wait.

        Raises:
            Overloaded: the answer would come too late, so it is not begun.
            PredictTimeout: it was begun and did not come in time.
            ServingError: as `run` does.
        """
        woken = threading.Lock()
        woken.acquire()
        ticket = self.submit(inputs, woken.release)
        if not woken.acquire(timeout=self._seconds):
            self.withdraw(ticket)
        return ticket.result()

    def submit(self, inputs: Arrays, done: Callable[[], None]) -> Ticket:
        """Queue a request and return at once.

        Args:
            inputs: as of `predict`.
            done: called in another thread when the ticket has its result; it must not raise, nor wait.

        Raises:
            Overloaded: the answer would come too late, so it is not begun.
        """
        ticket = Ticket(inputs, done, time.monotonic(), self._max_rows)
        with self._lock:
            self._admit(ticket)
            self._queue.append(ticket)
            self._waiting += ticket.weight
            if self._runner is None:  # not before: threads do not survive a fork
                self._runner = threading.Thread(target=self._work, name=f"model {self._name}", daemon=True)
                self._runner.start()
            elif self._wakes_at and len(self._queue) >= self._wakes_at:
                self._wakes_at = 0
                self._called.release()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Give a ticket that nobody waits for any longer its error, unless it has a result."""
        with self._lock:
            if ticket in self._queue:
                self._queue.remove(ticket)
                self._waiting -= ticket.weight
                late: ServingError = Overloaded(
                    f"model {self._name} is busy: the request waited for {self._seconds:g} s", retry_after=1
                )
            else:
                late = self._too_late()
        if not ticket.finished:
            ticket.error = late

    def running_since(self) -> float | None:
        """Return when the run that goes on now began, monotonic seconds; None where the model is idle."""
        return self._began

    def _admit(self, ticket: Ticket) -> None:
        """Refuse what would not be answered in time; where nothing is ahead, nothing is refused."""
        if self._began is None and not self._queue:
            return
        elapsed = 0.0 if self._began is None else ticket.queued_at - self._began
        wait = max(self._size * self._average - elapsed, 0.0) + self._batches() * self._average
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
        return self._waiting // self._max_rows

    def _size_of(self, batch: list[Ticket]) -> float:
        """Return how many full runs a run counts for, at least one."""
        if self._max_rows == 1:
            return 1.0
        return max(1.0, sum(ticket.weight for ticket in batch) / self._max_rows)

    def _work(self) -> None:
        """Run what waits, for ever."""
        while True:
            self._gather()
            with self._lock:
                batch = self._take()
                self._began, self._size = (time.monotonic(), self._size_of(batch)) if batch else (None, 1.0)
            if not batch:
                continue  # whoever waited was withdrawn
            try:
                self._answer(batch)
            except BaseException as error:  # whoever waits must be told, and the next ones answered
                log.exception("model %s: a batch failed", self._name)
                for ticket in batch:
                    if not ticket.finished:
                        ticket.error = PredictFailed(f"model {self._name} failed: {type(error).__name__}")
            with self._lock:
                self._began = None
                self._returning.expect(len(batch), len(self._queue), self._average * PATIENCE)
            for ticket in batch:
                ticket.done()

    def _gather(self) -> None:
        """Wait until something waits, and a little for more."""
        self._sleep(1, None)
        if self._max_rows > 1 and (seconds := self._returning.seconds) > 0:
            self._sleep(min(self._returning.queue, self._max_rows), seconds)
            self._returning.met(len(self._queue))

    def _sleep(self, requests: int, seconds: float | None) -> None:
        """Sleep until so many requests wait, or so long."""
        with self._lock:
            if len(self._queue) >= requests:
                return
            self._wakes_at = requests
        if self._called.acquire(timeout=-1 if seconds is None else seconds):
            return
        with self._lock:
            if self._wakes_at:
                self._wakes_at = 0
                return
        self._called.acquire()  # in the last moment

    def _take(self) -> list[Ticket]:
        """Take the first of the queue, and all that fit it."""
        if not self._queue:
            return []
        first = self._queue.popleft()
        batch, rows, now = [first], first.rows, time.monotonic()
        if 0 < rows < self._max_rows:
            rest: list[Ticket] = []
            for ticket in self._queue:
                fits = ticket.signature == first.signature and ticket.rows and rows + ticket.rows <= self._max_rows
                if fits and ticket.queued_at + self._seconds > now:
                    batch.append(ticket)
                    rows += ticket.rows
                else:
                    rest.append(ticket)
            self._queue = deque(rest)
        self._waiting -= sum(ticket.weight for ticket in batch)
        return batch

    def _answer(self, batch: list[Ticket]) -> None:
        """Give every ticket its outputs or its error."""
        if len(batch) > 1:
            try:
                outputs = self._timed(batch)
            except ServingError:
                pass  # of one of them, perhaps: each is tried alone
            else:
                if has_rows(outputs, sum(ticket.rows for ticket in batch)):
                    share(outputs, batch)
                    return
                self._give_up_batching()
        for ticket in batch:
            if time.monotonic() - ticket.queued_at > self._seconds:
                ticket.error = self._too_late()
                continue
            try:
                ticket.outputs = outputs = self._timed([ticket])
            except ServingError as error:
                ticket.error = error
            else:
                if self._max_rows > 1 and ticket.rows and not has_rows(outputs, ticket.rows):
                    self._give_up_batching()

    def _timed(self, batch: list[Ticket]) -> Arrays:
        began = time.monotonic()
        try:
            return self._run(batch[0].inputs if len(batch) == 1 else join(batch))
        except ServingError:
            raise
        except BaseException as error:  # SystemExit, for one: whoever waits must be woken
            raise PredictFailed(f"model {self._name} failed: {type(error).__name__}") from error
        finally:
            seconds = time.monotonic() - began
            self._average += (seconds / self._size_of(batch) - self._average) * (SMOOTHING if self._average else 1.0)
            self._observe(sum(t.rows for t in batch) or 1, [began - t.queued_at for t in batch], seconds)

    def _too_late(self) -> PredictTimeout:
        return PredictTimeout(f"model {self._name} did not answer within {self._seconds:g} s (PANTRY_PREDICT_SECONDS)")

    def _give_up_batching(self) -> None:
        self._max_rows = 1
        log.warning("model %s does not answer one row for each input row: its requests run one by one", self._name)
