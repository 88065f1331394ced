"""Reading an asset so that no byte reaches the caller before its chunk was checked against the manifest."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

from loader.bundle.digest import digest_of
from loader.bundle.errors import DigestMismatch
from loader.bundle.manifest import Asset


def ignore_progress(count: int) -> None:
    """Count for nobody."""


class VerifiedReader(io.RawIOBase):
    """A read-only, seekable stream over one asset of a bundle on disk.

    Each chunk is read into private memory and compared with its digest before any of it is handed out, so a file
    that changes while it is read, or after it was verified, is caught: what was checked is what is used.

    Args:
        path: the file; a symbolic link is refused.
        asset: what the manifest says of it.
        chunk_size: bytes that one chunk digest covers.
        progress: called with the number of bytes newly verified.

    Raises:
        DigestMismatch: the file is missing, has another size, or (while reading) a chunk has other bytes.
    """

    def __init__(
        self, path: Path, asset: Asset, chunk_size: int, progress: Callable[[int], None] = ignore_progress
    ) -> None:
        super().__init__()
        self._path, self._asset, self._chunk_size, self._progress = (path, asset, chunk_size, progress)
        self._position = 0
        self._chunk_index, self._chunk = -1, memoryview(b"")
        self._file: io.FileIO | None = None
        try:
            self._file = io.FileIO(path, opener=_open)
        except OSError as error:
            raise DigestMismatch(
                f"{path}: the manifest lists it, but it cannot be read: {error.strerror}", hint=_HINT
            ) from error
        size = os.fstat(self._file.fileno()).st_size
        if size != asset.size:
            self.close()
            raise DigestMismatch(f"{path}: expected {asset.size} bytes, got {size}", hint=_HINT)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a byte offset; the chunk there is verified when it is read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._asset.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill a buffer from verified chunks, and return how many bytes it got: 0 at the end.

        Raises:
            DigestMismatch: the next chunk's bytes are not the manifest's.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._position < self._asset.size:
            index, offset = divmod(self._position, self._chunk_size)
            if index != self._chunk_index:
                self._load(index)
            piece = self._chunk[offset : offset + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._position += len(piece)
        return done

    def _load(self, index: int) -> None:
        start = index * self._chunk_size
        wanted = min(self._chunk_size, self._asset.size - start)
        data = bytearray(wanted)
        view, filled = memoryview(data), 0
        assert self._file is not None
        self._file.seek(start)
        while filled < wanted and (count := self._file.readinto(view[filled:])):
            filled += count
        expected, got = self._asset.chunk_digest(index), digest_of(view[:filled])
        if got != expected:
            raise DigestMismatch(
                f"{self._path}: chunk {index} (bytes {start} to {start + wanted}): expected {expected}, got {got}",
                hint=_HINT,
            )
        self._chunk_index, self._chunk = index, view
        self._progress(wanted)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        super().close()


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe in the file's place would block


_HINT = "Remove the bundle's directory from the volume and sync it again"
