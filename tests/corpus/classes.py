"""Classes of the corpus, importable by name so that they can be pickled."""

from __future__ import annotations

import copy
import enum
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np


@dataclass
class Layer:
    """A model's layer: arrays and a name."""

    name: str
    weights: Any
    bias: Any
    options: dict[str, Any] = field(default_factory=dict)

    def predict(self, values: Any) -> Any:
        return values @ self.weights + self.bias


@dataclass(frozen=True, slots=True)
class Setting:
    """Frozen and slotted: no instance dict to restore."""

    name: str
    values: Any


class Slotted:
    """Slots, with a plain subclass that adds a dict."""

    __slots__ = ("count", "table", "unset")

    def __init__(self, count: int, table: Any) -> None:
        self.count, self.table = count, table


class SlottedWithDict(Slotted):
    """Has both slots and a dict."""

    def __init__(self, count: int, table: Any, extra: str) -> None:
        super().__init__(count, table)
        self.extra = extra


class Point(NamedTuple):
    x: float
    y: float
    label: str = ""


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Rights(enum.IntFlag):
    READ = 4
    WRITE = 2


class Node:
    """A node of a graph that runs in circles."""

    def __init__(self, name: str, weights: Any = None) -> None:
        self.name, self.weights = name, weights
        self.links: list[Node] = []
        self.parent: Node | None = None


class Table(dict[Any, Any]):
    """A dict with an attribute, which its pickle keeps."""

    unit = "none"

    def __missing__(self, key: Any) -> Any:
        return f"no {key}"


class Series(list[Any]):
    """A list with an attribute."""

    unit = "none"


class Named(str):
    """A str with an attribute."""

    __slots__ = ("unit",)
    unit: str


class Tagged(np.ndarray[Any, Any]):
    """An ndarray subclass with an attribute that its own pickling carries along."""

    unit: str | None

    def __new__(cls, values: Any, unit: str | None = None) -> Self:
        tagged = np.asarray(values).view(cls)
        tagged.unit = unit
        return tagged

    def __array_finalize__(self, origin: Any) -> None:
        self.unit = getattr(origin, "unit", None)

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        return *reduced[:2], (reduced[2], self.unit)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.unit = state[1]


class Forgetful(np.ndarray[Any, Any]):
    """An ndarray subclass whose attribute a pickle does not keep."""

    unit = "none"


class WithState:
    """Restores itself: squeezes its table when pickled and spreads it out again when loaded."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __getstate__(self) -> dict[str, Any]:
        return {"half": self.table[::2], "other": self.table[1::2]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.table = np.empty(len(state["half"]) + len(state["other"]), state["half"].dtype)
        self.table[::2], self.table[1::2] = state["half"], state["other"]


class Fresh:
    """Pickles what is made for it alone: strings and arrays that are gone, and their ids taken again, right after."""

    def __init__(self, number: int) -> None:
        self.number = number
        vars(self).update(self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        words = [f"{self.number} {n}" for n in range(1100)]
        return {"number": self.number, "words": words, "rows": [np.full(9, n + self.number) for n in range(20)]}


class Raw:
    """Hands its bytes out of band, as libraries with buffers of their own do."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Raw, (pickle.PickleBuffer(self.data) if protocol >= 5 else bytearray(self.data),)


class Generated(list[Any]):
    """Pickles its items as copies that nobody holds: one is gone when the next is made, often in its place."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Generated, (), None, (copy.deepcopy(item) for item in self)


class ByItems:
    """Is restored by append and item assignment: a reduce value of five parts."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.cells: dict[str, Any] = {}
        self.note = "kept"

    def __reduce__(self) -> tuple[Any, ...]:
        return ByItems, (), {"note": self.note}, iter(self.rows), iter(self.cells.items())

    def append(self, row: Any) -> None:
        self.rows.append(row)

    def extend(self, rows: Iterator[Any]) -> None:
        self.rows.extend(rows)

    def __setitem__(self, key: str, value: Any) -> None:
        self.cells[key] = value


class WithNewArguments:
    """Is made by __new__ with keywords."""

    def __new__(cls, *, size: int) -> Self:
        made = super().__new__(cls)
        made.values = np.arange(size)
        return made

    values: Any

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"size": len(self.values)}


class Scaler:
    """A callable with a method that can be pickled bound."""

    def __init__(self, factors: Any) -> None:
        self.factors = factors

    def __call__(self, values: Any) -> Any:
        return values * self.factors

    def halve(self, values: Any) -> Any:
        return values * self.factors / 2


def scale(values: Any, by: Any, shift: float = 0.0) -> Any:
    return values * by + shift
