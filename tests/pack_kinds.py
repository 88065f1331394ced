"""Classes for pickles that a process of its own must be able to import."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np

from loader.bundle.pack.memory import Array

_count = itertools.count()


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


class Restless:
    """Pickles differently each time."""

    def __getstate__(self) -> dict[str, object]:
        return {"count": next(_count), "weights": np.zeros(3_000_000)}


class Locked:
    """Can be loaded, and not pickled again."""

    def __init__(self) -> None:
        self.loaded = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.loaded = True

    def __getstate__(self) -> dict[str, Any]:
        if self.loaded:
            raise TypeError("cannot be pickled twice")
        return {"some": "state"}


class Windows:
    """Keeps views of one matrix, which its pickle does not tell: they are made again when it is loaded."""

    def __init__(self, matrix: Array) -> None:
        self.matrix = matrix
        self.rows = list(matrix)
        self.columns = [matrix[:, column] for column in range(matrix.shape[1])]
        self.backwards = matrix[::-1, ::2]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["matrix"])  # type: ignore[misc]


class Node:
    """Knows others of its kind."""

    def __init__(self) -> None:
        self.friends: set[Node] = set()


class Blob(bytearray):
    """Gives its bytes out of band, as Python's documentation shows it."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Blob.again, (pickle.PickleBuffer(self),)

    @classmethod
    def again(cls, data: Any) -> Blob:
        with memoryview(data) as view:
            return cls(view.obj)


class Word(str):
    """A string of another type."""

    __slots__ = ()


class Weights(np.ndarray[Any, np.dtype[Any]]):
    """An array of another type."""


class Vocabulary(dict[str, int]):
    """A dict of another type, with an attribute."""

    unknown = "?"
