"""Object stores with faults that a test chooses, bundles in them, and the `pantry` command as a real process."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from loader.bundle.digest import digest_of
from loader.bundle.manifest import CHUNK_SIZE, MANIFEST_NAME, Asset, Manifest, chunk_range
from loader.bundle.models import ModelSpec
from loader.errors import Immutable, ObjectNotFound, SourceUnavailable
from loader.report import Report, SyncProgress
from loader.sources import Body, Source, StoredObject, named, open_object, read_whole
from loader.transfer.journal import JOURNAL_NAME, RECORD_SIZE

ROOT = Path(__file__).parent.parent


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def asset(path: str, data: bytes, chunk_size: int = CHUNK_SIZE) -> Asset:
    ranges = (chunk_range(len(data), index, chunk_size) for index in range(-(-len(data) // chunk_size)))
    chunks = tuple(digest_of(data[start:end]) for start, end in ranges)
    return Asset(path=path, size=len(data), digest=digest_of(data), chunks=chunks if len(chunks) > 1 else ())


def manifest_of(files: dict[str, bytes], chunk_size: int = CHUNK_SIZE) -> Manifest:
    assets = tuple(asset(path, data, chunk_size) for path, data in sorted(files.items()))
    return Manifest(assets=assets, chunk_size=chunk_size)


def published(files: dict[str, bytes], chunk_size: int = CHUNK_SIZE) -> dict[str, bytes]:
    """The objects of a published bundle: the files and their manifest."""
    return {**files, MANIFEST_NAME: manifest_of(files, chunk_size).encode()}


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def read_files(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by its name."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def assets_on(directory: Path) -> dict[str, bytes]:
    """The files of a bundle on a volume, without its manifest, which must be there."""
    files = read_files(directory)
    Manifest.decode(files.pop(MANIFEST_NAME), str(directory))
    return files


class MemoryBody(io.BytesIO):
    """The bytes of one range."""

    def abort(self) -> None:
        """Nothing in memory hangs."""


class MemorySource:
    """A prefix in memory. Faults are set by object name; reads and bytes are counted.

    Attributes:
        breaks: reads of an object that break off before one comes through.
        list_breaks: listings that break off.
        truncates: reads that return half of what was asked for.
        flips: reads in which the last bit is wrong.
        slow: seconds that every read takes.
        replace_after: reads of an object after which its generation is another.
        vanish_after: reads of an object after which it is gone.
        moved: bytes that were handed out, the manifest's left out.
    """

    def __init__(self, objects: dict[str, bytes], *, with_crc32c: bool = True) -> None:
        self.uri = "memory://bucket/prefix"
        self.objects = dict(objects)
        self.generations = dict.fromkeys(objects, 1)
        self.sizes: dict[str, int] = {}
        self.breaks: Counter[str] = Counter()
        self.truncates: Counter[str] = Counter()
        self.flips: Counter[str] = Counter()
        self.replace_after: dict[str, int] = {}
        self.vanish_after: dict[str, int] = {}
        self.list_breaks = 0
        self.slow = 0.0
        self.reads: Counter[str] = Counter()
        self.lists = self.moved = self.reading = self.most_reading = 0
        self._with_crc32c = with_crc32c
        self._lock = threading.Lock()

    def list(self) -> list[StoredObject]:
        with self._lock:
            self.lists += 1
            if self.list_breaks > 0:
                self.list_breaks -= 1
                raise SourceUnavailable(f"{self.uri}: the listing broke off")
            return [
                StoredObject(
                    name,
                    self.sizes.get(name, len(data)),
                    str(self.generations[name]),
                    crc32c(data) if self._with_crc32c else "",
                )
                for name, data in self.objects.items()
            ]

    def find(self, name: str) -> StoredObject:
        return named(name, self.list(), self.uri)

    @contextlib.contextmanager
    def open(self, stored: StoredObject, start: int, end: int) -> Iterator[Body]:
        yield MemoryBody(self._read(stored, start, end))

    def _read(self, stored: StoredObject, start: int, end: int) -> bytes:
        name = stored.name
        with self._lock:
            self.reads[name] += 1
            self.reading += 1
            self.most_reading = max(self.most_reading, self.reading)
        try:
            if self.slow:
                time.sleep(self.slow)
            with self._lock:
                if self.reads[name] > self.replace_after.get(name, sys.maxsize):
                    self.generations[name] += 1
                    del self.replace_after[name]
                if self.reads[name] > self.vanish_after.get(name, sys.maxsize):
                    self.objects.pop(name, None)
                if name not in self.objects or str(self.generations[name]) != stored.generation:
                    raise ObjectNotFound(f"{self.uri}: {name}: not found, or replaced since it was listed")
                if self._strikes(self.breaks, name):
                    raise SourceUnavailable(f"{self.uri}: {name}: the connection was reset")
                data = self.objects[name][start:end]
                if self._strikes(self.truncates, name):
                    data = data[: len(data) // 2]
                if self._strikes(self.flips, name) and data:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                if name != MANIFEST_NAME:
                    self.moved += len(data)
                return data
        finally:
            with self._lock:
                self.reading -= 1

    def create(self, name: str, content: Path | bytes) -> None:
        with self._lock:
            if name in self.objects:
                raise Immutable(f"{self.uri}: {name} exists already")
            self.objects[name] = content if isinstance(content, bytes) else content.read_bytes()
            self.generations[name] = 1

    def replace(self, name: str, data: bytes) -> None:
        """Another content under the same name, as an overwritten object in a bucket."""
        self.objects[name] = data
        self.generations[name] = self.generations.get(name, 0) + 1

    @staticmethod
    def _strikes(faults: Counter[str], name: str) -> bool:
        if faults[name] <= 0:
            return False
        faults[name] -= 1
        return True


def found_by_name(uri: str, names: Iterable[str]) -> dict[str, bytes]:
    """The content of objects, each looked up by itself, without a listing of what is beside them."""
    content = {}
    for name in names:
        source, short = open_object(f"{uri}/{name}")
        content[name] = read_whole(source, source.find(short))
    return content


def read_range(source: Source, stored: StoredObject, start: int, end: int) -> bytes:
    """The bytes [start, end) of an object."""
    with source.open(stored, start, end) as body:
        return b"".join(iter(lambda: body.read(1000), b""))


def spec(storage_uri: str = "memory://bucket/prefix", version: str = "1", digest: str | None = None) -> ModelSpec:
    return ModelSpec("digits", version, storage_uri, digest)


def progress_of(root: Path, version: str = "1", model: str = "digits") -> SyncProgress:
    """A sync's progress that is written to the volume and told to nobody."""
    return SyncProgress(Report(io.StringIO()), root, model, version)


