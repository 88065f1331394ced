"""Serving a directory that a person is working in: `pantry-serve --reload`.

A bundle is immutable and its manifest vouches for every byte. A directory under work is neither, so its manifest is
made in memory when it is loaded, from whatever is there: nothing is verified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.bundle.digest import digest_of
from loader.bundle.errors import ManifestInvalid
from loader.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, Asset, Manifest
from loader.bundle.models import ModelSpec
from loader.bundle.volume import bundle_directory

FILE_SCHEME = "file://"


def directory_of(volume: Path, spec: ModelSpec) -> Path:
    """Return the directory to serve: the one that a file:// storageUri names where it is there, else the bundle's."""
    source = Path(spec.storage_uri.removeprefix(FILE_SCHEME))
    if spec.storage_uri.startswith(FILE_SCHEME) and source.is_dir():
        return source
    return bundle_directory(volume, spec.name, spec.version)


def identity(directory: Path) -> str | None:
    """Return what changes whenever a file of a directory does, in the form of a digest; None where it has no files.

    No content is read: it is asked several times a second.
    """
    listed = []
    for path in _files(directory):
        try:
            stat = path.stat()
        except OSError:  # it has gone since it was listed
            continue
        listed.append(f"{path}\0{stat.st_ino}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return digest_of("\n".join(listed).encode("utf-8", "surrogateescape")) if listed else None


def open_unverified(directory: Path) -> Bundle:
    """Open a directory as a bundle, by a manifest of what it has now.

    Raises:
        ManifestInvalid: it holds no files, or a name that cannot be in a bundle, or one cannot be read.
    """
    try:
        files = ((path, path.relative_to(directory).as_posix()) for path in _files(directory))
        manifest = Manifest.of([Asset.of_file(*file) for file in files])
    except OSError as error:
        raise ManifestInvalid(f"{error.filename} cannot be read: {error.strerror}") from error
    if not manifest.assets:
        raise ManifestInvalid(f"{directory} holds no files")
    return Bundle(directory, manifest, manifest.digest)


def _files(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        for name in sorted(names):
            if not name.startswith(".") and name not in (MANIFEST_NAME, SIGNATURE_NAME):
                yield Path(folder, name)
