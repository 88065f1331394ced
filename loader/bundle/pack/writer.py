"""Writing a pack; layout.py has its bytes."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from loader.bundle.manifest import CHUNK_SIZE
from loader.bundle.pack import layout
from loader.bundle.pack.arrangement import Arrangement, owner_of
from loader.bundle.pack.layout import FILE, ROW, Blob, Column, Form
from loader.bundle.pack.memory import Array, address_of, bytes_at
from loader.bundle.pack.survey import ArrayColumn, NumberColumn, StringColumn, Survey

_POOL_BLOCK = 4 * 1024 * 1024  # characters that are decoded at a time


def write_pack(value: object, path: Path) -> None:
    """Write the pack of an object. This runs the code by which its parts pickle themselves.

    Memory is needed for numbering the object's parts, not for copies of its arrays.

    Args:
        value: the object.
        path: the file, which must not exist; it is removed again where this fails.

    Raises:
        OSError: the file cannot be written.
        Exception: whatever the object's own code raises when it is pickled.
    """
    with path.open("xb", buffering=1024 * 1024) as file:
        try:
            with tempfile.TemporaryFile(dir=path.parent) as skeleton:
                survey = Survey(skeleton)
                survey.dump(value)
                _Writer(file, survey).write(skeleton)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


class _Writer:
    """Writes what a survey found, in the order of the file."""

    def __init__(self, file: BinaryIO, survey: Survey) -> None:
        self._file, self._survey, self._arranged = file, survey, Arrangement(survey)
        self._end = 0
        self._forms: dict[Form, int] = {}

    def write(self, skeleton: BinaryIO) -> None:
        """Write the whole file.

        Args:
            skeleton: what the survey's pickler wrote.
        """
        survey, arranged = self._survey, self._arranged
        self._write(layout.HEAD.pack(layout.MAGIC, layout.VERSION))
        offsets = {number: self._rows(number) for number in arranged.shapes}
        table = self._table()
        buffers = [self._buffer(buffer) for buffer in survey.buffers]
        data_end = self._end

        if data_end > CHUNK_SIZE:
            self._align(CHUNK_SIZE)
        pool = [self._blob(block) for block in _pool_blocks(survey.strings)]
        columns = [self._column(number, offsets.get(number)) for number in range(len(survey.columns))]
        arrays = self._blob(table.tobytes())
        dtypes = self._blob(pickle.dumps(arranged.dtypes.all, protocol=5))
        inner = self._align(layout.LINE), skeleton.seek(0, os.SEEK_END)
        skeleton.seek(0)
        shutil.copyfileobj(skeleton, self._file, 1024 * 1024)
        self._end += inner[1]
        containers = [layout.Container(kind, column) for kind, column in survey.containers]
        modules = sorted(survey.modules)
        index = layout.Index(dtypes, pool, list(self._forms), arrays, columns, containers, buffers, modules)
        where = self._blob(msgspec.msgpack.encode(index))
        size = self._align(layout.LINE) + layout.FOOT.size
        self._write(layout.Foot(data_end, inner, where, size).encode())

    def _rows(self, number: int) -> int:
        """Write the arrays of a column behind one another, and return where."""
        values = self._arrays_of(number)
        offset = self._start(sum(array.nbytes for array in values))
        if values[0].nbytes < layout.PAGED_FROM:
            self._file.writelines(array.tobytes() for array in values)
            self._end = self._file.tell()
        else:
            for array in values:
                self._write(bytes_at(address_of(array), address_of(array) + array.nbytes))
        return offset

    def _table(self) -> Array:
        """Write the memory of the arrays that are no rows, and return the table of all."""
        arrays, arranged = self._survey.arrays, self._arranged
        table = np.empty((len(arrays), 3), "<i8")
        homes: dict[int, int] = {}
        for number, array in enumerate(arrays):
            if (row := arranged.rows.get(number)) is not None:
                table[number] = ROW, row[1], row[0]
                continue
            group = arranged.groups[number]
            low, high, several = arranged.extents[group]
            if group not in homes:
                homes[group] = self._start(high - low, low % layout.LINE if several else 0)
                self._write(bytes_at(low, high))
            form = arranged.dtypes.number(array.dtype), array.shape, array.strides, bool(array.flags.writeable)
            owner = owner_of(array, self._survey) if several else None
            offset = address_of(array) + (homes[group] - low if owner is None else -address_of(arrays[owner]))
            table[number] = self._forms.setdefault(form, len(self._forms)), offset, FILE if owner is None else owner
        return table

    def _buffer(self, buffer: pickle.PickleBuffer) -> tuple[int, int, bool]:
        with buffer.raw() as memory:
            offset = self._start(memory.nbytes)
            self._write(memory)
            return offset, memory.nbytes, memory.readonly

    def _column(self, number: int, offset: int | None) -> Column:
        """Describe a column, and write what of it is read at once."""
        column = self._survey.columns[number]
        if isinstance(column, NumberColumn):
            return layout.Numbers(column.values.dtype.str, self._blob(column.values.tobytes()))
        if isinstance(column, StringColumn):
            numbers, start = column.numbers, int(column.numbers[0])
            if not column.holes and np.array_equal(numbers, np.arange(start, start + len(numbers))):
                return layout.Strings(start, len(numbers))
            return layout.Strings(0, len(numbers), self._blob(numbers.tobytes()), len(column.holes))
        values = self._arrays_of(number)
        if offset is None:
            chosen = np.array([self._survey.array_number(array) for array in values], "<i8")
            return layout.Chosen(self._blob(chosen.tobytes()))
        dtype, writeable = self._arranged.dtypes.number(values[0].dtype), bool(values[0].flags.writeable)
        if self._arranged.shapes[number] == "matrix":
            return layout.Matrix(dtype, offset, (len(values), *values[0].shape), writeable)
        ends = np.cumsum([len(array) for array in values], dtype="<i8")
        return layout.Ragged(dtype, offset, self._blob(ends.tobytes()), writeable)

    def _arrays_of(self, number: int) -> Sequence[Array]:
        column = self._survey.columns[number]
        assert isinstance(column, ArrayColumn)
        return column.values

    def _start(self, size: int, residue: int = 0) -> int:
        """Begin an array's memory: on its own page if it is large; `residue` bytes after that."""
        self._align(layout.PAGE if size >= layout.PAGED_FROM else layout.LINE)
        self._write(bytes(residue))
        return self._end

    def _align(self, size: int) -> int:
        """Leave a hole up to a multiple of some bytes, and return where it ends."""
        self._end += -self._end % size
        self._file.seek(self._end)
        return self._end

    def _blob(self, data: bytes) -> Blob:
        offset = self._align(layout.LINE)
        self._write(data)
        return offset, len(data)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._end += len(data)


def _pool_blocks(strings: Sequence[str]) -> Iterator[bytes]:
    """Yield the string pool in blocks that are decoded at a time."""
    start, length = 0, 0
    for end, string in enumerate(strings, 1):
        length += len(string) + 1
        if length >= _POOL_BLOCK or end == len(strings):
            yield "\0".join(strings[start:end]).encode()
            start, length = end, 0
