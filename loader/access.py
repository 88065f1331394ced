"""Access files: small objects, such as the users and the signing secret, that a sync brings beside the bundles.

    ROOT/.access/NAME     what the object holds, byte for byte; for its owner alone, replaced whole
    ROOT/.access/.HEX     a NAME to be; what a killed run left goes when another writes

They have no version: the last sync's content is what counts, and a server that follows the file takes it over. Their
bytes are in no event and in no error.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from pathlib import Path

import msgspec

from loader.bundle.errors import PantryError
from loader.errors import SourceError, UsageError
from loader.report import Report, human_bytes
from loader.retry import patiently
from loader.sources import open_object, read_whole
from loader.staging import sync_directory, volume_errors

FOLDER = ".access"  # no model's name begins with a dot
MAX_BYTES = 1024 * 1024  # what a server reads of such a file
_LEFT_AFTER_SECONDS = 3600.0  # a living run has the file for a moment
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HOW = "Write NAME=URI, such as users=gs://BUCKET/census/users"


class AccessFile(msgspec.Struct, frozen=True):
    """What to bring, and what to call it.

    Attributes:
        name: of the file, without a folder.
        uri: of the object: gs://BUCKET/KEY, s3://BUCKET/KEY, https://HOST/PATH or file:///PATH.
    """

    name: str
    uri: str

    @classmethod
    def parse(cls, text: str) -> AccessFile:
        """Read NAME=URI.

        Raises:
            UsageError: it is of another form.
        """
        name, equals, uri = text.partition("=")
        if not equals or not _NAME.fullmatch(name) or not uri.rpartition("/")[2]:
            raise UsageError(f"--access {text!r} does not say which file is to hold which object", hint=_HOW)
        return cls(name, uri)


def bring_all(files: list[AccessFile], root: Path, report: Report, *, only_plan: bool = False) -> bool:
    """Bring access files to a volume; the failure of one does not keep the next from its turn.

    Args:
        files: to bring.
        root: the volume.
        report: hears of each file.
        only_plan: write nothing, and tell what would be written.

    Returns:
        True if the volume now holds them all, as they are in the store; of a plan, if it would.
    """
    complete = True
    for file in files:
        try:
            content = _fetch(file)
            changed = _differs(file, root, content)
            if changed and not only_plan:
                _write(root, file, content)
        except PantryError as error:
            complete = False
            report.event("failed", f"access file {file.name}: {error}", file=file.name)
        else:
            phase = "planned" if only_plan else "synced"
            did = f"{human_bytes(len(content))} from {file.uri}" if changed else "on the volume already, nothing moved"
            report.event(phase, f"access file {file.name}: {did}", file=file.name)
    return complete


def _fetch(file: AccessFile) -> bytes:
    source, name = open_object(file.uri)
    stored = patiently(lambda: source.find(name))
    if not 0 < stored.size <= MAX_BYTES:
        raise SourceError(
            f"{file.uri} has {stored.size} bytes, expected 1 to {MAX_BYTES}", hint="Check that it is the right object"
        )
    return patiently(lambda: read_whole(source, stored))


def _differs(file: AccessFile, root: Path, content: bytes) -> bool:
    path = root / FOLDER / file.name
    with volume_errors(root):
        return not path.is_file() or path.read_bytes() != content


def _write(root: Path, file: AccessFile, content: bytes) -> None:
    folder = root / FOLDER
    temporary = folder / f".{uuid.uuid4().hex}"
    with volume_errors(root):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(folder)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(folder / file.name)
            sync_directory(folder)
        finally:
            temporary.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed runs left."""
    for left in folder.glob(".*"):
        with contextlib.suppress(FileNotFoundError):  # the run lives, and has given it its name
            if time.time() - left.stat().st_mtime > _LEFT_AFTER_SECONDS:
                left.unlink()
