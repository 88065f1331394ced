"""Where bundles come from: one small interface, one file for each kind of store."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

import msgspec

from loader.errors import ObjectNotFound, UsageError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


class StoredObject(msgspec.Struct, frozen=True):
    """One object below a source's prefix, as listed.

    Attributes:
        name: relative to the prefix, "/" between parts.
        size: bytes, as stored.
        generation: names this state of the object; another content has another generation. "" where the store knows
            none: then only the digests of a published manifest tell whether it is the right one.
        crc32c: base64 of the big-endian CRC-32C of the bytes, or "" where the store does not tell.
    """

    name: str
    size: int
    generation: str
    crc32c: str = ""


class Body(Protocol):
    """The bytes of one range, once, in order."""

    def read(self, limit: int, /) -> bytes:
        """Return the next bytes, at most limit: b"" only at the end.

        Raises:
            SourceUnavailable: the connection broke off.
        """

    def abort(self) -> None:
        """Make a read that is under way in another thread fail, where that is possible."""


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

    def find(self, name: str) -> StoredObject:
        """Look one object up.

        Raises:
            ObjectNotFound: the bucket or the object does not exist.
            AccessDenied: it may not be looked up.
            SourceUnavailable: it could not be reached.
        """

    def open(self, stored: StoredObject, start: int, end: int) -> AbstractContextManager[Body]:
        """Open the bytes [start, end) of the listed generation of an object, as stored; start < end.

        Raises:
            ObjectNotFound: that generation is gone.
            AccessDenied: it may not be read.
            WrongAnswer: the store answered with another range or another length.
            SourceUnavailable: it could not be reached.
        """

    def create(self, name: str, content: Path | bytes) -> None:
        """Write an object that must not exist yet.

        Raises:
            Immutable: an object of that name exists.
            AccessDenied: it may not be written.
            UsageError: this kind of store cannot be written to.
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
    if scheme == "s3" and _BUCKET.fullmatch(bucket):
        from loader.sources.s3 import S3Source

        return S3Source(bucket, prefix.strip("/"))
    if scheme in ("https", "http"):
        from loader.sources.https import HttpsSource

        return HttpsSource(uri)
    if scheme == "file" and place.startswith("/") and "\0" not in place:
        from loader.sources.directory import DirectorySource

        return DirectorySource(Path(place))
    raise UsageError(
        f"storageUri {uri!r} is of no kind that Pantry reads",
        hint="Use gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, https://HOST/FOLDER or file:///DIRECTORY",
    )


def open_object(uri: str) -> tuple[Source, str]:
    """Return the source that holds the object which a URI names, and the object's name in it.

    Raises:
        UsageError: the URI is of no kind that Pantry reads.
        AccessDenied: the machine has no identity for this store.
    """
    folder, _, name = uri.rpartition("/")
    return open_source(folder), unquote(name) if folder.startswith("http") else name


def named(name: str, listed: Iterable[StoredObject], uri: str) -> StoredObject:
    """Return the object of a name, of those that a source has listed.

    Raises:
        ObjectNotFound: none has it.
    """
    for stored in listed:
        if stored.name == name:
            return stored
    raise ObjectNotFound(f"{uri}/{name}: not found", hint="Check the bucket and the name")


def read_whole(source: Source, stored: StoredObject) -> bytes:
    """Return all bytes of a small object.

    Raises:
        SourceError: as `Source.open`.
        SourceUnavailable: the read broke off.
    """
    if stored.size == 0:
        return b""
    with source.open(stored, 0, stored.size) as body:
        return b"".join(iter(lambda: body.read(1024 * 1024), b""))
