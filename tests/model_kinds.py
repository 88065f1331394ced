"""Models for tests, importable by name so that they can be pickled."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


class Doubler:
    """Answers every number times `factor`; sleeps first, if told to."""

    def __init__(self, factor: float = 2.0, seconds: float = 0.0) -> None:
        self.factor, self.seconds = factor, seconds

    def predict(self, values: Any) -> Any:
        """Return values * factor."""
        time.sleep(self.seconds)
        return np.asarray(values) * self.factor


class SlowToLoad(Doubler):
    """Takes as long to unpickle as it is told to."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Sleep, then be as before."""
        time.sleep(state["seconds"])
        self.__dict__.update(state, seconds=0.0)


class Picky:
    """Raises a ValueError at whatever it is asked."""

    def predict(self, values: Any) -> Any:
        """Raise."""
        raise ValueError(f"X has {np.asarray(values).shape} features, but Picky expects none")


def add(left: Any, right: Any) -> Any:
    """Return the sum of two arrays."""
    return left + right


def undefined(values: Any) -> Any:
    """Return NaN for everything."""
    return np.full(np.shape(values), np.nan)
