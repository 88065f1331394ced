"""Where bundles come from: one small interface, one file for each kind of store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import msgspec

from loader.errors import UsageError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


class StoredObject(msgspec.Struct, frozen=True):
    """One object below a source's prefix, as listed.

    Attributes:
        name: relative to the prefix, "/" between parts.
        size: bytes, as stored.
        generation: names this state of the object; another content has another generation.
        crc32c: base64 of the big-endian CRC-32C of the bytes, or "" where the store does not tell.
    """

    name: str
    size: int
    generation: str
    crc32c: str = ""


class Source(Protocol):
    """A prefix of an object store. Its methods may be called from several threads."""

    uri: str

    def list(self) -> list[StoredObject]:
        """List all objects below the prefix, without folder markers.

        Raises:
            ObjectNotFound: the bucket does not exist.
            AccessDenied: it may not be listed.
            SourceUnavailable: it could not be reached.
        """

    def read(self, stored: StoredObject, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of the listed generation of an object, as stored.

        Raises:
            ObjectNotFound: that generation is gone.
            AccessDenied: it may not be read.
            SourceUnavailable: the read broke off.
        """

    def create(self, name: str, content: Path | bytes) -> None:
        """Write an object that must not exist yet.

        Raises:
            Immutable: an object of that name exists.
            AccessDenied: it may not be written.
            SourceUnavailable: the write broke off; nothing is there.
        """


def open_source(uri: str) -> Source:
    """Return the source that a storageUri names. Nothing is asked of the store yet.

    Raises:
        UsageError: the URI is of no kind that Pantry reads.
        AccessDenied: the machine has no identity for this store.
    """
    scheme, _, place = uri.partition("://")
    bucket, _, prefix = place.partition("/")
    if scheme == "gs" and _BUCKET.fullmatch(bucket):
        from loader.sources.gcs import GcsSource  # imported here: a second of imports that file:// does not need

        return GcsSource(bucket, prefix.strip("/"))
    if scheme == "file" and place.startswith("/") and "\0" not in place:
        from loader.sources.directory import DirectorySource

        return DirectorySource(Path(place))
    raise UsageError(
        f"storageUri {uri!r} is of no kind that Pantry reads", hint="Use gs://BUCKET/PREFIX or file:///DIRECTORY"
    )
