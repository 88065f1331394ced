"""The rules by which collected arrays become matrices, flat arrays, or memory of their own."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from loader.bundle.pack.memory import Array, group_by_memory, span_of
from loader.bundle.pack.survey import ArrayColumn, Survey


class Dtypes:
    """Numbers dtypes; those that pickle differently, by metadata or alignment for example, are different."""

    def __init__(self) -> None:
        self.all: list[np.dtype[Any]] = []
        self._by_pickle: dict[bytes, int] = {}
        self._by_id: dict[int, int] = {}
        self._held: list[np.dtype[Any]] = []  # an id is an object's own only as long as it lives

    def number(self, dtype: np.dtype[Any]) -> int:
        """Return the number of a dtype."""
        if (number := self._by_id.get(id(dtype))) is None:
            number = self._by_pickle.setdefault(pickle.dumps(dtype, protocol=5), len(self.all))
            if number == len(self.all):
                self.all.append(dtype)
            self._by_id[id(dtype)] = number
            self._held.append(dtype)
        return number


class Arrangement:
    """Where each array of a survey goes. Those that share memory go there together, and stay views of it.

    Attributes:
        dtypes: of all arrays.
        shapes: of columns, by their number, that become one array: a matrix or a flat one.
        rows: column and row of the arrays of the table that are in such a column, by their number.
        groups: of the other arrays of the table: which of them share memory, by their number.
        extents: the first address of a group's memory, the one after its last, and whether several share it.
    """

    def __init__(self, survey: Survey) -> None:
        self.dtypes = Dtypes()
        self.shapes: dict[int, Literal["matrix", "ragged"]] = {}
        self.rows: dict[int, tuple[int, int]] = {}
        self.groups: dict[int, int] = {}
        self.extents: dict[int, tuple[int, int, bool]] = {}

        columns = {n: column.values for n, column in enumerate(survey.columns) if isinstance(column, ArrayColumn)}
        arrays = {id(array): array for array in survey.arrays}
        for values in columns.values():
            arrays.update(zip(map(id, values), values, strict=True))
        spans = dict(zip(arrays, map(span_of, arrays.values()), strict=True))
        numbered = group_by_memory(list(spans.values()))
        shared = (np.bincount(numbered, minlength=len(numbered))[numbered] > 1).tolist() if len(numbered) else []
        groups = dict(zip(arrays, numbered.tolist(), strict=True))
        taken = {key for key, several in zip(arrays, shared, strict=True) if several}
        sharing = frozenset(taken)

        for number, values in columns.items():
            ids = set(map(id, values))
            one = len(ids) == len(values) and taken.isdisjoint(ids) and self._shape_of(values)
            if one:
                self.shapes[number] = one
                taken |= ids
            else:
                for array in values:
                    survey.array_number(array)
        numbers = {id(array): number for number, array in enumerate(survey.arrays)}
        for column in self.shapes:
            for row, array in enumerate(columns[column]):
                if (single := numbers.get(id(array))) is not None:
                    self.rows[single] = (column, row)
        for key, number in numbers.items():
            if number not in self.rows:
                group, (start, end) = groups[key], spans[key]
                low, high, _ = self.extents.get(group, (start, end, False))
                self.groups[number] = group
                self.extents[group] = min(low, start), max(high, end), key in sharing

    def _shape_of(self, values: Sequence[Array]) -> Literal["matrix", "ragged"] | None:
        """Tell whether arrays can be rows of one, or slices of a flat one."""
        if len({self.dtypes.number(array.dtype) for array in values}) > 1:
            return None
        flags = [array.flags for array in values]
        if not all(flag.c_contiguous for flag in flags) or len({flag.writeable for flag in flags}) > 1:
            return None
        if values[0].ndim > 0 and len({array.shape for array in values}) == 1:
            return "matrix"
        return "ragged" if {array.ndim for array in values} == {1} else None


def owner_of(array: Array, survey: Survey) -> int | None:
    """Return the number of the array whose view this one is, where it can be made as one."""
    owner = array.base
    if type(owner) is not np.ndarray or (number := survey.known_array(owner)) is None:
        return None
    if type(owner.base) is np.ndarray and survey.known_array(owner.base) is not None:
        return None
    if not owner.flags.c_contiguous or (array.flags.writeable and not owner.flags.writeable):
        return None
    (start, end), (first, last) = span_of(array), span_of(owner)
    if not first <= start <= end <= last:
        return None
    try:
        _ = owner.data
    except (ValueError, NotImplementedError, BufferError):  # numpy gives no buffer of dates, for one
        return None
    return number
