"""What the walk over a pickle knows of the values on its stack and in its memo.

A value is one of: `OPAQUE`, nothing is known; None, an int; bytes, standing for a text and in UTF-8; a tuple of such;
a `Known` global; and what stands for joblib's arrays: a `Dtype`, a `Wrapper`, and the `State` that a wrapper gets.
`LOST` came from a memo entry that was forgotten and may be any of them.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

from loader.inspection.window import NotFollowed

LONGEST_TEXT = 256  # bytes; a longer one is no name
_TUPLE_ITEMS = 64  # the most dimensions that an array has
_REMEMBERED = 100_000  # values in a generation of the memo, those in tuples included
_KEPT = 10_000  # globals and dtypes that it keeps for good
_OUT_OF_ORDER = 1_000_000
_WRAPPER_SPAN = 64 * 1024  # bytes from a wrapper's beginning to its BUILD: too few to make the memo forget
_WRAPPER_KEYS = {b"subclass", b"shape", b"order", b"dtype", b"allow_mmap", b"numpy_array_alignment_bytes"}
_FIXED_SIZE = re.compile(rb"[biufcmM](1|2|4|8|16|32)")
_FLEXIBLE = re.compile(rb"[SUV]\d+")


class _Mark(enum.Enum):
    OPAQUE = enum.auto()
    LOST = enum.auto()


OPAQUE, LOST = _Mark.OPAQUE, _Mark.LOST


class Known(enum.Enum):
    """The globals whose calls are understood."""

    WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
    DTYPE = "numpy.dtype"
    RECONSTRUCTOR = "copyreg._reconstructor"


@dataclass
class Dtype:
    """A numpy dtype. `itemsize` is in bytes, None until it is known; `objects`: its items hold Python objects."""

    code: bytes
    itemsize: int | None = None
    objects: bool = False
    built: bool = False

    def build(self, state: object) -> None:
        """Apply the state that numpy pickles: (version, order, subarray, names, fields, itemsize, alignment, flags)."""
        again, self.built = self.built, True
        self.itemsize, self.objects = None, False
        if again or type(state) is not tuple or len(state) < 8 or state[2] is not None:
            return
        size, flags = state[5], state[7]
        if self.code == b"O8" and size == -1:
            self.objects = True
        elif _FIXED_SIZE.fullmatch(self.code) and size == -1:
            self.itemsize = int(self.code[1:])
        elif _FLEXIBLE.fullmatch(self.code) and type(size) is int and type(flags) is int:
            self.itemsize, self.objects = size, bool(flags & 1)  # 1: NPY_ITEM_HASOBJECT


class State(dict[object, object]):
    """The attributes that a wrapper is about to get."""


@dataclass
class Wrapper:
    """A NumpyArrayWrapper in the making, which began at a byte offset."""

    offset: int
    attributes: State = field(default_factory=State)

    def build(self, state: object, offset: int) -> None:
        """Give it its attributes, at the offset after its BUILD.

        Raises:
            NotFollowed: they are not what joblib writes.
        """
        if type(state) is not State or not _WRAPPER_KEYS.issuperset(state) or offset - self.offset > _WRAPPER_SPAN:
            raise NotFollowed("the attributes of an array that joblib wrote into the stream are not known")
        self.attributes.update(state)

    @property
    def padded(self) -> bool:
        """Whether a byte that counts padding, and the padding, come before the array's bytes."""
        return self.attributes.get(b"numpy_array_alignment_bytes") is not None

    def array_size(self) -> int | None:
        """Return the bytes of its array; None where a pickle stands in their place, since it holds objects.

        Raises:
            NotFollowed: they are not known.
        """
        dtype, shape = self.attributes.get(b"dtype"), self.attributes.get(b"shape")
        if isinstance(dtype, Dtype) and dtype.objects:
            return None
        if not isinstance(dtype, Dtype) or not dtype.itemsize or dtype.itemsize < 0 or type(shape) is not tuple:
            raise NotFollowed("the shape or dtype of an array that joblib wrote into the stream is not known")
        size = dtype.itemsize
        for length in shape:
            if type(length) is not int or length < 0:
                raise NotFollowed("the shape of an array that joblib wrote into the stream is not known")
            size *= length
        if size >= 1 << 63:
            raise NotFollowed("an array that joblib wrote into the stream has an impossible shape")
        return size


def forget(values: list[object]) -> list[object]:
    """Return as many values that take no memory: nothing is known of them any more."""
    return [LOST if isinstance(value, Known | Dtype | Wrapper | State) else OPAQUE for value in values]


def tuple_of(items: list[object]) -> object:
    """Return a tuple's value. Tuples within are opaque: a chain of them would hold memory without bound."""
    if len(items) > _TUPLE_ITEMS:
        return OPAQUE
    return tuple(OPAQUE if type(item) in (tuple, State, Wrapper, Dtype) else item for item in items)


class Memo:
    """A pickle's memo: which entries exist, and the values of those of late that are known.

    Entries are numbered as the unpickler numbers them: MEMOIZE takes the count of entries there are. Values live in two
    generations: when the young one is full it becomes the old one, and what the old one held is forgotten, but for what
    tells the size of an array.

    Attributes:
        young, old: the generations; always the same dicts.
        size: entries, where all were made by MEMOIZE or in that order, which `dense` tells.
    """

    def __init__(self) -> None:
        self.young: dict[int, object] = {}
        self.old: dict[int, object] = {}
        self.dense, self.size = True, 0
        self._first, self._others, self._lost, self._room = 0, set[int](), False, _REMEMBERED

    def memoize(self, value: object) -> None:
        """Make the next entry."""
        self.put(self.size + len(self._others), value)

    def put(self, index: int, value: object) -> None:
        """Make or replace an entry.

        Raises:
            NotFollowed: too many entries are out of order.
        """
        if not self.size and not self._others:
            self._first = index
            self.dense = index == 0
        following = self._first + self.size
        if self._first <= index < following or index in self._others:
            self.young.pop(index, None)
            self.old.pop(index, None)
        elif index == following:
            self.size += 1
        else:
            self._others.add(index)
            self.dense = False
            if len(self._others) > _OUT_OF_ORDER:
                raise NotFollowed("its memo is out of order")
        if value is not OPAQUE:
            self._store(index, value)

    def recall(self, index: int) -> object:
        """Return an entry of the old generation, and keep it for another."""
        value = self.old.get(index, OPAQUE)
        if value is not OPAQUE:
            self._store(index, value)
            return value
        return LOST if self._lost else OPAQUE

    def _store(self, index: int, value: object) -> None:
        self.young[index] = value
        self._room -= 1 + (len(value) if isinstance(value, tuple) else 0)
        if self._room > 0:
            return
        outdated = {i: v for i, v in self.old.items() if isinstance(v, Known | Dtype | Wrapper) and i not in self.young}
        kept = {i: v for i, v in outdated.items() if not isinstance(v, Wrapper)}
        if len(kept) > _KEPT:
            raise NotFollowed("its memo holds too many dtypes")
        self._lost = self._lost or len(kept) < len(outdated)
        self.old.clear()
        self.old.update(self.young)
        self.young.clear()
        self.young.update(kept)
        self._room = _REMEMBERED
