"""The connections: threads that take spans of missing chunks, and the one loop that watches them."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from loader.bundle.errors import DigestMismatch
from loader.bundle.manifest import Asset
from loader.errors import SourceUnavailable, WrongAnswer
from loader.retry import Patience
from loader.sources import Body, Source
from loader.transfer.connections import MOST_CONNECTIONS, REQUEST_WORTH, WINDOW_SECONDS, Connections
from loader.transfer.journal import Journal
from loader.transfer.staged import BLOCK_SIZE, StagedFile, Wanted, hash_blocks

LONGEST_SPAN = 64 * 1024 * 1024  # bytes: one request's overhead is nothing beside them
CHUNK_SECONDS = 120.0  # for one chunk, before its connection is given up
DAMAGED_READS = 3  # wrong answers for one chunk before it is called damaged


class _Span(NamedTuple):
    """Chunks [first, end) of a file, which one connection brings."""

    file: StagedFile
    first: int
    end: int


class _Reading(NamedTuple):
    """What a connection is reading, and since when without a whole chunk."""

    body: Body
    since: float


class _Stopped(Exception):
    """Another connection has failed."""


def fetch(source: Source, wanted: list[Wanted], staging: Path, progress: Callable[[int, str], None]) -> list[Asset]:
    """Make a staging directory hold the wanted assets, and return them, in order, with their digests.

    Args:
        source: where they come from.
        wanted: what to fetch; names must be safe to use as paths.
        staging: an existing directory; chunks of the same content that landed in it before are kept.
        progress: called with newly verified bytes and the name of their file; less than 0 where a file, whole at last,
            turned out to be damaged.

    Raises:
        DigestMismatch: the bytes are not what the manifest, or the listing's crc32c, says.
        SourceError: the store refused.
        SourceUnavailable: it gave no good answer for retry.GIVE_UP_AFTER_SECONDS.
        OSError: the volume refused.
    """
    journal = Journal(staging)
    try:
        return _Fetch(source, wanted, staging, journal).run(progress)
    finally:
        journal.close()


class _Fetch:
    def __init__(self, source: Source, wanted: list[Wanted], staging: Path, journal: Journal) -> None:
        self._source, self._wanted, self._staging, self._journal = source, wanted, staging, journal
        self._assets: list[Asset | None] = [None] * len(wanted)
        self._connections = Connections()
        self._work = [0] * MOST_CONNECTIONS  # of each connection: bytes, and REQUEST_WORTH for each request
        self._news: queue.SimpleQueue[tuple[int, str] | int] = queue.SimpleQueue()  # a number: its connection ended
        self._spans, self._taking, self._exhausted = self._all_spans(), threading.Lock(), False
        self._reading: dict[int, _Reading] = {}  # by connection
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def run(self, progress: Callable[[int, str], None]) -> list[Asset]:
        threads: dict[int, threading.Thread] = {}
        window, done = time.monotonic(), 0
        try:
            while True:
                if not self._exhausted and not self._stop.is_set():
                    for number in set(range(self._connections.count)) - threads.keys():
                        threads[number] = thread = threading.Thread(target=self._connection, args=(number,))
                        thread.start()
                if not threads:
                    break
                with contextlib.suppress(queue.Empty):
                    news = self._news.get(timeout=WINDOW_SECONDS)
                    if isinstance(news, int):
                        threads.pop(news).join()
                    else:
                        progress(*news)
                if (now := time.monotonic()) - window >= WINDOW_SECONDS:
                    work = sum(self._work)
                    self._connections.observe((work - done) / (now - window))
                    window, done = now, work
                    self._abort_the_slow(now)
        finally:
            self._stop.set()
            for thread in threads.values():
                thread.join()  # nothing of ours writes to a directory that another run may continue
        if self._failure:
            raise self._failure
        return [asset for asset in self._assets if asset is not None]

    def _abort_the_slow(self, now: float) -> None:
        """Break off what has not brought a chunk for too long: a trickle of bytes never runs into a time-out."""
        for reading in list(self._reading.values()):
            if now - reading.since > CHUNK_SECONDS:
                reading.body.abort()

    def _all_spans(self) -> Iterator[_Span]:
        """Yield all chunks of all files in order: in long spans first, in short ones where little is left to share."""
        left = sum(wanted.stored.size for wanted in self._wanted)
        for number, wanted in enumerate(self._wanted):
            file, first, chunks = StagedFile(number, wanted, self._staging), 0, wanted.chunks
            if wanted.twin or chunks == 0:
                yield _Span(file, 0, chunks)
                left, first = left - wanted.stored.size, chunks
            while first < chunks:
                length = min(left // (2 * MOST_CONNECTIONS), LONGEST_SPAN) // wanted.chunk_size
                span = _Span(file, first, min(first + max(length, 1), chunks))
                yield span
                left -= (span.end - span.first) * wanted.chunk_size
                first = span.end

    def _take(self) -> _Span | None:
        with self._taking:
            span = next(self._spans, None)
            self._exhausted = span is None
        return span

    def _connection(self, number: int) -> None:
        """Bring spans until there are none, or until fewer connections are wanted."""
        try:
            while number < self._connections.count and not self._stop.is_set() and (span := self._take()):
                self._bring(span, number)
        except _Stopped:
            pass
        except BaseException as error:  # the loop that watches raises it
            self._failure = self._failure or error
            self._stop.set()
        finally:
            self._news.put(number)

    def _bring(self, span: _Span, number: int) -> None:
        file = span.file
        if file.wanted.twin and file.link_twin(file.wanted.twin):
            self._assets[file.number] = file.wanted.asset
            self._news.put((file.wanted.stored.size, file.wanted.stored.name))
            return
        file.prepare()
        with file.open() as descriptor:
            missing = [index for index in range(span.first, span.end) if not self._is_there(file, index, descriptor)]
            for first, end in _runs(missing):
                self._read(_Span(file, first, end), descriptor, number)
            if file.is_last():
                self._finish(file, descriptor, number)

    def _is_there(self, file: StagedFile, index: int, descriptor: int) -> bool:
        self._check_stop()
        if not file.is_there(index, self._journal.claims.get((file.number, index)), descriptor):
            return False
        self._tell(file, index)
        return True

    def _read(self, span: _Span, descriptor: int, number: int) -> None:
        """Read a span as one range; after a break, go on from the chunk in which it broke."""
        file, wanted, first = span.file, span.file.wanted, span.first
        patience, damaged = Patience(self._stop), 0
        while first < span.end:
            try:
                self._work[number] += REQUEST_WORTH
                with self._source.open(wanted.stored, wanted.range(first)[0], wanted.range(span.end - 1)[1]) as body:
                    while first < span.end:
                        self._reading[number] = _Reading(body, time.monotonic())
                        self._land(file, first, descriptor, body, number)
                        first, damaged = first + 1, 0
                        patience.renew()
            except SourceUnavailable as error:
                self._check_stop()
                patience.pause(error)
            except (WrongAnswer, DigestMismatch):
                damaged += 1
                if damaged == DAMAGED_READS:
                    raise
            finally:
                self._reading.pop(number, None)

    def _land(self, file: StagedFile, index: int, descriptor: int, body: Body, number: int) -> None:
        """Write a chunk to its place while hashing it, and take it if it is right."""
        start, end = file.wanted.range(index)
        position = start

        def write(block: bytes) -> None:
            nonlocal position
            view = memoryview(block)
            while view:
                written = os.pwrite(descriptor, view, position)
                position, view = position + written, view[written:]

        landed = hash_blocks(self._blocks(body, end - start, number), write)
        where = f"{self._source.uri}/{file.wanted.stored.name}"
        if position != end:
            raise SourceUnavailable(f"{where}: expected {end - start} bytes from {start}, got {position - start}")
        file.wanted.check(index, landed, where)
        self._journal.append(file.number, index, landed)
        file.land(index, landed, descriptor)
        self._tell(file, index)

    def _blocks(self, body: Body, size: int, number: int) -> Iterator[bytes]:
        while size and (block := body.read(min(size, BLOCK_SIZE))):
            self._check_stop()
            self._work[number] += len(block)
            size -= len(block)
            yield block

    def _finish(self, file: StagedFile, descriptor: int, number: int) -> None:
        """Make a complete file an asset; where only the whole can be checked, and is wrong, bring it again."""
        for attempt in range(1, DAMAGED_READS + 1):
            try:
                self._assets[file.number] = file.finish(descriptor)
                return
            except DigestMismatch:
                if attempt == DAMAGED_READS or file.wanted.asset is not None:
                    file.path.unlink()  # what cannot become right must not be continued
                    raise
                self._news.put((-file.wanted.stored.size, file.wanted.stored.name))
                self._read(_Span(file, 0, file.wanted.chunks), descriptor, number)

    def _tell(self, file: StagedFile, index: int) -> None:
        start, end = file.wanted.range(index)
        self._news.put((end - start, file.wanted.stored.name))

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _Stopped


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the unbroken runs of ascending numbers as [first, end)."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1] + 1
