"""Looking at the volume: which desired bundles are there, and how far their syncs are."""

from __future__ import annotations

from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.bundle.errors import BundleError
from loader.bundle.manifest import MANIFEST_NAME
from loader.bundle.models import ModelSpec
from loader.bundle.sync_status import read_sync_status
from loader.bundle.volume import bundle_directory
from serving.messages import BundleRef
from serving.rules import Sighting


class VolumeWatch:
    """Finds bundles on a volume; a manifest is read once for each state of its file.

    Args:
        volume: the directory that the loader fills.
    """

    def __init__(self, volume: Path) -> None:
        self._volume = volume
        self._known: dict[Path, tuple[tuple[int, int, int], Bundle | BundleError]] = {}

    def look(self, spec: ModelSpec) -> Sighting:
        """Return what the volume has of a desired version."""
        found = self._bundle(bundle_directory(self._volume, spec.name, spec.version))
        if isinstance(found, BundleError):
            return Sighting(problem=str(found))
        sync = read_sync_status(self._volume, spec.name, spec.version) if found is None else None
        if found is None:
            return Sighting(sync=sync)
        if spec.digest not in (None, found.digest):
            return Sighting(
                problem=f"{found.directory} has manifest {found.digest}, but models.yaml pins {spec.digest}. "
                "Correct the digest, or publish under a new version"
            )
        return Sighting(BundleRef(spec.name, spec.version, found.digest), found.manifest.size)

    def _bundle(self, directory: Path) -> Bundle | BundleError | None:
        path = directory / MANIFEST_NAME
        try:
            state = path.stat()
        except OSError:
            return None
        identity = (state.st_ino, state.st_size, state.st_mtime_ns)
        known = self._known.get(directory)
        if known is None or known[0] != identity:
            try:
                known = (identity, Bundle.open(directory))
            except BundleError as error:
                known = (identity, error)
            self._known[directory] = known
        return known[1]
