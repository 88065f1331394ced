"""Telling by a digest whether two objects are the same: values, types, order, identity and shared memory.

The digest is one of a pickle in which everything has one form. An array is told by its dtype, shape, strides and
content; a set in the order of its elements' digests, as its own order is an accident. The pickle's memo shows which
objects are one. Two objects with one digest, made by any two processes, are thus interchangeable to any code that does
not ask for addresses.

What an object's own code pickles differently each time has no such digest: it is never proved equal. Neither is a set
of objects from which the way leads to that set again, as in Theano's compiled functions: nothing would order them.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from typing import Any, cast

import numpy as np

from loader.bundle.pack.arrangement import Dtypes
from loader.bundle.pack.memory import Array, bytes_at, group_by_memory, is_plain, span_of

_DEEPEST = 5  # sets of objects that hold sets of objects that …
_COPIED_BELOW = 64 * 1024  # bytes: a copy of less is quicker than a view
_SET, _FROZEN, _DTYPE = range(3)  # no strings: they could be one with an object's own


def digest_object(value: object) -> str:
    """Return the digest of an object, as 64 hexadecimal digits. This runs the code by which its parts are pickled.

    Memory is needed for numbering the object's parts, not for copies of its arrays.

    Raises:
        Unprovable: it holds sets that cannot be brought into an order.
        Exception: whatever that code raises.
    """
    return _digest(value, 0)


class Unprovable(Exception):
    """An object that can be compared with no other one."""


def _digest(value: object, depth: int) -> str:
    sink = _Sink()
    pickler = _Canonical(sink, depth)
    pickler.dump(value)
    sink.write(pickler.digest_arrays())
    return sink.hexdigest()


class _Sink(io.RawIOBase):
    """Digests what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._running = hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self._running.update(data)
        return memoryview(data).nbytes

    def hexdigest(self) -> str:
        return self._running.hexdigest()


class _Canonical(pickle.Pickler):
    """Pickles so that equal objects give equal bytes. Arrays are a number there, and digested beside it."""

    def __init__(self, sink: _Sink, depth: int) -> None:
        super().__init__(cast("Any", sink), protocol=5)
        self._depth = depth
        self._numbers: dict[int, int] = {}
        self._held: list[object] = []  # an id is an object's own only as long as it lives
        self._dtypes = Dtypes()
        self._spans: list[tuple[int, int]] = []
        self._arrays = hashlib.sha256()

    def persistent_id(self, value: Any, /) -> object:
        kind = type(value)
        if kind is np.ndarray:
            if not is_plain(value):
                return None
            number = self._numbers.get(id(value))
            if number is None:
                number = self._number(value)
                self._take(value)
            return number
        if kind is set or kind is frozenset:
            number = self._numbers.get(id(value))
            if number is None:
                return _SET if kind is set else _FROZEN, self._number(value), *self._sorted(value)
            return number
        if isinstance(value, np.dtype):
            return _DTYPE, self._dtypes.number(value)
        return None

    def digest_arrays(self) -> bytes:
        """Return a digest of all arrays and dtypes, and of which arrays share memory and how they lie in it."""
        spans = np.array(self._spans, np.int64).reshape(-1, 2)
        groups = group_by_memory(self._spans)
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        leader = first[member]  # the first array of each one's group
        self._arrays.update(np.stack([leader, spans[:, 0] - spans[leader, 0]], axis=1).astype("<i8").tobytes())
        self._arrays.update(pickle.dumps([pickle.dumps(dtype, protocol=5) for dtype in self._dtypes.all], protocol=5))
        return self._arrays.digest()

    def _sorted(self, elements: set[Any] | frozenset[Any]) -> list[Any]:
        """Return the elements of a set in an order that is the same in any process."""
        if self._depth == _DEEPEST and elements:
            raise Unprovable("it holds sets of objects that hold one another")
        atoms = (str, int, float, bytes)
        return sorted(elements, key=lambda each: repr(each) if type(each) in atoms else _digest(each, self._depth + 1))

    def _number(self, value: object) -> int:
        number = self._numbers[id(value)] = len(self._held)
        self._held.append(value)
        return number

    def _take(self, array: Array) -> None:
        start, end = span_of(array)
        self._spans.append((start, end))
        strides = [step if size > 1 else 0 for size, step in zip(array.shape, array.strides, strict=True)]
        flags = array.flags
        told = self._dtypes.number(array.dtype), array.shape, strides if array.size else None, bool(flags.writeable)
        self._arrays.update(repr(told).encode())
        small = array.nbytes < _COPIED_BELOW or not flags.forc
        self._arrays.update(array.tobytes() if small else bytes_at(start, end))
