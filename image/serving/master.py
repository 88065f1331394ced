"""The gunicorn master of a generation: it notes how workers end, and replaces those that grew.

Every worker has a few bytes that its master can read too, also after it has died: whether it answers, and which models
are computing in it. So the model that brings workers down can be told from those beside it.
"""

from __future__ import annotations

import mmap
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from serving.supervise.memory import anonymous_bytes

LOOK_EVERY_SECONDS = 2.0
STOPPING_SECONDS = 0.02  # between two looks at workers that were told to end
_RETIRING_AGE = -1  # gunicorn ends the oldest first, and the oldest has the lowest number


class Note:
    """What a worker tells its master without a word.

    Args:
        models: by name, in the order of loading.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self._models = {name: place for place, name in enumerate(models, 1)}
        self._bytes = mmap.mmap(-1, len(models) + 1)
        self.grown = 0  # bytes, where it has to go because it grew
        self.begins_with: int | None = None  # bytes, when it began to answer

    @property
    def answers(self) -> bool:
        """Whether the worker takes connections."""
        return self._bytes[0] == 1

    def begin(self) -> None:
        """Note that the worker takes connections."""
        self._bytes[0] = 1

    def end(self) -> None:
        """Note that the worker takes no more of them."""
        self._bytes[0] = 0

    @property
    def computing(self) -> tuple[str, ...]:
        """The models that are in a predict."""
        return tuple(name for name, place in self._models.items() if self._bytes[place])

    @contextmanager
    def noting(self, model: str) -> Iterator[None]:
        """Note that a model computes, as long as it does."""
        place = self._models[model]
        self._bytes[place] = 1
        try:
            yield
        finally:
            self._bytes[place] = 0


class Master(Arbiter):
    """Gunicorn's own master, and besides it replaces workers that grew, one at a time, the new one first.

    Args:
        app: the generation.
        bound: bytes that a worker may grow by.
        closed: called when it ends and no worker takes connections any more.
    """

    def __init__(self, app: BaseApplication, bound: int, closed: Callable[[], None]) -> None:
        self._bound, self._closed, self._look_at = bound, closed, 0.0
        super().__init__(app)

    def murder_workers(self) -> None:
        """End workers that hang; then see to one that has grown. Called about once a second."""
        super().murder_workers()
        retiring = [worker for worker in self.WORKERS.values() if note_of(worker).grown]
        if not retiring:
            self.num_workers = self.cfg.workers
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_EVERY_SECONDS
                self._look()
        elif note_of(max(self.WORKERS.values(), key=lambda worker: worker.age)).answers:
            self.num_workers = self.cfg.workers  # now manage_workers ends the one that retires

    def _look(self) -> None:
        for pid, worker in self.WORKERS.items():
            note = note_of(worker)
            if not note.answers:
                continue
            size = anonymous_bytes(pid)
            if note.begins_with is None:
                note.begins_with = size
            elif size - note.begins_with > self._bound:
                note.grown, worker.age = size - note.begins_with, _RETIRING_AGE
                self.num_workers += 1
                return

    def stop(self, graceful: bool = True) -> None:
        """Let the workers finish, and end those that take too long.

        Gunicorn's own looks at the wall clock: a clock that steps forward would cut requests off.
        """
        for listener in self.LISTENERS:
            listener.close()
        self.LISTENERS = []  # type: ignore[misc]
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        end, told = time.monotonic() + self.cfg.graceful_timeout, False
        while self.WORKERS and time.monotonic() < end:
            self.reap_workers()
            if not told and not any(note_of(worker).answers for worker in self.WORKERS.values()):
                told = True
                self._closed()
            time.sleep(STOPPING_SECONDS)
        self.kill_workers(signal.SIGKILL)
        self.reap_workers()


def note_of(worker: Worker) -> Note:
    """Return the note that a worker was given when it was forked."""
    note: Note = worker.pantry_note  # type: ignore[attr-defined]
    return note
