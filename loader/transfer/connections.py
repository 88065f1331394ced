"""How many connections to use: a pure rule, which sees only what the last window of time brought.

One connection to an object store gives a fraction of what the network can carry, so many are worth it for large files;
small files, a slow disk or a busy processor are no faster for more of them. So: more as long as more bring more.
"""

from __future__ import annotations

FIRST_CONNECTIONS = 8
MOST_CONNECTIONS = 32
WINDOW_SECONDS = 0.5
REQUEST_WORTH = 64 * 1024  # bytes that answering one request counts as: with small files requests are the work
_WORTH_IT = 1.1  # gain in the rate that pays for more connections
_COLLAPSE = 0.6  # of the best rate: the network is another one now


class Connections:
    """Chooses the number of connections by what the previous number brought.

    Attributes:
        count: connections to use now.
    """

    def __init__(self) -> None:
        self.count = FIRST_CONNECTIONS
        self._before = FIRST_CONNECTIONS
        self._best = 0.0
        self._settled = False

    def observe(self, rate: float) -> None:
        """Take what the last window brought, and choose for the next one.

        Args:
            rate: work done a second: bytes, and REQUEST_WORTH for each request.
        """
        if self._settled:
            if rate < _COLLAPSE * self._best:
                self._best, self._settled = 0.0, False
            return
        if rate >= _WORTH_IT * self._best:
            self._best, self._before = rate, self.count
            self.count = min(self.count + self.count // 2, MOST_CONNECTIONS)
        else:
            self.count = self._before
        self._settled = self.count == self._before
