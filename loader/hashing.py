"""All digests of a file in one pass."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import google_crc32c

from loader.bundle.digest import digest_of


class FileDigests:
    """The running digests of a file that arrives chunk by chunk.

    Attributes:
        chunks: the digest of every chunk so far.
    """

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self._whole, self._crc = hashlib.sha256(), google_crc32c.Checksum()

    def update(self, chunk: bytes) -> None:
        """Take the next chunk."""
        self._whole.update(chunk)
        self._crc.update(chunk)
        self.chunks.append(digest_of(chunk))

    @property
    def digest(self) -> str:
        """The digest of all chunks together."""
        return f"sha256:{self._whole.hexdigest()}"

    @property
    def crc32c(self) -> str:
        """The CRC-32C of all chunks together, big-endian, in base64, as Cloud Storage writes it."""
        return base64.b64encode(self._crc.digest()).decode()


def hash_file(path: Path, chunk_size: int) -> tuple[int, str, tuple[str, ...], str]:
    """Return a file's size in bytes, digest, chunk digests and crc32c."""
    digests, size = FileDigests(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(chunk_size):
            digests.update(chunk)
            size += len(chunk)
    return size, digests.digest, tuple(digests.chunks), digests.crc32c
