"""Moving assets from a source into a staging directory: parallel chunks, written in order, verified before they land.

All chunks of all files form one sequence. A few threads read ahead in it; the caller's thread takes the chunks in
order, hashes each file while its bytes are hot, and writes. Memory is bounded by the chunks read ahead, whatever the
size or the number of files.

A staged file begins with a verified prefix of its asset, so a restart continues where the last one ended: it hashes
what is there and fetches the rest. Nothing is cut off below the asset's size: should another run still write to the
same file, both put the same bytes in the same places.
"""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from loader.bundle.digest import digest_of
from loader.bundle.errors import DigestMismatch
from loader.bundle.manifest import CHUNK_SIZE, Asset, Pin, chunk_ranges
from loader.errors import SourceUnavailable
from loader.hashing import FileDigests
from loader.sources import Source, StoredObject

READERS = 8  # parallel reads; one stream of an object store gives a fraction of what the machine can take
READ_AHEAD = 2 * READERS  # chunks in memory at most: 64 MiB
GIVE_UP_AFTER_SECONDS = 300.0  # without one good answer for a chunk
FIRST_PAUSE_SECONDS = 0.5  # before a second try; doubles with each one
DAMAGED_READS = 3  # reads of one chunk with a wrong digest before it is called damaged


class Wanted(msgspec.Struct, frozen=True):
    """An asset to fetch: the object it is, and what is known of its content beforehand.

    Attributes:
        stored: the object as listed; its generation is what is read.
        asset: from the published manifest; None for a plain prefix, where only the crc32c may be known.
        chunk_size: bytes of a chunk.
    """

    stored: StoredObject
    asset: Asset | None
    chunk_size: int = CHUNK_SIZE


def fetch(source: Source, wanted: list[Wanted], staging: Path, progress: Callable[[int, str], None]) -> list[Asset]:
    """Make a staging directory hold the wanted assets, and return them with their digests.

    Args:
        source: where they come from.
        wanted: what to fetch; names must be safe to use as paths.
        staging: an existing directory; verified prefixes of the same content in it are kept.
        progress: called with newly verified bytes and the name of their file.

    Raises:
        DigestMismatch: the bytes are not what the manifest, or the listing's crc32c, says.
        SourceError: the store refused.
        SourceUnavailable: it gave no good answer for GIVE_UP_AFTER_SECONDS.
        OSError: the volume refused.
    """
    assets = []
    stop = threading.Event()
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
        chunks = _read_ahead(readers, source, wanted, staging, progress, stop)
        try:
            for file, data in chunks:
                if data is None:
                    assets.append(file.finish())
                else:
                    file.append(data)
                    progress(len(data), file.wanted.stored.name)
        finally:
            stop.set()
            chunks.close()
            readers.shutdown(cancel_futures=True)
    return assets


def _read_ahead(
    readers: ThreadPoolExecutor,
    source: Source,
    wanted: list[Wanted],
    staging: Path,
    progress: Callable[[int, str], None],
    stop: threading.Event,
) -> Generator[tuple[_StagedFile, bytes | None]]:
    """Yield every missing chunk of every file in order, and None after a file's last, while later ones are read."""
    pending: deque[tuple[_StagedFile, Future[bytes] | None]] = deque()
    begun: deque[_StagedFile] = deque()
    try:
        for item in wanted:
            begun.append(file := _StagedFile(item, staging))
            for index, start, end in file.resume(progress):
                pending.append((file, readers.submit(_read_chunk, source, item, index, start, end, stop)))
                while len(pending) >= READ_AHEAD:
                    yield _next(pending, begun)
            pending.append((file, None))
            while len(pending) >= READ_AHEAD:  # ends count too: they are what bounds the open files
                yield _next(pending, begun)
        while pending:
            yield _next(pending, begun)
    finally:
        for file in begun:
            file.close()


def _next(
    pending: deque[tuple[_StagedFile, Future[bytes] | None]], begun: deque[_StagedFile]
) -> tuple[_StagedFile, bytes | None]:
    file, future = pending.popleft()
    if future is None:
        begun.popleft()  # files end in the order in which they began; finish() closes this one
        return file, None
    return file, future.result()


