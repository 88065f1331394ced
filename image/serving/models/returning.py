"""Whether it pays to wait for clients who were just answered. Pure, but for the clock."""

from __future__ import annotations

import time

MOST_SKIPS = 7


class Returning:
    """Clients who were just answered, and so may ask again in a moment."""

    def __init__(self) -> None:
        self._until = 0.0
        self._others = 0  # requests that waited already
        self._skip = self._skips = 0  # how often not to wait: now, and after the next disappointment
        self.queue = 0  # requests that wait when all have come back

    def expect(self, answered: int, waiting: int, seconds: float) -> None:
        """Note that so many are answered now, while others wait, and how long it is worth to wait for them."""
        self._others, self.queue = waiting, waiting + answered
        self._until = time.monotonic() + seconds
        if self._skip:
            self._skip -= 1
            self._until = 0.0

    @property
    def seconds(self) -> float:
        """How long to wait yet."""
        return self._until - time.monotonic()

    def met(self, queue: int) -> None:
        """Learn from how many wait now."""
        if 2 * (queue - self._others) >= self.queue - self._others:
            self._skips = 0
        else:
            self._skip = self._skips = min(2 * self._skips + 1, MOST_SKIPS)
