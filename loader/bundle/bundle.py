"""A bundle on disk: the read side, for the server and for `pantry verify`."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from loader.bundle.digest import digest_of
from loader.bundle.errors import BundleError, ManifestInvalid
from loader.bundle.manifest import CHUNK_SIZE, MANIFEST_NAME, Asset, Manifest
from loader.bundle.model_config import MODEL_CONFIG_NAME, ModelConfig, parse_model_config
from loader.bundle.pack.record import RECORD_NAME, PackedPickle, PackRecord
from loader.bundle.verified import VerifiedReader, ignore_progress


class Bundle:
    """One bundle's directory and manifest. Every byte read through it is checked against the manifest.

    Attributes:
        directory: where it is.
        manifest: what it holds.
        digest: of the bytes of its manifest.json; identifies it.
    """

    def __init__(self, directory: Path, manifest: Manifest, digest: str) -> None:
        self.directory, self.manifest, self.digest = directory, manifest, digest
        self._assets = {asset.path: asset for asset in manifest.assets}

    @classmethod
    def open(cls, directory: Path) -> Bundle:
        """Open a bundle by its directory; no asset is read yet.

        Raises:
            ManifestInvalid: there is no manifest, or none that can be followed.
        """
        path = directory / MANIFEST_NAME
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ManifestInvalid(
                f"{path} cannot be read: {error.strerror}", hint="Only a synced or published bundle has a manifest"
            ) from error
        return cls(directory, Manifest.decode(data, str(path)), digest_of(data))

    def hold(self) -> None:
        """Keep a sync from pruning this bundle as long as this process or a child of it lives.

        A shared lock on the directory, which works on a volume that is mounted read-only. Where the volume knows no
        locks, the bundle may be pruned once newer ones fill `retain`.

        Raises:
            ManifestInvalid: the directory has gone.
        """
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ManifestInvalid(f"{self.directory} cannot be read: {error.strerror}") from error
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def reader(self, path: str, progress: Callable[[int], None] = ignore_progress) -> io.BufferedReader:
        """Open an asset as a verified stream.

        Args:
            path: the asset's path in the manifest.
            progress: called with the number of bytes newly verified.

        Raises:
            BundleError: the manifest has no such asset.
            DigestMismatch: the file is not what the manifest says; also raised by reads.
        """
        raw = VerifiedReader(self.directory / path, self.asset(path), self.manifest.chunk_size, progress)
        return io.BufferedReader(raw, 256 * 1024)

    def read(self, path: str) -> bytes:
        """Return the verified bytes of a small asset.

        Raises:
            BundleError: as `reader`.
        """
        with self.reader(path) as stream:
            return stream.read()

    def asset(self, path: str) -> Asset:
        """Return an asset by its path.

        Raises:
            BundleError: the manifest has no such asset.
        """
        if (asset := self._assets.get(path)) is None:
            raise BundleError(f"{self.directory} has no asset {path!r}", hint="Its manifest.json lists what it has")
        return asset

    def load(self, path: str, progress: Callable[[int], None] = ignore_progress) -> object:
        """Load the object of a pickle: from its pack where one can be used here, else from the pickle itself.

        This runs the pickle's code. The pack was proved to hold an equal object; its arrays are mapped, copy on write.

        Args:
            path: the pickle's path in the manifest.
            progress: called with the number of bytes newly verified.

        Raises:
            BundleError: the manifest has no such asset, or the record of the packs is no such record.
            DigestMismatch: the pickle or the pack is not what the manifest or the record says.
            PickleInvalid: it cannot become an object in this image.
        """
        from loader.bundle.pack.reader import load_pack
        from loader.bundle.pickles import load_pickle

        where = "/".join((*self.directory.parts[-2:], path))  # on a volume: model, version, path
        found = self.find_pack(path)
        if isinstance(found, str) or (pack := found.pack) is None:
            with self.reader(path, progress) as stream:
                return load_pickle(cast("BinaryIO", stream), where)
        file = self.directory / pack.path
        with io.BufferedReader(VerifiedReader(file, pack, CHUNK_SIZE, progress), 256 * 1024) as stream:
            return load_pack(cast("BinaryIO", stream), file, where)

    def find_pack(self, path: str) -> PackedPickle | str:
        """Return what `load` would use instead of a pickle, or why there is nothing.

        Raises:
            BundleError: as `load`.
        """
        packed = self.pack_record().find(path)
        if packed is None:
            return "it was not packed"
        return packed.problem(self.asset(path).digest) or packed

    def pack_record(self) -> PackRecord:
        """Return what was packed of this bundle.

        The record is an asset where packs were published. Where they were made on this volume, it is the file in the
        directory.

        Raises:
            DigestMismatch: it is not what the manifest says.
            ManifestInvalid: it is no such record.
        """
        file = self.directory / RECORD_NAME
        if RECORD_NAME in self._assets:
            data = self.read(RECORD_NAME)
        else:
            try:
                data = file.read_bytes()
            except OSError:
                return PackRecord()
        return PackRecord.decode(data, str(file))

    def config(self) -> ModelConfig:
        """Read the bundle's model.yaml, or the defaults where it has none.

        Raises:
            ModelConfigInvalid: it cannot be followed.
            DigestMismatch: it is not what the manifest says.
        """
        if MODEL_CONFIG_NAME not in self._assets:
            return ModelConfig()
        return parse_model_config(self.read(MODEL_CONFIG_NAME), str(self.directory / MODEL_CONFIG_NAME))

    def pickle_asset(self, config: ModelConfig) -> Asset:
        """Return the asset that holds the model: the one that model.yaml names, else the only pickle there is.

        Raises:
            BundleError: there is no such asset, no pickle, or more than one.
        """
        if config.asset is not None:
            return self.asset(config.asset)
        from loader.bundle.pickles import PICKLE_ENDINGS, is_pickle  # brings the unpickler, which the supervisor lacks

        found = [asset for asset in self.manifest.assets if is_pickle(asset.path)]
        if len(found) != 1:
            names = ", ".join(asset.path for asset in found[:5]) or "none"
            raise BundleError(
                f"{self.directory}: expected one pickle ({', '.join(PICKLE_ENDINGS)}), found {names}",
                hint="Name the model's file as `asset:` in model.yaml",
            )
        return found[0]
