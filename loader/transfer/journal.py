"""The journal of a staging directory: which chunks have arrived and were right.

`.journal` is a sequence of records of 44 bytes, little-endian, one appended as each chunk lands:

    offset  bytes  field
         0      4  number of the file, in the order of the wanted assets
         4      4  number of the chunk in the file
         8      4  crc32c of the chunk
        12     32  sha256 of the chunk

A record is a claim, not a proof: a restart hashes the chunk on the disk and takes it only if it is what the record
says, and, where a manifest is known, what the manifest says. So neither a torn record nor a write that never reached
the disk does harm. A staging directory is named after its content, so the numbers mean the same files in every run.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

JOURNAL_NAME = ".journal"
_RECORD = struct.Struct("<III32s")
RECORD_SIZE = _RECORD.size


class Landed(NamedTuple):
    """What a chunk's bytes hash to: the raw sha256, and the crc32c as a number."""

    sha256: bytes
    crc32c: int


class Journal:
    """The claims of earlier runs, and the place for this run's.

    Attributes:
        claims: what earlier runs say they have landed, by the numbers of file and chunk.
    """

    def __init__(self, staging: Path) -> None:
        self._descriptor = os.open(
            staging / JOURNAL_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
        size = os.fstat(self._descriptor).st_size
        if torn := size % _RECORD.size:
            os.ftruncate(self._descriptor, size - torn)
        self.claims: dict[tuple[int, int], Landed] = {}
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            while record := file.read(_RECORD.size):
                number, index, crc32c, sha256 = _RECORD.unpack(record)
                self.claims[number, index] = Landed(sha256, crc32c)

    def append(self, number: int, index: int, landed: Landed) -> None:
        """Record that a chunk is on the disk and right; safe from several threads."""
        os.write(self._descriptor, _RECORD.pack(number, index, landed.crc32c, landed.sha256))

    def close(self) -> None:
        """Close the file; the claims stay in memory."""
        os.close(self._descriptor)
