"""One file in the making, in a staging directory: chunks land in any order, and end as an asset."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c
import msgspec

from loader.bundle.errors import DigestMismatch
from loader.bundle.manifest import CHUNK_SIZE, Asset, Pin, chunk_range
from loader.hashing import join_crc32c, text_of_crc32c
from loader.sources import StoredObject
from loader.transfer.journal import Landed

FLUSHED_ALONE = 1024 * 1024  # bytes of a file that is worth a flush of its own
FLUSH_EVERY = 64 * 1024 * 1024  # bytes of a file: the disk writes while the network brings more
BLOCK_SIZE = 512 * 1024  # bytes read at once: hashed while the processor's cache still has them


class Wanted(msgspec.Struct, frozen=True):
    """An asset to fetch: the object it is, and what is known of its content beforehand.

    Attributes:
        stored: the object as listed; its generation is what is read.
        asset: from the published manifest; None for a plain prefix, where only the crc32c may be known.
        chunk_size: bytes of a chunk.
        twin: a file on the volume that an older bundle's manifest gives the same digests.
    """

    stored: StoredObject
    asset: Asset | None
    chunk_size: int = CHUNK_SIZE
    twin: Path | None = None

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return -(-self.stored.size // self.chunk_size)

    def range(self, index: int) -> tuple[int, int]:
        """Return start and end of a chunk in bytes."""
        return chunk_range(self.stored.size, index, self.chunk_size)

    def check(self, index: int, landed: Landed, where: str) -> None:
        """Compare a chunk with the manifest, where there is one.

        Raises:
            DigestMismatch: it is another.
        """
        if self.asset is None:
            return
        got, expected = f"sha256:{landed.sha256.hex()}", self.asset.chunk_digest(index)
        if got != expected:
            start, end = self.range(index)
            raise DigestMismatch(
                f"{where} is damaged: bytes {start} to {end} have digest {got}, expected {expected}",
                hint="Publish the model again under a new version",
            )


class StagedFile:
    """One file, written by several threads, and what its chunks hash to.

    Args:
        number: of the file in the order of the wanted assets.
        wanted: what it must become.
        staging: the directory; nothing is touched before `prepare`.
    """

    def __init__(self, number: int, wanted: Wanted, staging: Path) -> None:
        self.number, self.wanted, self.path = number, wanted, staging / wanted.stored.name
        self._landed: list[Landed | None] = [None] * wanted.chunks
        self._missing = wanted.chunks
        self._unflushed = 0
        self._lock = threading.Lock()
        self._prepared = self._finishing = False
        self._whole, self._hashed = hashlib.sha256(), 0
        self._hashing = threading.Lock()

    def prepare(self) -> None:
        """Make the file, once; what an earlier run left stays as far as it can be of use."""
        with self._lock:
            if self._prepared:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if self.path.lstat().st_nlink > 1:
                    self.path.unlink()  # linked from another bundle, which must not be written to
            with self.open() as descriptor:
                if os.fstat(descriptor).st_size > self.wanted.stored.size:
                    os.ftruncate(descriptor, self.wanted.stored.size)
            self._prepared = True

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        """Give a descriptor for reading and writing at offsets."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def is_there(self, index: int, claim: Landed | None, descriptor: int) -> bool:
        """Tell whether a chunk that an earlier run claims to have landed is on the disk, and take it if so."""
        if claim is None:
            return False
        start, end = self.wanted.range(index)
        if hash_range(descriptor, start, end) != claim:
            return False
        try:
            self.wanted.check(index, claim, "")
        except DigestMismatch:
            return False
        self._take(index, claim)
        return True

    def land(self, index: int, landed: Landed, descriptor: int) -> None:
        """Take a chunk that has just been written, and is right."""
        self._take(index, landed)
        start, end = self.wanted.range(index)
        with self._lock:
            self._unflushed += end - start
            if is_due := self._unflushed >= FLUSH_EVERY:
                self._unflushed = 0
        if is_due:
            os.fdatasync(descriptor)

    def _take(self, index: int, landed: Landed) -> None:
        with self._lock:
            self._landed[index] = landed
            self._missing -= 1
        if self.wanted.asset is None and self.wanted.chunks > 1:
            self._hash_in_order()

    def is_last(self) -> bool:
        """Tell, to one of those who ask, that all chunks are there."""
        with self._lock:
            last = self._missing == 0 and not self._finishing
            self._finishing = self._finishing or last
        return last

    def link_twin(self, twin: Path) -> bool:
        """Become another name of a file of an older bundle, if that still is what its manifest says; tell whether."""
        assert self.wanted.asset is not None
        try:
            descriptor = os.open(twin, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if os.fstat(descriptor).st_size != self.wanted.stored.size:
                return False
            for index in range(self.wanted.chunks):
                self.wanted.check(index, hash_range(descriptor, *self.wanted.range(index)), str(twin))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            os.link(twin, self.path)
        except (DigestMismatch, OSError):
            return False  # rotten, just pruned, or a volume without links: the source has it
        finally:
            os.close(descriptor)
        return True

    def finish(self, descriptor: int) -> Asset:
        """Return the complete file as an asset; a large one is durable then, small ones are flushed all at once later.

        Raises:
            DigestMismatch: its crc32c is not the listed one, and no chunk is known to be wrong: all are missing again.
        """
        if self.wanted.stored.size >= FLUSHED_ALONE:
            os.fsync(descriptor)
        stored = self.wanted.stored
        landed = [chunk for chunk in self._landed if chunk is not None]
        if stored.crc32c:
            lengths = (end - start for start, end in map(self.wanted.range, range(self.wanted.chunks)))
            got = text_of_crc32c(join_crc32c(zip((chunk.crc32c for chunk in landed), lengths, strict=True)))
            if got != stored.crc32c:
                self._forget()
                raise DigestMismatch(
                    f"{stored.name} is damaged: expected crc32c {stored.crc32c}, got {got}",
                    hint="Run the sync again; if it stays so, upload the file again",
                )
        if self.wanted.asset is not None:
            return self.wanted.asset
        chunks = tuple(f"sha256:{chunk.sha256.hex()}" for chunk in landed)
        if len(chunks) > 1:
            self._hash_in_order(wait=True)
        return Asset(
            path=stored.name,
            size=stored.size,
            digest=chunks[0] if len(chunks) == 1 else f"sha256:{self._whole.hexdigest()}",
            chunks=chunks if len(chunks) > 1 else (),
            pin=Pin(stored.generation, stored.crc32c),
        )

    def _forget(self) -> None:
        self._landed = [None] * self.wanted.chunks
        self._missing = self.wanted.chunks
        self._whole, self._hashed = hashlib.sha256(), 0

    def _hash_in_order(self, *, wait: bool = False) -> None:
        """Hash the whole file as far as it has landed without a gap: from the page cache, where it still is hot."""
        if not self._hashing.acquire(blocking=wait):
            return  # another thread is at it, and comes by here; the last one waits
        try:
            with self.open() as descriptor:
                while self._hashed < len(self._landed) and self._landed[self._hashed] is not None:
                    for block in read_range(descriptor, *self.wanted.range(self._hashed)):
                        self._whole.update(block)
                    self._hashed += 1
        finally:
            self._hashing.release()


def read_range(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes [start, end) of a file block by block, fewer where it ends before."""
    while start < end and (block := os.pread(descriptor, min(BLOCK_SIZE, end - start), start)):
        yield block
        start += len(block)


def hash_range(descriptor: int, start: int, end: int) -> Landed:
    """Return what the bytes [start, end) of a file hash to."""
    return hash_blocks(read_range(descriptor, start, end))


def hash_blocks(blocks: Iterator[bytes], take: Callable[[bytes], object] | None = None) -> Landed:
    """Hash blocks in order, handing each one on while it is hot."""
    sha256, crc32c = hashlib.sha256(), 0
    for block in blocks:
        sha256.update(block)
        crc32c = google_crc32c.extend(crc32c, block)
        if take:
            take(block)
    return Landed(sha256.digest(), crc32c)
