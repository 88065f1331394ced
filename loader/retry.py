"""Asking again: pauses that double, with jitter, until a deadline."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from loader.errors import SourceUnavailable

GIVE_UP_AFTER_SECONDS = 300.0  # without one good answer
FIRST_PAUSE_SECONDS = 0.5  # before a second try
LONGEST_PAUSE_SECONDS = 20.0

T = TypeVar("T")


class Patience:
    """How long one thing is asked for again.

    Args:
        stop: ends the patience early.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop or threading.Event()
        self.renew()

    def renew(self) -> None:
        """Begin anew: there was a good answer."""
        self._give_up, self._pause = time.monotonic() + GIVE_UP_AFTER_SECONDS, FIRST_PAUSE_SECONDS

    def pause(self, error: SourceUnavailable) -> None:
        """Wait before the next try, at least as long as the store asked for.

        Raises:
            SourceUnavailable: the deadline would pass meanwhile, or patience was told to stop.
        """
        # The jitter spreads the tries of many readers, and of many pods, that failed at one moment.
        pause = max(self._pause * random.uniform(0.5, 1.0), min(error.retry_after, 2 * LONGEST_PAUSE_SECONDS))  # noqa: S311
        if self._stop.is_set() or time.monotonic() + pause > self._give_up:
            raise SourceUnavailable(
                f"{error.message} (tried for {GIVE_UP_AFTER_SECONDS:.0f} s)",
                hint="Check the network and the store's status; what has arrived is kept for the next run",
            ) from error
        self._stop.wait(pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)


def patiently(ask: Callable[[], T]) -> T:
    """Ask until there is a good answer.

    Raises:
        SourceUnavailable: there was none for GIVE_UP_AFTER_SECONDS.
    """
    patience = Patience()
    while True:
        try:
            return ask()
        except SourceUnavailable as error:
            patience.pause(error)
