"""The generations that there are: one serves, one may be starting, and others end."""

from __future__ import annotations

import os
import time

from serving.supervise.generation_process import GenerationProcess
from serving.supervise.messages import BundleRef

KILL_AFTER_SECONDS = 5.0  # beyond what gunicorn itself takes to end its workers


class Generations:
    """The supervisor's children, by what they are there for.

    Attributes:
        serving: the one that answers, or None.
        starting: the one that is to take over, or None.
        ending: those that were told to end, or killed, and were not yet seen to; the latest last.
    """

    def __init__(self, drain_seconds: float) -> None:
        self.serving: GenerationProcess | None = None
        self.starting: GenerationProcess | None = None
        self.ending: list[GenerationProcess] = []
        self._drain_seconds = drain_seconds + KILL_AFTER_SECONDS

    @property
    def served(self) -> tuple[BundleRef, ...]:
        """The bundles that are answered from."""
        return self.serving.bundles if self.serving else ()

    @property
    def before(self) -> GenerationProcess | None:
        """The generation that ends, as it was asked to, and that a new connection may still meet."""
        return next((g for g in reversed(self.ending) if g.draining and g.takes_connections), None)

    @property
    def heard(self) -> list[GenerationProcess]:
        """Those that have something to say."""
        return [g for g in (self.serving, self.starting, self.before) if g is not None]

    @property
    def roles(self) -> tuple[tuple[str, int], ...]:
        """What each is there for, and its process."""
        roles = (("serving", self.serving), ("starting", self.starting), *(("draining", g) for g in self.ending))
        return tuple((role, g.pid) for role, g in roles if g is not None)

    def promote(self) -> None:
        """Let the one that is ready take over, and the one before finish what it has begun."""
        if self.serving is not None:
            self.serving.drain(self._drain_seconds)
            self.ending.append(self.serving)
        self.serving, self.starting = self.starting, None

    def give_up_starting(self) -> None:
        """End the one that is to take over; nobody was promised anything."""
        if self.starting is not None and self.starting.exit_status is None:
            self.starting.kill()
            self.ending.append(self.starting)
        self.starting = None

    def bury(self) -> None:
        """Kill those that take too long to end, and forget those that have."""
        for generation in self.ending:
            if generation.overdue and generation.exit_status is None:
                generation.kill()
        self.ending = [generation for generation in self.ending if generation.exit_status is None]

    def reap(self) -> None:
        """Collect ended children: generations, and orphans that PID 1 inherits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for generation in (self.serving, self.starting, *self.ending):
                if generation is not None and generation.pid == pid:
                    generation.ended(status)

    def end(self) -> None:
        """Let all answer what they have begun, the one that is starting left out, and see them gone."""
        self.give_up_starting()
        if self.serving is not None:
            self.ending.append(self.serving)
            self.serving = None
        for generation in self.ending:
            generation.drain(self._drain_seconds)
        while self.ending:
            self.reap()
            self.bury()
            time.sleep(0.05)
