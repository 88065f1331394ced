"""A generation: one gunicorn master that loads a set of bundles once and forks workers that answer from them.

Run as `python -m serving.generation SPEC`, with the listening socket and a pipe inherited. On the pipe it tells the
supervisor what it does, one JSON object a line (see `messages`). SIGTERM drains it: it stops accepting, answers what is
in flight, gives kept-alive connections time for one more request, which it answers with "Connection: close", and exits.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers import gthread
from gunicorn.workers.base import Worker

from loader.bundle import theano_compat
from loader.bundle.bundle import Bundle
from loader.bundle.errors import PantryError
from serving.http.app import create_app
from serving.http.worker import BufferingWorker
from serving.master import Master, Note, note_of
from serving.models.golden import GoldenRequest, check_golden, read_golden, warm_up
from serving.models.model import Model, load_model
from serving.settings import Settings
from serving.sight import logs, metrics
from serving.state import Phase
from serving.supervise.development import open_unverified
from serving.supervise.memory import read_memory
from serving.supervise.messages import BundleRef, Closed, GenerationSpec, Message, WorkerEnded
from serving.supervise.rules import growth_bound

PROGRESS_EVERY_SECONDS = 0.5
PR_SET_PDEATHSIG = 1
MAX_CONNECTIONS = 1000  # of one worker, beside those that a thread has
LOOP_SECONDS = 90


class GenerationServer(BaseApplication):
    """Gunicorn, configured from a GenerationSpec."""

    def __init__(self, spec: GenerationSpec) -> None:
        self._spec = spec
        self._golden: list[tuple[Model, tuple[GoldenRequest, ...]]] = []
        self._note: Note | None = None  # in a worker: its own
        super().__init__()

    @property
    def settings(self) -> Settings:
        """Of the server; workers read them."""
        return self._spec.settings

    def run(self) -> None:
        """Load, fork, and serve until SIGTERM."""
        settings = self._spec.settings
        limit = read_memory(settings.memory_limit).limit
        closed = functools.partial(_send, self._spec.pipe, Closed())
        Master(self, growth_bound(settings.worker_memory, limit, settings.workers), closed).run()

    def load_config(self) -> None:
        """Hand gunicorn its settings."""
        settings, spec = self._spec.settings, self._spec
        # Whoever waits for a model sits in a thread, and there are always some for the others.
        threads = settings.threads + settings.max_queue * max(1, len(spec.bundles))
        # A stopping worker gives idle kept-alive connections this long to send one more request. Gunicorn's own two
        # seconds are too short for clients that pause.
        gthread.STOP_KEEPALIVE_LINGER = max(1.0, settings.drain_seconds * 0.5) if spec.bundles else 1.0  # type: ignore[attr-defined]
        for name, value in {
            "bind": f"fd://{spec.listener}",
            "workers": settings.workers,
            "threads": threads,
            "worker_class": BufferingWorker,
            "worker_connections": MAX_CONNECTIONS + threads,
            "worker_tmp_dir": _memory_directory(),
            "preload_app": True,
            "keepalive": settings.keepalive_seconds,
            "graceful_timeout": settings.drain_seconds,
            # Of a worker's loop, which never runs a predict: it misses it where C code holds the interpreter's lock.
            "timeout": settings.predict_seconds + LOOP_SECONDS,
            "loglevel": "warning",
            "errorlog": None,  # `logs` writes what gunicorn says
            "control_socket_disable": True,
            "pre_fork": lambda _server, worker: self._before_fork(worker),
            "post_worker_init": self._warm,
            "child_exit": lambda _server, worker: self._after_exit(worker),
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Load every bundle, in the master, before any fork. Exits with 1 after telling why, where one cannot be."""
        models: dict[str, Model] = {}
        for ref in self._spec.bundles:
            try:
                models[ref.name] = self._load(ref)
            except PantryError as error:
                _send(self._spec.pipe, Message(Phase.FAILED, ref.name, reason=str(error)))
                sys.exit(1)
        _send(self._spec.pipe, Message(Phase.WARMING))
        gc.collect()
        try:
            return create_app(models, Path(self._spec.runtime), self._spec.settings)
        except PantryError as error:  # a file of secrets broke since the server started
            _send(self._spec.pipe, Message(Phase.FAILED, reason=str(error)))
            sys.exit(1)

    def _before_fork(self, worker: Worker) -> None:
        gc.freeze()  # so that collections in workers copy no shared page
        worker.pantry_note = Note(  # type: ignore[attr-defined]
            [ref.name for ref in self._spec.bundles]
        )

    def _after_exit(self, worker: Worker) -> None:
        note = note_of(worker)
        _send(self._spec.pipe, WorkerEnded(int(worker.pid), note.computing, note.grown))

    def _load(self, ref: BundleRef) -> Model:
        bundle = self._open(ref)
        report = _throttled(functools.partial(self._report, ref.name, bundle.manifest.size))
        self._report(ref.name, bundle.manifest.size, 0)
        began = time.monotonic()
        model = load_model(ref.name, ref.version, bundle, report, self._spec.settings)
        metrics.observe_load(ref.name, ref.version, time.monotonic() - began)
        model.surround(functools.partial(self._noted, ref.name))
        self._golden.append((model, read_golden(bundle, model.config)))
        return model

    def _open(self, ref: BundleRef) -> Bundle:
        if ref.name in self._spec.directories:
            return open_unverified(Path(self._spec.directories[ref.name]))
        bundle = Bundle.open(Path(self._spec.volume, ref.name, ref.version))
        if bundle.digest != ref.digest:
            raise PantryError(f"{bundle.directory} changed: expected {ref.digest}, got {bundle.digest}")
        bundle.hold()  # until this generation ends: it may be what a rollback or a restarted pod needs
        return bundle

    def _noted(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            if self._note is None:  # in the master
                return answer(*arguments)
            with self._note.noting(name):
                return answer(*arguments)

        return noted

    def _warm(self, worker: Worker) -> None:
        """Let the models compute, in a worker: what that starts (threads, devices) would not survive a fork."""
        self._note = note_of(worker)
        for model, golden in self._golden:
            try:
                check_golden(model, golden)
                if not golden:
                    warm_up(model)
            except PantryError as error:
                _send(self._spec.pipe, Message(Phase.FAILED, model.name, reason=str(error)))
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
        self._note.begin()
        _send(self._spec.pipe, Message(Phase.READY))

    def note_closed(self) -> None:
        """Note, in a worker, that it takes no more connections."""
        if self._note is not None:
            self._note.end()

    def _report(self, name: str, total: int, done: int) -> None:
        _send(self._spec.pipe, Message(Phase.LOADING, name, done, total))


def main() -> None:
    """Run the generation that the first argument describes."""
    if sys.platform == "linux":  # a killed supervisor must not leave servers behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    logs.configure(metrics.log_line_dropped)
    # Numbers in a request are finite, or it is refused; scikit-learn would look again, for a third of a small predict.
    os.environ.setdefault("SKLEARN_ASSUME_FINITE", "1")
    spec = msgspec.json.decode(sys.argv[1], type=GenerationSpec)
    sys.argv[1:] = []  # gunicorn and models read it too
    if spec.bundles:
        theano_compat.prepare()
    GenerationServer(spec).run()


def _send(pipe: int, message: Message | WorkerEnded | Closed) -> None:
    with contextlib.suppress(BrokenPipeError):  # a killed supervisor: what is in flight is answered all the same
        os.write(pipe, msgspec.json.encode(message) + b"\n")  # one write of less than PIPE_BUF: lines never mix


def _throttled(tell: Callable[[int], None]) -> Callable[[int], None]:
    """Add up counts, and tell the sum now and then."""
    done, told = 0, time.monotonic()

    def count(more: int) -> None:
        nonlocal done, told
        done += more
        if time.monotonic() - told >= PROGRESS_EVERY_SECONDS:
            told = time.monotonic()
            tell(done)

    return count


def _memory_directory() -> str | None:
    """Return where workers' heartbeat files go: memory, so that a slow disk does not look like a hung worker."""
    memory = "/dev/shm"  # noqa: S108 - gunicorn makes its own unique, unlinked files in it
    return memory if os.access(memory, os.W_OK) else None


if __name__ == "__main__":
    main()
