"""Pickling an object into a skeleton, while what the pack keeps elsewhere is collected."""

from __future__ import annotations

import itertools
import pickle
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any, BinaryIO, Literal

import numpy as np

from loader.bundle.pack.layout import ARRAY, CONTAINER, STRING, TABLE_BITS
from loader.bundle.pack.memory import Array, is_plain

FEWEST_ARRAYS = 16  # in a container that becomes a column; fewer are no slower one by one
FEWEST_VALUES = 1024  # strings and numbers in one: the skeleton's own opcodes are quick for fewer
MOST_HOLES = 512  # in a column of strings; more than that, and the column saves nothing
BUFFER_FROM = 64 * 1024  # bytes: a smaller buffer stays in the skeleton

Kind = Literal["list", "tuple", "dict", "OrderedDict"]
_KINDS: dict[type, Kind] = {list: "list", tuple: "tuple", dict: "dict", OrderedDict: "OrderedDict"}


class ArrayColumn:
    """Arrays that are the values of one container, in its order."""

    def __init__(self, values: Sequence[Array]) -> None:
        self.values = values


class NumberColumn:
    """Python numbers of one type, as an array."""

    def __init__(self, values: Array) -> None:
        self.values = values


class StringColumn:
    """Strings, as numbers in the pool; -1 where the skeleton told the string already."""

    def __init__(self, numbers: Array, holes: tuple[str, ...]) -> None:
        self.numbers, self.holes = numbers, holes


Collected = ArrayColumn | NumberColumn | StringColumn


class Survey(pickle.Pickler):
    """Writes a skeleton. What is met by `persistent_id` is told there by a number and collected here.

    An object is known by its id, so each one must stay alive: those collected are held here, those in the skeleton by
    the pickler's memo.

    Attributes:
        arrays: arrays of the table, by their number.
        strings: the string pool.
        containers: kind and number of the first column of each container.
        columns: of all containers.
        buffers: what objects other than arrays gave out of band.
        modules: where the classes and functions are from.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        super().__init__(file, protocol=5, buffer_callback=_keeper(self.buffers))
        self.arrays: list[Array] = []
        self.strings: list[str] = []
        self.containers: list[tuple[Kind, int]] = []
        self.columns: list[Collected] = []
        self.modules: set[str] = set()
        self._array_ids: dict[int, int] = {}
        self._string_ids: dict[int, int] = {}
        self._container_ids: dict[int, int] = {}
        self._held: list[object] = []
        self._in_skeleton: set[int] = set()  # strings and containers

    def persistent_id(self, value: Any, /) -> object:
        """Return what stands for an object in the skeleton, or None where the object itself does."""
        kind = type(value)
        if kind is str:
            if (number := self._string_ids.get(id(value))) is not None:
                return number << TABLE_BITS | STRING
            self._in_skeleton.add(id(value))
        elif kind is np.ndarray:
            if is_plain(value):
                return self.array_number(value) << TABLE_BITS | ARRAY
        elif kind in _KINDS and len(value) >= FEWEST_ARRAYS:
            return self._container(value, _KINDS[kind])
        return None

    def reducer_override(self, value: Any, /) -> Any:
        """Note where a class or function is from; it is pickled as ever."""
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            self.modules.add(value.__module__ or "builtins")
        return NotImplemented

    def array_number(self, array: Array) -> int:
        """Return the number of an array in the table, which gets it if need be."""
        number = self._array_ids.setdefault(id(array), len(self.arrays))
        if number == len(self.arrays):
            self.arrays.append(array)
        return number

    def known_array(self, array: Array) -> int | None:
        """Return the number of an array if it is in the table."""
        return self._array_ids.get(id(array))

    def _container(self, value: Any, kind: Kind) -> object:
        if (number := self._container_ids.get(id(value))) is not None:
            return number << TABLE_BITS | CONTAINER
        if id(value) in self._in_skeleton:
            return None
        columns = self._columns_of(value, kind)
        if columns is None:
            self._in_skeleton.add(id(value))
            return None
        number = self._container_ids[id(value)] = len(self.containers)
        self._held.append(value)
        self.containers.append((kind, len(self.columns)))
        self.columns += columns
        holes = tuple(hole for column in columns if isinstance(column, StringColumn) for hole in column.holes)
        persistent = number << TABLE_BITS | CONTAINER
        return (persistent, holes) if holes else persistent

    def _columns_of(self, value: Any, kind: Kind) -> list[Collected] | None:
        if kind in ("list", "tuple"):
            return self._collect([value], 0)
        if kind == "OrderedDict" and vars(value):
            return None
        if {type(key) for key in itertools.islice(value, 1)} <= {str, int}:
            return self._collect([list(value), list(value.values())], 1)
        return None

    def _collect(self, lists: list[Sequence[Any]], last: int) -> list[Collected] | None:
        """Make columns of lists, or none at all where one of them cannot be one."""
        kinds = [_type_of(values) for values in lists]
        fewest = FEWEST_ARRAYS if kinds[last] is np.ndarray else FEWEST_VALUES
        if len(lists[last]) < fewest:
            return None
        columns: list[Collected | None] = []
        for values, kind in zip(lists, kinds, strict=True):
            if kind is np.ndarray and all(map(is_plain, values)):
                columns.append(ArrayColumn(values))
            elif kind in (int, float, bool) and (numbers := _as_array(values, kind)) is not None:
                columns.append(NumberColumn(numbers))
            elif kind is str and self._can_be_pooled(values):
                columns.append(None)
            else:
                return None
        return [column or self._pooled(values) for column, values in zip(columns, lists, strict=True)]

    def _can_be_pooled(self, values: Sequence[str]) -> bool:
        """Tell whether strings can be UTF-8 between NULs, and have few holes."""
        holes = filter(self._in_skeleton.__contains__, map(id, values))
        if next(itertools.islice(holes, MOST_HOLES, None), None) is not None:
            return False
        try:
            return b"\0" not in "".join(values).encode()
        except UnicodeEncodeError:  # surrogates
            return False

    def _pooled(self, values: Sequence[str]) -> StringColumn:
        numbers, holes = np.empty(len(values), np.int64), []
        for row, value in enumerate(values):
            if id(value) in self._in_skeleton:
                numbers[row] = -1
                holes.append(value)
            else:
                number = self._string_ids.setdefault(id(value), len(self.strings))
                if number == len(self.strings):
                    self.strings.append(value)
                numbers[row] = number
        return StringColumn(numbers, tuple(holes))


def _keeper(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    """Return what takes large buffers out of the skeleton. No method: a cycle would keep all that was pickled."""

    def stays_inside(buffer: pickle.PickleBuffer) -> bool:
        with memoryview(buffer) as view:
            if view.nbytes < BUFFER_FROM or not view.contiguous:
                return True
        buffers.append(buffer)
        return False

    return stays_inside


def _type_of(values: Collection[object]) -> type | None:
    """Return the one exact type of all values, or None."""
    kinds = set(map(type, values))
    return kinds.pop() if len(kinds) == 1 else None


def _as_array(values: Sequence[Any], kind: type) -> Array | None:
    """Return numbers as the smallest array that gives them back, or None where they do not fit in 64 bits."""
    if kind is not int:
        return np.array(values, kind)
    try:
        numbers = np.array(values, np.int64)
    except OverflowError:
        return None
    low, high = int(numbers.min()), int(numbers.max())
    smallest = np.min_scalar_type(high if low >= 0 else min(low, -1 - high))
    return numbers.astype(smallest, copy=False)
