"""Looking at models.yaml and at the volume: what is desired, what of it is there, and how far the syncs are."""

from __future__ import annotations

from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.bundle.errors import BundleError, ModelsInvalid
from loader.bundle.manifest import MANIFEST_NAME
from loader.bundle.models import ModelSpec, load_models
from loader.bundle.pack.record import PACK_FOLDER, PackedPickle
from loader.bundle.sync_status import read_sync_status
from loader.bundle.volume import bundle_directory
from serving.supervise import development
from serving.supervise.messages import BundleRef
from serving.supervise.rules import Need, Sighting


class ModelsFile:
    """Follows models.yaml.

    Args:
        path: of the file; parsed once for each content.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text: bytes | None = None
        self._specs: tuple[ModelSpec, ...] = ()
        self._problem = ""

    def read(self) -> tuple[tuple[ModelSpec, ...], str]:
        """Return what is desired, and what is wrong with the file or "": then it is what was desired before."""
        try:
            text = self._path.read_bytes()
        except OSError:
            text = None
        if text is None or text != self._text:
            self._text = text
            try:
                self._specs, self._problem = load_models(self._path), ""
            except ModelsInvalid as error:
                self._problem = str(error)
        return self._specs, self._problem


class VolumeWatch:
    """Finds bundles on a volume; a manifest is read once for each state of its file.

    Args:
        volume: the directory that the loader fills.
        reload: whether bundles may change, and directories without a manifest are served.
    """

    def __init__(self, volume: Path, reload: bool = False) -> None:
        self._volume, self._reload = volume, reload
        self._identities: dict[Path, str | None] = {}
        self._needs: dict[str, Need] = {}
        self._known: dict[Path, tuple[tuple[int, int, int], Bundle | BundleError]] = {}

    def look(self, spec: ModelSpec) -> Sighting:
        """Return what the volume has of a desired version."""
        if self._reload:
            return self._look_unverified(spec)
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
        return Sighting(
            BundleRef(spec.name, spec.version, found.digest), found.manifest.size, need=self._needs[found.digest]
        )

    def _look_unverified(self, spec: ModelSpec) -> Sighting:
        directory = development.directory_of(self._volume, spec)
        before, found = self._identities.get(directory), development.identity(directory)
        self._identities[directory] = found
        if found is None or found != before:  # someone may be writing still
            return Sighting()
        return Sighting(BundleRef(spec.name, spec.version, found), directory=str(directory))

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
            if isinstance(known[1], Bundle):
                self._needs[known[1].digest] = need_of(known[1])
        return known[1]


def need_of(bundle: Bundle) -> Need:
    """Return the memory that loading a bundle was measured to take, or a guess where nobody measured."""
    size = sum(asset.size for asset in bundle.manifest.assets if not asset.path.startswith(f"{PACK_FOLDER}/"))
    guess = Need(size, size)
    try:
        config = bundle.config()
        pickles = [p for p in bundle.pack_record().pickles if config.predictor or config.asset in (None, p.path)]
        stale = any(_is_stale(packed, bundle.asset(packed.path).digest) for packed in pickles)
    except BundleError:  # whoever loads it says what is wrong
        return guess
    if stale or not pickles:
        return guess
    peak = kept = mapped = 0
    for packed in pickles:
        peak, kept = max(peak, kept + packed.peak_bytes), kept + packed.resident_bytes
        mapped += packed.mapped_bytes
    return Need(peak, kept, mapped, measured=True)


def _is_stale(packed: PackedPickle, digest: str) -> bool:
    """Tell whether another form than the measured one would be loaded."""
    return (
        packed.digest != digest or packed.peak_bytes == 0 or (packed.pack is not None and packed.problem(digest) != "")
    )
