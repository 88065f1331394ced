"""The members of a zip archive, read as torch's reader does: by the central directory alone.

zipfile refuses a member whose checksum is wrong, whose local name differs from the directory's, or that is flagged as
encrypted; other readers hand out its bytes, so what is in them counts. Here those are read too, and said afterwards.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO, cast

from loader.bundle.compressed import inflated
from loader.bundle.errors import PickleInvalid

_LOCAL_HEADER = 30  # bytes; the lengths of the name and the extra field that follow are its last two numbers
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_BZIP2: "bz2"}
_DATA = re.compile(r"(.*/)?(data/\d+|\.data/[^/]+|version|byteorder|\.format_version|\.storage_alignment)")


@dataclass(frozen=True)
class Member:
    """One member: its name, compression, and where the directory says it is. Sizes in bytes."""

    name: str
    method: str
    size: int
    offset: int
    crc32: int

    @staticmethod
    def is_data(name: str) -> bool:
        """Tell whether torch.save gives this name to numbers."""
        return name.endswith("/") or _DATA.fullmatch(name) is not None


def members_of(stream: BinaryIO) -> tuple[list[Member], list[str]]:
    """Read the directory of an archive. Return its members, and what is wrong with it."""
    try:
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        return [], [f"its directory is damaged: {error}"]
    members = [
        Member(
            info.orig_filename.partition("\0")[0],
            _METHODS.get(info.compress_type, f"method {info.compress_type}"),
            info.compress_size,
            info.header_offset,
            info.CRC,
        )
        for info in infos
    ]
    return members, []


def open_member(stream: BinaryIO, member: Member) -> BinaryIO:
    """Return a member's inflated bytes as a stream.

    Raises:
        PickleInvalid: it is not where the directory says, or compressed in a way that is not read.
    """
    stream.seek(member.offset)
    header = stream.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        raise PickleInvalid("it is not where the archive's directory says")
    name_length, extra_length = struct.unpack_from("<HH", header, 26)
    raw = cast("BinaryIO", _Slice(stream, member.offset + _LOCAL_HEADER + name_length + extra_length, member.size))
    if member.method not in _METHODS.values():
        raise PickleInvalid(f"it is compressed with {member.method} of zip, which Pantry does not read")
    content = raw if member.method == "stored" else inflated(raw, member.method, "it")
    return cast("BinaryIO", _Summed(content))


def check_member(content: BinaryIO, member: Member) -> list[str]:
    """Tell what is wrong with a member that was read to its end from `open_member`."""
    assert isinstance(content, _Summed)
    return [] if content.crc32 == member.crc32 else ["its checksum is not the one that the archive gives"]


class _Slice(io.RawIOBase):
    """A part of a file."""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._stream, self._position, self._end = stream, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._stream.seek(self._position)
        data = self._stream.read(min(len(buffer), max(0, self._end - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Summed(io.RawIOBase):
    """A stream with the CRC-32 of what has been read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream, self.crc32 = stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.crc32 = zlib.crc32(data, self.crc32)
        return len(data)
