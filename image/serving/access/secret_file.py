"""Files of secrets, one a line, that are replaced while the server runs."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from serving.errors import AccessNotReady, SettingsInvalid
from serving.sight.logs import write_event

LOOK_EVERY_SECONDS = 1.0
MAX_BYTES = 1024 * 1024  # what a Kubernetes Secret can hold

Content = TypeVar("Content")
Lines = Sequence[tuple[int, str]]  # with their numbers; without blank ones and comments


class SecretFile(Generic[Content]):
    """Keeps the last good content of a file.

    Args:
        setting: the variable that names the file, for errors.
        path: of the file.
        parse: makes the content of the lines; raises ValueError, with the number of the line and never its text.
        late: the file may come, or become good, after the start; until then it has no content.

    Attributes:
        awaited: why there is no content yet, or "".

    Raises:
        SettingsInvalid: the file is missing, cannot be read, or does not parse, and may not come late.
    """

    def __init__(self, setting: str, path: str, parse: Callable[[Lines], Content], *, late: bool = False) -> None:
        if not path:
            raise SettingsInvalid(f"{setting} is not set, expected the path of a file")
        self._setting, self._path, self._parse = setting, Path(path), parse
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._identity = self._identify()
        self._content: Content | None = None
        self.awaited = ""
        try:
            self._content = self._read()
        except SettingsInvalid as error:
            if not late:
                raise
            self.awaited = str(error)

    @property
    def content(self) -> Content:
        """What the file holds, or held when it was last good.

        Raises:
            AccessNotReady: it has never been good.
        """
        self.look()
        if self._content is None:
            raise AccessNotReady("nobody may ask yet: the files that say who may are on their way")
        return self._content

    def look(self) -> None:
        """Take over what the file holds now, where it has changed.

        Once a second at most; while there is no content at every call, so that no worker is behind a supervisor that
        has seen the file and says that the server is ready.
        """
        now = time.monotonic()
        due = self._content is None or now - self._looked >= LOOK_EVERY_SECONDS
        if due and self._lock.acquire(blocking=False):
            try:
                self._looked = now
                self._refresh()
            finally:
                self._lock.release()

    def _refresh(self) -> None:
        identity = self._identify()
        if identity == self._identity:
            return
        self._identity = identity  # before it is read: a file that changes meanwhile is read once more
        try:
            self._content = self._read()
        except SettingsInvalid as error:
            if self.awaited:
                self.awaited = str(error)
            else:
                write_event("secrets-kept", reason=f"{error}; what it held before stays valid")
        else:
            self.awaited = ""
            write_event("secrets-read", setting=self._setting)

    def _identify(self) -> tuple[int, ...] | None:
        try:
            state = self._path.stat()
        except OSError:
            return None
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns

    def _read(self) -> Content:
        where = f"{self._setting}: {self._path}"
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                raise SettingsInvalid(f"{where} is no regular file")
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise SettingsInvalid(f"{where} cannot be read: {error.strerror}") from error
        if len(data) > MAX_BYTES:
            raise SettingsInvalid(f"{where} has more than {MAX_BYTES} bytes")
        try:
            return self._parse(lines_of(data))
        except ValueError as error:
            raise SettingsInvalid(f"{where}: {error}") from None  # the cause may hold what the file holds


def lines_of(data: bytes) -> Lines:
    """Split a file into stripped lines with their numbers, without blank ones and those that begin with #.

    Raises:
        ValueError: there is none left, or the file is not UTF-8.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    stripped = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    lines = [(number, line) for number, line in stripped if line and not line.startswith("#")]
    if not lines:
        raise ValueError("it is empty, expected at least one line that is no # comment")
    return lines


def check_length(number: int, text: str, least: int) -> None:
    """Refuse what is too short to be a secret.

    Raises:
        ValueError: fewer than `least` bytes.
    """
    if (got := len(text.encode())) < least:
        raise ValueError(f"line {number} has {got} bytes, expected at least {least}")
