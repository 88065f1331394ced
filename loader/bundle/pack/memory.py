"""Where arrays lie in this process's memory, and which of them share it.

Addresses tell the truth about views: `.base` may name an array that nobody else knows, or nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def is_plain(array: Array) -> bool:
    """Tell whether an exact ndarray's memory is its whole value: no Python objects, no dtype of another library."""
    dtype = array.dtype
    return not dtype.hasobject and dtype.isbuiltin != 2 and dtype.itemsize > 0 and dtype.kind in "biufcmMSUV"


def address_of(array: Array) -> int:
    """Return the address of an array's first value."""
    address: int = array.__array_interface__["data"][0]
    return address


def span_of(array: Array) -> tuple[int, int]:
    """Return the first address of an array's memory and the one after its last."""
    address = address_of(array)
    if array.flags.forc:
        return address, address + array.nbytes
    steps = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    low, high = sum(step for step in steps if step < 0), sum(step for step in steps if step > 0)
    return address + low, address + (high + array.itemsize if array.size else low)


def bytes_at(start: int, end: int) -> memoryview:
    """Return the memory between two addresses, without a copy. Whatever it belongs to must outlive the view."""
    return np.asarray(_Memory(start, end - start)).data


def group_by_memory(spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Number spans of memory so that two which overlap have one number; an empty span overlaps nothing."""
    edges = np.array(spans, np.int64).reshape(-1, 2)
    groups = np.arange(len(edges), dtype=np.int64)
    order = np.lexsort((-edges[:, 1], edges[:, 0]))
    order = order[edges[order, 0] < edges[order, 1]]
    if len(order):
        starts, ends = edges[order, 0], np.maximum.accumulate(edges[order, 1])
        first = np.concatenate(([True], starts[1:] >= ends[:-1]))
        groups[order] = order[first][np.cumsum(first) - 1]
    return groups


class _Memory:
    """What numpy needs to see memory as bytes."""

    def __init__(self, start: int, size: int) -> None:
        self.__array_interface__ = {"data": (start, True), "shape": (size,), "typestr": "|u1", "version": 3}
