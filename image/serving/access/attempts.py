"""How often a name may be tried."""

from __future__ import annotations

from collections import OrderedDict


class Attempts:
    """Counts attempts by name in windows of time. Not for several threads at once.

    Args:
        limit: attempts of one name in a window.
        seconds: length of a window; it begins with a name's first attempt.
        names: as many are remembered; beyond, the oldest window is forgotten.
    """

    def __init__(self, limit: int, seconds: float, names: int) -> None:
        self._limit, self._seconds, self._names = limit, seconds, names
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # begin and count, oldest first

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, name: str, now: float) -> float:
        """Count an attempt, and return 0; or return the seconds until there may be one, where there were too many."""
        self._forget(now)
        began, count = self._windows.get(name, (now, 0))
        if count >= self._limit:
            return began + self._seconds - now
        self._windows[name] = (began, count + 1)
        return 0.0

    def give_back(self, name: str) -> None:
        """Take an attempt as not made: the password was right."""
        if name in self._windows:
            began, count = self._windows[name]
            self._windows[name] = (began, max(0, count - 1))

    def _forget(self, now: float) -> None:
        while self._windows:
            began, _ = next(iter(self._windows.values()))
            if now - began < self._seconds and len(self._windows) <= self._names:
                return
            self._windows.popitem(last=False)
