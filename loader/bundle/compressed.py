"""Compressed files: which compression a stream has, told by its first bytes, and the bytes inside.

    gzip   1f 8b                  members one after another
    bz2    "BZh"                  streams one after another
    xz     fd "7zXZ" 00           streams one after another
    lzma   5d 00 00               the older .lzma file with its usual properties; one
    zlib   78 XX                  XX makes the two bytes, as one number, a multiple of 31; one
    lz4    04 22 4d 18            known by name, not read
    zstd   28 b5 2f fd            known by name, not read
    zip    "PK" 03 04             known by name, not read here
    ZF     "ZF"                   what joblib wrote before 0.10; known by name, not read

No pickler writes a pickle that begins with any of them, so the file's name is not asked. Bytes after the end of
the compressed data are refused, where the standard library's readers of bz2 and xz ignore them.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from loader.bundle.errors import PickleInvalid

HEAD_BYTES = 8  # as many first bytes as any format needs
_PIECE = 64 * 1024  # compressed bytes at a time: at deflate's best ratio, 66 MB inflated
_BUFFER = 1024 * 1024

_MAGIC = {
    "gzip": b"\x1f\x8b",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "lzma": b"\x5d\0\0",
    "lz4": b"\x04\x22\x4d\x18",
    "zstd": b"\x28\xb5\x2f\xfd",
    "zip": b"PK\x03\x04",
    "ZF": b"ZF",
}
_MEMBERS = ("gzip", "bz2", "xz")
_REFUSED = {
    "lz4": ("it is compressed with lz4, which Pantry does not read", "Compress it with zlib, gzip, bz2 or xz instead"),
    "zstd": (
        "it is compressed with zstd, which Pantry does not read",
        "Compress it with zlib, gzip, bz2 or xz instead",
    ),
    "zip": ("it is a zip archive, such as torch.save writes", "Name a `predictor` that opens it in model.yaml"),
    "ZF": ("joblib wrote it before version 0.10", "Write it again with joblib.dump of a newer joblib"),
}


def compression_of(head: bytes) -> str | None:
    """Tell a file's compression by its first `HEAD_BYTES` bytes: a name of the table above, or None."""
    for name, magic in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0:
        return "zlib"
    return None


def open_decompressed(stream: BinaryIO, where: str, *, memory_limit: int | None = None) -> BinaryIO:
    """Return the bytes inside a compressed stream as a stream, or the stream itself where it is not compressed.

    What is returned can seek to its beginning only. How much it inflates to is not limited here: a bundle's bytes are
    vouched for by its manifest, and whoever reads other files counts what arrives.

    Args:
        stream: seekable, at its beginning.
        where: what to call it in an error.
        memory_limit: bytes that the dictionary of an xz or lzma file may take; None for any.

    Raises:
        PickleInvalid: a compression that is not read; also, from reads, compressed data that is damaged, ends too
            early, or is followed by other bytes.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    name = compression_of(head)
    if name in _REFUSED:
        problem, hint = _REFUSED[name]
        raise PickleInvalid(f"{where} cannot be loaded: {problem}", hint=hint)
    return stream if name is None else inflated(stream, name, where, memory_limit)


def inflated(stream: BinaryIO, name: str, where: str, memory_limit: int | None = None) -> BinaryIO:
    """Return what inflates a stream of one compression: gzip, zlib, bz2, xz, lzma, or deflate without any header."""
    makers: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "zlib": lambda: zlib.decompressobj(wbits=15),
        "deflate": lambda: zlib.decompressobj(wbits=-15),
        "bz2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory_limit),
        "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=memory_limit),
    }
    return cast("BinaryIO", io.BufferedReader(_Inflater(stream, name, makers[name], where), _BUFFER))


class _Inflater(io.RawIOBase):
    """The bytes inside a compressed stream. The decoders differ a little: see `readinto`."""

    def __init__(self, stream: BinaryIO, name: str, make: Callable[[], Any], where: str) -> None:
        super().__init__()
        self._stream, self._name, self._make, self._where = stream, name, make, where
        self._position, self._input, self._decoder = 0, b"", make()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if (offset, whence) == (0, os.SEEK_SET):
            self._stream.seek(0)
            self._position, self._input, self._decoder = 0, b"", self._make()
        elif (offset, whence) != (0, os.SEEK_CUR):
            raise io.UnsupportedOperation("a compressed stream can seek to its beginning only")
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        data = b""
        while not data:
            if self._decoder.eof and not self._next_member():
                return 0
            # zlib hands back what it has not taken; bz2 and lzma keep it, and tell whether they need more.
            if not self._input and getattr(self._decoder, "needs_input", True):
                self._input = self._stream.read(_PIECE)
                if not self._input:
                    raise PickleInvalid(f"{self._where}: its {self._name} data ends too early", hint=_HINT)
            try:
                data = self._decoder.decompress(self._input, len(view))
            except (zlib.error, lzma.LZMAError, OSError) as error:
                raise PickleInvalid(f"{self._where}: its {self._name} data is damaged: {error}", hint=_HINT) from error
            self._input = getattr(self._decoder, "unconsumed_tail", b"")
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _next_member(self) -> bool:
        """Begin the next member, where one follows; tell whether one does."""
        rest = self._decoder.unused_data
        if len(rest) < HEAD_BYTES:
            rest += self._stream.read(_PIECE)
        if not rest:
            return False
        if self._name not in _MEMBERS or compression_of(rest[:HEAD_BYTES]) != self._name:
            raise PickleInvalid(f"{self._where} has bytes after the end of its {self._name} data", hint=_HINT)
        self._input, self._decoder = rest, self._make()
        return True


_HINT = "Write the file again"