def write_models(path: Path, *models: dict[str, str]) -> Path:
    """A models.yaml; JSON is YAML."""
    path.write_text(json.dumps({"models": models}))
    return path


def digits(uri: Path | str, version: str = "1", **more: str) -> dict[str, str]:
    """The entry of a models.yaml for the model `digits`."""
    return {
        "name": "digits",
        "version": version,
        "storageUri": uri if isinstance(uri, str) else f"file://{uri}",
        **more,
    }


def start_pantry(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """The command as a process of its own; its output is piped."""
    return subprocess.Popen(
        [sys.executable, "-m", "loader.cli", *map(str, arguments), "--json"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def final(root: Path) -> Path:
    return root / "digits" / "1"


def kill_midway(models: Path, volume: Path, enough: Callable[[], bool]) -> int:
    """Kill a `pantry sync` when enough has moved; return how many chunks its journal has."""
    with start_pantry("sync", "--models", models, "--volume", volume) as process:
        while process.poll() is None and not enough():
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not final(volume).exists()
    (journal,) = (volume / "digits" / ".staging").glob(f"*/{JOURNAL_NAME}")
    landed = journal.stat().st_size // RECORD_SIZE
    assert landed >= 10
    return landed


def pantry(*arguments: str | Path, **environment: str) -> tuple[int, list[dict[str, Any]]]:
    """Runs the command to its end: the exit status, and the events that it told on standard error."""
    with start_pantry(*arguments, **environment) as process:
        output, errors = process.communicate(timeout=60)
    assert output == ""
    assert "Traceback" not in errors
    return process.returncode, [json.loads(line) for line in errors.splitlines()]
