"""Access files: small objects, such as the users and the signing secret, that a sync brings beside the bundles.

    ROOT/.access/NAME     what the object holds, byte for byte; for its owner alone, replaced whole

They have no version: the last sync's content is what counts, and a server that follows the file takes it over. Their
bytes are in no event and in no error.
"""

from __future__ import annotations

import os
import re
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


def bring_all(files: list[AccessFile], root: Path, report: Report) -> bool:
    """Bring access files to a volume; the failure of one does not keep the next from its turn.

    Returns:
        True if the volume now holds them all, as they are in the store.
    """
    complete = True
    for file in files:
        try:
            _bring(file, root, report)
        except PantryError as error:
            complete = False
            report.event("failed", f"access file {file.name}: {error}", file=file.name)
    return complete


def _bring(file: AccessFile, root: Path, report: Report) -> None:
    source, name = open_object(file.uri)
    stored = patiently(lambda: source.find(name))
    if not 0 < stored.size <= MAX_BYTES:
        raise SourceError(
            f"{file.uri} has {stored.size} bytes, expected 1 to {MAX_BYTES}", hint="Check that it is the right object"
        )
    content = patiently(lambda: read_whole(source, stored))
    path = root / FOLDER / file.name
    with volume_errors(root):
        changed = not path.is_file() or path.read_bytes() != content
        if changed:
            _write(path, content)
    did = f"{human_bytes(len(content))} from {file.uri}" if changed else "on the volume already; nothing changed"
    report.event("synced", f"access file {file.name}: {did}", file=file.name)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
