"""A generation as its supervisor sees it: a child process and the pipe on which it reports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import msgspec

from serving.settings import Settings
from serving.state import Phase
from serving.supervise import rules
from serving.supervise.messages import BundleRef, Closed, GenerationSpec, Message, WorkerEnded


class GenerationProcess:
    """One running generation.

    Attributes:
        number: counts generations from 1.
        bundles: that it serves, or is to serve.
        failure: the message in which it said why it cannot, or None.
        exit_status: how it ended, as os.waitstatus_to_exitcode gives it; None while it runs.
        began: when it was started, monotonic seconds.
        ended_workers: that have gone, in the order of their ends; the supervisor takes them out.
    """

    def __init__(
        self,
        number: int,
        bundles: tuple[BundleRef, ...],
        volume: str,
        runtime: str,
        listener: int,
        settings: Settings,
        environment: Mapping[str, str],
        directories: dict[str, str],
    ) -> None:
        self.number, self.bundles, self.began = number, bundles, time.monotonic()
        self.failure: Message | None = None
        self.exit_status: int | None = None
        self.ended_workers: list[WorkerEnded] = []
        self._deaths: list[tuple[float, WorkerEnded]] = []
        self._workers, self._ready_workers = settings.workers, 0
        self._last: dict[str, Message] = {}
        self._loading, self._warming, self._closed, self._buffer = "", False, False, b""
        self._deadline: float | None = None
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        spec = GenerationSpec(number, bundles, volume, runtime, listener, theirs, settings, directories)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving.generation", msgspec.json.encode(spec).decode()],
            env={**os.environ, **environment},
            pass_fds=(listener, theirs),
            process_group=0,  # a Ctrl-C on the terminal is the supervisor's to handle
        )
        os.close(theirs)

    @property
    def pid(self) -> int:
        """The process id of its gunicorn master."""
        return self._process.pid

    @property
    def pipe(self) -> int:
        """The file descriptor that is readable when it has said something."""
        return self._pipe

    @property
    def ready(self) -> bool:
        """Whether all its workers answer."""
        return self._ready_workers >= self._workers

    @property
    def takes_connections(self) -> bool:
        """Whether a new connection may still come to one of its workers."""
        return not self._closed and self.exit_status is None

    @property
    def loading(self) -> str:
        """The model that it is loading, or ""."""
        return "" if self._warming else self._loading

    def progress(self) -> dict[BundleRef, Message]:
        """Return the last message about each of its bundles."""
        if self._warming:
            return {ref: Message(Phase.WARMING, ref.name) for ref in self.bundles}
        return {ref: self._last.get(ref.name, Message(Phase.LOADING, ref.name)) for ref in self.bundles}

    def pump(self) -> None:
        """Take in what it has said since."""
        if self.exit_status is not None:
            return  # everything was taken in when it ended
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._pipe, 65536):
                self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._hear(msgspec.json.decode(line, type=Message | WorkerEnded | Closed))

    def _hear(self, message: Message | WorkerEnded | Closed) -> None:
        if isinstance(message, Closed):
            self._closed = True
        elif isinstance(message, WorkerEnded):
            if not self.draining:
                self.ended_workers.append(message)
            if not message.grown:
                self._deaths = [*self._deaths[1 - rules.DEATHS :], (time.monotonic(), message)]
        elif message.phase is Phase.READY:
            self._ready_workers += 1
        elif message.phase is Phase.FAILED:
            self.failure = message
        elif message.phase is Phase.WARMING:
            self._warming = True
        else:
            self._loading = message.model
            self._last[message.model] = message

    def take_culprits(self) -> tuple[BundleRef, ...] | None:
        """Return the bundles that computed when workers died, or all of them, where workers die again and again.

        Then the deaths are counted anew. Where they do not die so often, return None.
        """
        if not rules.dies_too_often([when for when, _ in self._deaths], time.monotonic()):
            return None
        computing = {name for _, worker in self._deaths for name in worker.computing}
        self._deaths = []
        return tuple(ref for ref in self.bundles if ref.name in computing or not computing)

    def drain(self, seconds: float) -> None:
        """Ask it to finish what it has begun and exit, within so many seconds."""
        if self._deadline is None and self.exit_status is None:
            self._deadline = time.monotonic() + seconds
            self._signal(signal.SIGTERM)

    @property
    def draining(self) -> bool:
        """Whether it was asked to exit."""
        return self._deadline is not None

    @property
    def overdue(self) -> bool:
        """Whether it was asked to exit and has not in time."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def kill(self) -> None:
        """End it and its workers at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self, status: int) -> None:
        """Note that it was reaped.

        Args:
            status: as os.waitpid gives it.
        """
        self.pump()
        self.kill()  # what is left of its workers
        self.exit_status = self._process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self._pipe)

    def epitaph(self) -> str:
        """Say in one sentence how it ended without a word of its own."""
        doing = f"loading {self._loading}" if self.loading else "starting its workers"
        if self.exit_status == -signal.SIGKILL:
            return f"the process was killed while {doing}; most likely it needs more memory than the container has"
        if self.exit_status is not None and self.exit_status < 0:
            return f"the process was ended by {signal.Signals(-self.exit_status).name} while {doing}"
        return f"the process ended with status {self.exit_status} while {doing}; the log says why"

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
