"""A stream seen a piece at a time, so that a pickle of any size is walked in constant memory."""

from __future__ import annotations

import os
from typing import BinaryIO

PIECE = 256 * 1024
MARGIN = 512  # bytes that can be read at any opcode without asking whether they are there
_LONGEST_LINE = 1024


class NotFollowed(Exception):
    """Why the walk over a pickle ends before its STOP.

    Attributes:
        offset: of the opcode that could not be followed; None until that is known.
    """

    offset: int | None = None


class EndsEarly(NotFollowed):
    """The stream ends where more should follow."""


class Budget:
    """How many inflated bytes one file may still come to. It bounds the time that a small hostile file can take."""

    def __init__(self, count: int) -> None:
        self.count, self.left = count, count

    def spend(self, count: int) -> None:
        """Count bytes that were inflated.

        Raises:
            NotFollowed: there were too many.
        """
        self.left -= count
        if self.left < 0:
            raise NotFollowed(f"it inflates to more than {self.count} bytes, out of proportion to its size")


class Window:
    """A forward-only view of a stream.

    Attributes:
        data: the bytes at hand; at the stream's end followed by zeros, so that no reader of short arguments runs out.
        limit: an opcode before this index has `MARGIN` bytes at hand, zeros at the stream's end included.
        start: offset in the stream of data[0].
        pos: where the next reader begins; readers keep it in a variable of their own meanwhile.
    """

    def __init__(self, stream: BinaryIO, size: int | None = None, budget: Budget | None = None) -> None:
        """Begin at the stream's position, which counts as 0.

        Args:
            stream: what to read.
            size: its bytes, where it can seek; what is skipped is then not read.
            budget: charged for every byte read, where the bytes are inflated ones.
        """
        self._stream, self._size, self._budget = stream, size, budget
        self.data, self.limit, self.start, self.pos = b"", 0, 0, 0
        self._ended = False

    def more(self, pos: int) -> int:
        """Bring in the bytes that follow those before `pos`, and return the new index of the byte at `pos`.

        Raises:
            NotFollowed: there are none, or an argument reached beyond the end.
        """
        if self._ended and pos >= self.limit:
            problem = EndsEarly("it ends before its STOP" if pos == self.limit else "it ends within an argument")
            problem.offset = self.start + self.limit
            raise problem
        rest = self.data[pos : self.limit] if self._ended else self.data[pos:]
        self.start += pos
        while len(rest) <= MARGIN and not self._ended:
            rest += self._read(PIECE)
        self.limit = len(rest) if self._ended else len(rest) - MARGIN
        self.data = rest + bytes(MARGIN) if self._ended else rest
        return 0 if self.limit else self.more(0)

    def skip(self, pos: int, count: int) -> int:
        """Pass over `count` bytes, and return the new index.

        Raises:
            NotFollowed: there are not as many.
        """
        at_hand = (self.limit if self._ended else len(self.data)) - pos
        if count <= at_hand:
            return pos + count
        wanted, offset = count - at_hand, self.start + pos
        self.start, self.data, self.limit = offset + count, b"", 0
        if self._size is not None:
            missing = offset + count - self._size
            if missing <= 0:
                self._stream.seek(wanted, os.SEEK_CUR)
                return 0
            wanted = missing
        else:
            while wanted and not self._ended:
                wanted -= len(self._read(min(wanted, PIECE)))
            if not wanted:
                return 0
        self.start, self._ended = offset + count - wanted, True
        raise EndsEarly(f"{count} bytes should follow at byte {offset}, and {count - wanted} do")

    def line(self, pos: int) -> tuple[bytes | None, int]:
        """Return the bytes up to the next line end, None where they are too many to be a name; and the new index.

        Raises:
            NotFollowed: there is no line end.
        """
        pieces: list[bytes] = []
        long = False
        while (end := self.data.find(b"\n", pos)) < 0:
            if self._ended:
                raise EndsEarly("it ends within a line")
            long = long or sum(map(len, pieces)) > _LONGEST_LINE
            pieces = [] if long else [*pieces, self.data[pos:]]
            pos = self.more(len(self.data))
        line = b"".join(pieces) + self.data[pos:end]
        return (None if long or len(line) > _LONGEST_LINE else line), end + 1

    def at_end(self) -> bool:
        """Tell whether no byte is left."""
        if self.pos >= self.limit and not self._ended:
            try:
                self.pos = self.more(self.pos)
            except EndsEarly:
                return True
        return self._ended and self.pos >= self.limit

    def drain(self) -> int:
        """Read up to the end, and return how many bytes were left."""
        left = max(0, (self.limit if self._ended else len(self.data)) - self.pos)
        self.start += self.pos + left
        if not self._ended and self._size is not None:
            left += self._size - self.start
            self.start, self._ended = self._size, True
        while not self._ended:
            count = len(self._read(PIECE))
            left, self.start = left + count, self.start + count
        self.data, self.limit, self.pos = b"", 0, 0
        return left

    def _read(self, count: int) -> bytes:
        piece = self._stream.read(count)
        if not piece:
            self._ended = True
        if self._budget is not None:
            self._budget.spend(len(piece))
        return piece
