"""Loading a pack; layout.py has its bytes."""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from loader.bundle.errors import DigestMismatch, PickleInvalid
from loader.bundle.pack import layout
from loader.bundle.pack.layout import Blob, Foot, Index
from loader.bundle.pack.memory import Array
from loader.bundle.pickles import find_class, unpickling

# A private mapping that can be written counts as memory to come, and one larger than the machine would be refused.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python's mmap does not name


def load_pack(stream: BinaryIO, path: Path, where: str) -> object:
    """Load the object of a pack. This runs the code of the pickle that is in it.

    What is code comes from the verified stream. The memory of arrays is mapped from the file, copy on write, and
    nothing of it is read now; the mapping lives as long as an array of it. The garbage collector is off meanwhile.

    Args:
        stream: a seekable verified stream over the file.
        path: the same file, for mapping.
        where: what to call the pickle in an error.

    Raises:
        PickleInvalid: it needs a module that this image lacks, or its own code failed.
        DigestMismatch: a chunk of the stream is not what the record says, or the file has changed its size.
    """
    with unpickling(where):
        foot, index = read_index(stream, path)
        tables = _Tables(stream, index, _map(path, foot))
        buffers = [tables.buffer(*buffer) for buffer in index.buffers]
        stream.seek(foot.skeleton[0])
        return _Unpickler(stream, tables, buffers).load()


def read_index(stream: BinaryIO, path: Path) -> tuple[Foot, Index]:
    """Return where everything is in a pack.

    Args:
        stream: a seekable verified stream over the file.
        path: what to call it in an error.

    Raises:
        PickleInvalid: it is no pack, or one of another version.
        DigestMismatch: as `load_pack`.
    """
    stream.seek(-layout.FOOT.size, os.SEEK_END)
    foot = Foot.decode(stream.read(layout.FOOT.size))
    if foot is None:
        raise PickleInvalid(f"{path} is no pack that this Pantry reads", hint="Remove the folder .pack and pack again")
    return foot, msgspec.msgpack.decode(_read(stream, foot.index), type=Index)


_Form = tuple[int, tuple[int, ...], tuple[int, ...] | None, bool]  # strides of None: C order


class _Unpickler(pickle.Unpickler):
    """Reads the skeleton, and takes from the tables what it refers to."""

    def __init__(self, stream: BinaryIO, tables: _Tables, buffers: list[memoryview]) -> None:
        super().__init__(stream, buffers=buffers)
        self._by_table = (tables.containers, tables.strings, tables.arrays)
        self._tables = tables

    def persistent_load(self, persistent: Any, /) -> object:
        holes: tuple[str, ...] = ()
        if type(persistent) is tuple:
            persistent, holes = persistent
        number, table = persistent >> layout.TABLE_BITS, persistent & (1 << layout.TABLE_BITS) - 1
        found = self._by_table[table][number]
        return self._tables.make_container(number, holes) if found is None else found

    def find_class(self, module: str, name: str, /) -> object:
        return find_class(super().find_class, module, name)


class _Tables:
    """What persistent ids number.

    Attributes:
        containers: None for those that the skeleton has not asked for yet.
        strings: the pool.
        arrays: those that the skeleton or a column has one by one.
    """

    def __init__(self, stream: BinaryIO, index: Index, mapping: mmap.mmap) -> None:
        self._stream, self._index, self._mapping = stream, index, mapping
        self.containers: list[object] = [None] * len(index.containers)
        self.strings: list[str] = []
        for blob in index.pool:
            self.strings += _read(stream, blob).decode().split("\0")
        self._dtypes: list[np.dtype[Any]] = pickle.loads(_read(stream, index.dtypes))
        self._columns = [self._column(column) for column in index.columns]
        self.arrays = self._table()
        for number, column in enumerate(index.columns):
            if isinstance(column, layout.Chosen):
                self._columns[number] = [self.arrays[each] for each in self._integers(column.numbers)]

    def make_container(self, number: int, holes: tuple[str, ...]) -> object:
        """Make a container of its columns, once, with what the skeleton had told before put into the holes."""
        container, left = self._index.containers[number], iter(holes)
        keys = self._fill(container.column, left)
        made: object
        if container.kind == "list":
            made = keys
        elif container.kind == "tuple":
            made = tuple(keys)
        else:
            kind = OrderedDict if container.kind == "OrderedDict" else dict
            made = kind(zip(keys, self._fill(container.column + 1, left), strict=True))
        self.containers[number] = made
        return made

    def buffer(self, offset: int, length: int, readonly: bool) -> memoryview:
        """Return memory of the mapping."""
        memory = np.ndarray(length, np.uint8, self._mapping, offset).data  # a slice's .obj would be the whole mapping
        return memory.toreadonly() if readonly else memory

    def _fill(self, number: int, holes: Iterator[str]) -> list[Any]:
        column, values = self._index.columns[number], self._columns[number]
        if isinstance(column, layout.Strings) and column.holes:
            for row, value in enumerate(values):
                if value is None:
                    values[row] = next(holes)
        return values

    def _column(self, column: layout.Column) -> list[Any]:
        if isinstance(column, layout.Strings):
            if column.numbers is None:
                return self.strings[column.start : column.start + column.count]
            return [None if each < 0 else self.strings[each] for each in self._integers(column.numbers)]
        if isinstance(column, layout.Numbers):
            values: list[Any] = np.frombuffer(_read(self._stream, column.data), column.dtype).tolist()
            return values
        if isinstance(column, layout.Matrix):
            return list(self._array((column.dtype, column.shape, None, column.writeable), self._mapping, column.offset))
        if isinstance(column, layout.Ragged):
            ends = self._integers(column.ends)
            flat = self._array((column.dtype, (ends[-1],), None, column.writeable), self._mapping, column.offset)
            return [flat[start:end] for start, end in itertools.pairwise([0, *ends])]
        return []  # arrays of the table, which is made after the columns

    def _table(self) -> list[Array]:
        forms, views = self._index.forms, []
        arrays: list[Any] = []
        for form, offset, owner in (
            np.frombuffer(_read(self._stream, self._index.arrays), "<i8").reshape(-1, 3).tolist()
        ):
            if form == layout.ROW:
                arrays.append(self._columns[owner][offset])
            elif owner == layout.FILE:
                arrays.append(self._array(forms[form], self._mapping, offset))
            else:
                views.append((len(arrays), form, offset, owner))
                arrays.append(None)
        for number, form, offset, owner in views:
            arrays[number] = self._array(forms[form], arrays[owner], offset)
        return arrays

    def _array(self, form: _Form, memory: mmap.mmap | Array, offset: int) -> Array:
        dtype, shape, strides, writeable = form
        array: Array = np.ndarray(shape, self._dtypes[dtype], memory, offset, strides)
        if not writeable:
            array.flags.writeable = False
        return array

    def _integers(self, blob: Blob) -> list[int]:
        numbers: list[int] = np.frombuffer(_read(self._stream, blob), "<i8").tolist()
        return numbers


def _read(stream: BinaryIO, blob: Blob) -> bytes:
    offset, length = blob
    stream.seek(offset)
    return stream.read(length)


def _map(path: Path, foot: Foot) -> mmap.mmap:
    """Map the data of a pack: private, so that writing to an array changes neither the file nor other processes."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise DigestMismatch(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    try:
        if (size := os.fstat(file).st_size) != foot.size:
            raise DigestMismatch(f"{path}: expected {foot.size} bytes, got {size}", hint=_HINT)
        return mmap.mmap(
            file, foot.data_end, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    finally:
        os.close(file)


_HINT = "Pack again, or sync the bundle again"
