"""The bytes of a pack: one file for one pickle.

All numbers are little-endian. Offsets count bytes from the start of the file.

    head       64 bytes: magic "PANTRYPK", u32 version; the rest zeros
    data       the memory of arrays: from 64 KiB on each starts on a page of 4096 bytes, smaller ones on 64 bytes
    padding    zeros (a hole) up to a multiple of 4 MiB, the chunk of a manifest, where there is that much data
    blobs      what is read at once: strings, numbers, offsets, dtypes
    skeleton   a pickle, protocol 5: the object, with a persistent id in the place of what is elsewhere
    index      MessagePack of `Index`: where everything is
    foot       64 bytes: magic "PANTRYPK", u32 version, u32 zero, u64 each: end of data, offset and length of the
               skeleton, offset and length of the index, size of the file

From the blobs on it is code, or as good as code: it is read through a verified stream only, and begins a chunk of its
own so that little is hashed for it. The data is mapped and not looked at: it was verified when it came to the volume.

A persistent id is an integer, `number * 4 + table`, or for a container with holes (number * 4, values for the holes):

    table 0    containers: lists, tuples and dicts that are made of columns
    table 1    strings that are in the pool because a column holds them
    table 2    arrays

A column is one list of values: the rows of one matrix, slices of one flat array, a choice of table 2, a choice of the
string pool, or numbers. A list or tuple is one column, a dict two. The string pool is UTF-8 in blocks; in a block NUL
separates the strings. A hole is a string of a column that the skeleton had told before: it comes from there, so that
it stays one object.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

MAGIC = b"PANTRYPK"
VERSION = 1
HEAD = struct.Struct("<8sI52x")
FOOT = struct.Struct("<8sII6Q")  # 64 bytes
PAGE, LINE = 4096, 64  # bytes
PAGED_FROM = 64 * 1024  # bytes: from here on an array has its pages to itself

CONTAINER, STRING, ARRAY = 0, 1, 2  # tables of persistent ids
TABLE_BITS = 2
FILE = -1  # the owner of an array that is no view of another one of the table
ROW = -1  # the form of an array that is a row of a column

Blob = tuple[int, int]  # offset, length


class Matrix(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Equal arrays: the rows of one."""

    dtype: int
    offset: int
    shape: tuple[int, ...]
    writeable: bool


class Ragged(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Arrays of one dimension: slices of a flat one. The ends are int64."""

    dtype: int
    offset: int
    ends: Blob
    writeable: bool


class Chosen(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Arrays of the table, by their int64 numbers."""

    numbers: Blob


class Strings(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Strings of the pool: `count` from `start` on, or by their int64 numbers; -1 is a hole."""

    start: int
    count: int
    numbers: Blob | None = None
    holes: int = 0


class Numbers(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Python's int, float or bool, as an array of a numpy dtype such as <f8."""

    dtype: str
    data: Blob


Column = Matrix | Ragged | Chosen | Strings | Numbers


class Container(msgspec.Struct, frozen=True, array_like=True):
    """A list or tuple of one column's values, or a mapping from one column to the next."""

    kind: Literal["list", "tuple", "dict", "OrderedDict"]
    column: int


Form = tuple[int, tuple[int, ...], tuple[int, ...], bool]  # dtype, shape, strides, writeable


class Index(msgspec.Struct, frozen=True, array_like=True):
    """Where everything is.

    Attributes:
        dtypes: a pickle of the list of numpy dtypes that the others number.
        pool: the strings, in blocks.
        forms: how arrays lie in their memory, each once.
        arrays: int64 rows of the array table: form, offset, owner. The offset is one in the file where the owner is
            FILE, else in the memory of that array, whose view this one is. Form ROW: row `offset` of column `owner`.
        buffers: what the skeleton's pickle has out of band, as offset, length and whether it is read-only.
        modules: what the skeleton imports its classes and functions from.
    """

    dtypes: Blob
    pool: list[Blob]
    forms: list[Form]
    arrays: Blob
    columns: list[Column]
    containers: list[Container]
    buffers: list[tuple[int, int, bool]]
    modules: list[str]


class Foot(msgspec.Struct, frozen=True):
    """The last 64 bytes, without what is the same in every pack."""

    data_end: int
    skeleton: Blob
    index: Blob
    size: int

    def encode(self) -> bytes:
        """Return the 64 bytes."""
        return FOOT.pack(MAGIC, VERSION, 0, self.data_end, *self.skeleton, *self.index, self.size)

    @classmethod
    def decode(cls, data: bytes) -> Foot | None:
        """Read the 64 bytes; None if they are no pack's, or one of another version."""
        if len(data) != FOOT.size:
            return None
        magic, version, _, data_end, skeleton, skeleton_length, index, index_length, size = FOOT.unpack(data)
        if (magic, version) != (MAGIC, VERSION):
            return None
        return cls(data_end, (skeleton, skeleton_length), (index, index_length), size)
