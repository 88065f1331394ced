"""file:// — a directory as an object store, for laptops, tests and mounted shares."""

from __future__ import annotations

import contextlib
import io
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from loader.errors import AccessDenied, Immutable, LoaderError, ObjectNotFound, SourceUnavailable
from loader.sources import Body, StoredObject

_PART = re.compile(r"\.[0-9a-f]{32}\.part")  # a file in the making


class DirectorySource:
    """The files below a directory. A file's generation is its inode, size and time of change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = f"file://{root}"

    def list(self) -> list[StoredObject]:
        """List all regular files below the directory; symbolic links are not followed."""
        with _translated(self.root):
            if not self.root.exists():
                return []
            found = []
            for folder, _, names in os.walk(self.root, onerror=_raise):
                for name in names:
                    path = Path(folder, name)
                    if path.is_file() and not path.is_symlink() and not _PART.fullmatch(name):
                        state = path.stat()
                        found.append(
                            StoredObject(path.relative_to(self.root).as_posix(), state.st_size, _generation(state))
                        )
            return sorted(found, key=lambda stored: stored.name)

    def find(self, name: str) -> StoredObject:
        """Look a regular file up; a symbolic link is followed."""
        path = self.root / name
        with _translated(path):
            if path.is_dir():
                raise ObjectNotFound(f"{path} is a directory, expected a file", hint="Name a file in it")
            state = path.stat()
            return StoredObject(name, state.st_size, _generation(state))

    @contextlib.contextmanager
    def open(self, stored: StoredObject, start: int, end: int) -> Iterator[Body]:
        """Open the bytes [start, end) of a file that has not changed since it was listed."""
        path = self.root / stored.name
        with _translated(path), path.open("rb", buffering=0) as file:
            file.seek(start)
            yield _Range(file, end - start)
            if _generation(os.fstat(file.fileno())) != stored.generation:
                raise ObjectNotFound(f"{path} has changed since it was listed", hint="Run the sync again")

    def create(self, name: str, content: Path | bytes) -> None:
        """Write a file that must not exist yet: whole, or not at all."""
        path = self.root / name
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{uuid.uuid4().hex}.part")
            try:
                temporary.write_bytes(content if isinstance(content, bytes) else b"")
                if isinstance(content, Path):
                    _copy(content, temporary)
                os.link(temporary, path)
            except FileExistsError as error:
                raise Immutable(f"{path} exists already", hint="Publish under a new version") from error
            finally:
                temporary.unlink(missing_ok=True)


class _Range:
    def __init__(self, file: io.FileIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, limit: int, /) -> bytes:
        data = self._file.read(min(limit, self._left))
        self._left -= len(data)
        return data

    def abort(self) -> None:
        """A disk that hangs cannot be told to stop."""


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1024 * 1024):
            writer.write(block)


def _generation(state: os.stat_result) -> str:
    return f"{state.st_ino}-{state.st_size}-{state.st_mtime_ns}"


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except LoaderError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectNotFound(f"{path}: {error.strerror}", hint="Check storageUri and version") from error
    except PermissionError as error:
        raise AccessDenied(f"{path}: {error.strerror}", hint="Check the permissions of the directory") from error
    except OSError as error:
        raise SourceUnavailable(f"{path}: {error.strerror}") from error