def _read_chunk(source: Source, wanted: Wanted, index: int, start: int, end: int, stop: threading.Event) -> bytes:
    """Read one chunk until it is right: again after a break, a few times after wrong bytes, until told to stop."""
    give_up, damaged, pause = time.monotonic() + GIVE_UP_AFTER_SECONDS, 0, FIRST_PAUSE_SECONDS
    while True:
        try:
            data = source.read(wanted.stored, start, end)
            if len(data) != end - start:
                raise SourceUnavailable(
                    f"{source.uri}: {wanted.stored.name}: expected {end - start} bytes from {start}, got {len(data)}"
                )
        except SourceUnavailable as error:
            if stop.is_set() or time.monotonic() + pause > give_up:
                raise SourceUnavailable(
                    f"{error.message} (tried for {GIVE_UP_AFTER_SECONDS:.0f} s)",
                    hint="Check the network and the store's status; what has arrived is kept for the next run",
                ) from error
        else:
            if wanted.asset is None or digest_of(data) == (expected := wanted.asset.chunk_digest(index)):
                return data
            damaged += 1
            if damaged == DAMAGED_READS:
                raise DigestMismatch(
                    f"{source.uri}/{wanted.stored.name} is damaged: bytes {start} to {end} have digest "
                    f"{digest_of(data)}, expected {expected}",
                    hint="Publish the model again under a new version",
                )
        stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, hides nothing
        pause = min(2 * pause, 20.0)


class _StagedFile:
    """One file in the making: a verified prefix on disk, and the running digests of it."""

    def __init__(self, wanted: Wanted, staging: Path) -> None:
        self.wanted, self.path = wanted, staging / wanted.stored.name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = io.FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
        self._digests = FileDigests()

    def resume(self, progress: Callable[[int, str], None]) -> list[tuple[int, int, int]]:
        """Hash what is on disk as far as it is right, and return the chunks still missing: they overwrite the rest.

        Without a manifest the chunks there are taken as they are: the crc32c of the whole file decides at the end.
        Where the store tells none, nothing on disk is trusted.
        """
        stored = self.wanted.stored
        ranges = list(chunk_ranges(stored.size, self.wanted.chunk_size))
        if os.fstat(self._file.fileno()).st_size > stored.size:
            self._file.truncate(stored.size)
        for index, start, end in ranges if self.wanted.asset or stored.crc32c else ():
            data = os.pread(self._file.fileno(), end - start, start)
            if len(data) < end - start or not self._is_right(index, data):
                break
            self._digests.update(data)
            progress(len(data), stored.name)
            self._file.seek(end)
        return ranges[len(self._digests.chunks) :]

    def append(self, data: bytes) -> None:
        """Write the next chunk."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._digests.update(data)

    def finish(self) -> Asset:
        """Make the file durable and return it as an asset, if it is what it should be."""
        os.fsync(self._file.fileno())
        self.close()
        try:
            return self._checked()
        except DigestMismatch:
            self.path.unlink()  # a prefix that cannot become right must not be resumed
            raise

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _is_right(self, index: int, data: bytes) -> bool:
        return self.wanted.asset is None or digest_of(data) == self.wanted.asset.chunk_digest(index)

    def _checked(self) -> Asset:
        stored = self.wanted.stored
        crc32c, chunks = self._digests.crc32c, self._digests.chunks
        if stored.crc32c and crc32c != stored.crc32c:
            raise DigestMismatch(
                f"{stored.name} is damaged: expected crc32c {stored.crc32c}, got {crc32c}",
                hint="Run the sync again; if it stays so, upload the file again",
            )
        asset = Asset(
            path=stored.name,
            size=stored.size,
            digest=self._digests.digest,
            chunks=tuple(chunks) if len(chunks) > 1 else (),
        )
        if self.wanted.asset is None:
            return msgspec.structs.replace(asset, pin=Pin(stored.generation, stored.crc32c))
        if asset.digest != self.wanted.asset.digest:
            raise DigestMismatch(
                f"{stored.name} is damaged: expected {self.wanted.asset.digest}, got {asset.digest}",
                hint="Publish the model again under a new version",
            )
        return self.wanted.asset
