"""Compressed streams: told by their content, inflated whole, and refused where a byte is wrong, missing or too many."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import zlib
from collections.abc import Callable
from typing import BinaryIO

import pytest

from loader.bundle.compressed import HEAD_BYTES, compression_of, open_decompressed
from loader.bundle.errors import PickleInvalid

CONTENT = os.urandom(300_000) + bytes(3_000_000)
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}
every = pytest.mark.parametrize("name", COMPRESSORS)


def opened(data: bytes) -> BinaryIO:
    return open_decompressed(io.BytesIO(data), "model.pkl")


@every
def test_content(name: str) -> None:
    """What was compressed comes back, in small reads and in one large one, and once more after seeking to the start."""
    data = COMPRESSORS[name](CONTENT)
    assert compression_of(data[:HEAD_BYTES]) == name
    stream = opened(data)
    assert b"".join(iter(lambda: stream.read(99_999), b"")) == CONTENT
    assert stream.tell() == len(CONTENT)
    stream.seek(0)
    assert stream.read() == CONTENT


@pytest.mark.parametrize("level", range(10))
def test_zlib_of_every_level(level: int) -> None:
    """The second byte of zlib data differs with the level; each is known."""
    assert opened(zlib.compress(CONTENT, level)).read() == CONTENT


@every
def test_empty(name: str) -> None:
    """Nothing, compressed, is nothing."""
    assert opened(COMPRESSORS[name](b"")).read() == b""


@pytest.mark.parametrize("name", ["gzip", "bz2", "xz"])
def test_members(name: str) -> None:
    """Members one after another, as parallel compressors write them, are one content, wherever a piece is cut."""
    compress = COMPRESSORS[name]
    for first in (b"", b"short", os.urandom(65_536 - 300), os.urandom(65_536 - 20)):
        assert opened(compress(first) + compress(b"") + compress(CONTENT)).read() == first + CONTENT


@every
@pytest.mark.parametrize("more", [b"\0", b"\n", b"more than a head of other bytes"])
def test_bytes_after_the_end(name: str, more: bytes) -> None:
    """Bytes after the end of the compressed data are refused: no reader would see them, so nobody can know them."""
    with pytest.raises(PickleInvalid, match=rf"model\.pkl has bytes after the end of its {name} data"):
        opened(COMPRESSORS[name](b"content") + more).read()


@pytest.mark.parametrize("name", ["zlib", "lzma"])
def test_second_member(name: str) -> None:
    """Formats that have no members are not read on either."""
    with pytest.raises(PickleInvalid, match="bytes after the end"):
        opened(COMPRESSORS[name](b"one") * 2).read()


@every
def test_truncated(name: str) -> None:
    """Data that ends too early is refused, wherever it ends."""
    data = COMPRESSORS[name](b"content" * 30)
    for length in range(HEAD_BYTES, len(data)):
        with pytest.raises(PickleInvalid, match=rf"model\.pkl: its {name} data (ends too early|is damaged)"):
            opened(data[:length]).read()


@pytest.mark.parametrize("name", ["gzip", "zlib", "bz2", "xz"])
def test_damaged(name: str) -> None:
    """A changed byte is noticed by the format's own checksum."""
    data = bytearray(COMPRESSORS[name](CONTENT))
    data[len(data) // 2] ^= 1
    with pytest.raises(PickleInvalid, match=rf"model\.pkl: its {name} data is damaged: "):
        opened(bytes(data)).read()


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (b"\x04\x22\x4d\x18", "compressed with lz4, which Pantry does not read. Compress it with zlib"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"PK\x03\x04", "zip archive, such as torch.save writes"),
        (b"ZF0x10", "joblib wrote it before version 0.10"),
    ],
)
def test_known_by_name_only(head: bytes, sentence: str) -> None:
    """What is known and not read is refused by its name."""
    with pytest.raises(PickleInvalid, match=rf"model\.pkl cannot be loaded: .*{sentence}"):
        opened(head + bytes(100))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_is_taken_for_compressed(protocol: int) -> None:
    """A pickle that is not compressed is its own stream, at its beginning."""
    values: list[object] = [{}, [], (), "BZh", b"PK", 120, [[]], "ZF", {"a": [1]}, 0.5, None, -1, 1 << 70, "x" * 300]
    for value in values:
        stream = io.BytesIO(pickle.dumps(value, protocol))
        assert open_decompressed(stream, "model.pkl") is stream
        assert stream.tell() == 0


def test_memory_for_a_dictionary() -> None:
    """Where a limit is given, an xz file that wants a larger dictionary in memory is refused."""
    data = lzma.compress(b"content", preset=9)  # asks for 64 MiB
    limited = open_decompressed(io.BytesIO(data), "model.pkl", memory_limit=16 * 1024**2)
    with pytest.raises(PickleInvalid, match="xz data is damaged: Memory usage limit"):
        limited.read()
    assert open_decompressed(io.BytesIO(data), "model.pkl", memory_limit=128 * 1024**2).read() == b"content"


def test_seeks_to_its_beginning_only() -> None:
    """Other places would have to be inflated again from the start, and nobody needs them."""
    with pytest.raises(io.UnsupportedOperation):
        opened(gzip.compress(CONTENT)).seek(2_000_000)
