"""Sync: make a volume hold the bundles that models.yaml lists. Idempotent; DESIGN section 4 is the same in prose."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from loader.bundle.bundle import Bundle
from loader.bundle.digest import digest_of
from loader.bundle.errors import DigestMismatch, ManifestInvalid, PantryError
from loader.bundle.manifest import MANIFEST_NAME, PUBLISHING_NAME, Manifest, check_paths
from loader.bundle.models import ModelSpec
from loader.errors import Immutable, ObjectNotFound, SourceUnavailable
from loader.hashing import FileDigests
from loader.report import Report, SyncProgress, human_bytes
from loader.sources import Source, StoredObject, open_source
from loader.staging import begin, commit, existing_bundle, prune, require_space, staged_bytes, volume_errors
from loader.transfer import FIRST_PAUSE_SECONDS, GIVE_UP_AFTER_SECONDS, Wanted, fetch

MAX_MANIFEST_BYTES = 256 * 1024 * 1024  # 12 TB of one file, or a million small ones

T = TypeVar("T")


def sync_all(specs: tuple[ModelSpec, ...], root: Path, retain: int, report: Report) -> bool:
    """Sync every model; the failure of one does not keep the next from its turn.

    Args:
        specs: the desired bundles.
        root: the volume.
        retain: bundles of a model that stay on the volume, the desired one included.
        report: where events go.

    Returns:
        True if the volume now holds them all.
    """
    complete = True
    for spec in specs:
        progress = SyncProgress(report, root, spec.name, spec.version)
        try:
            sync(spec, root, progress)
            for version in prune(root, spec.name, spec.version, retain):
                report.event("pruned", f"{spec.name} {version}: removed from the volume", model=spec.name)
        except PantryError as error:
            complete = False
            try:
                progress.failed(str(error))
            except PantryError as second:  # the volume itself is what fails
                report.event("failed", str(second), model=spec.name, version=spec.version)
    return complete


def sync(spec: ModelSpec, root: Path, progress: SyncProgress, source: Source | None = None) -> None:
    """Make the volume hold one bundle.

    Args:
        spec: the desired bundle.
        root: the volume.
        progress: where events go.
        source: where its bytes are, if not what storageUri opens.

    Raises:
        PantryError: it cannot; whatever was there under a final name is as it was.
    """
    name = f"{spec.name} {spec.version}"
    present = existing_bundle(root, spec.name, spec.version)
    if present and spec.digest == present.digest:
        progress.phase("synced", f"{name}: on the volume already, as pinned; nothing moved", present.manifest.size)
        return
    source = source or open_source(spec.storage_uri)
    listed = _list(source)
    published = listed.pop(MANIFEST_NAME, None)
    if listed.pop(PUBLISHING_NAME, None) and published is None:
        raise ObjectNotFound(
            f"{source.uri} is being published and not whole yet: it has no manifest",
            hint="Wait for `pantry publish` to end, or run it again, then sync",
        )
    if present and _is_same(present, source, published, listed):
        _require_pin(spec, present.digest, str(present.directory))
        progress.phase("synced", f"{name}: on the volume already; nothing moved", present.manifest.size)
        return
    if present:
        raise Immutable(
            f"{present.directory} holds {present.digest}, but {spec.storage_uri} has other content now",
            hint="A version names one bundle for ever: publish the new content under a new version",
        )
    manifest = _published_manifest(spec, source, published) if published else None
    wanted = _wanted_prefix(source, listed) if manifest is None else _wanted(source, manifest, listed)
    content = _prefix_identity(listed) if manifest is None else digest_of(manifest)[7:19]
    total = sum(item.stored.size for item in wanted)

    progress.phase("syncing", f"{name}: {len(wanted)} files, {human_bytes(total)} from {spec.storage_uri}", total)
    with begin(root, spec.name, spec.version, content) as staging:
        if staged := staged_bytes(staging):
            progress.phase("syncing", f"{name}: {human_bytes(staged)} of {human_bytes(total)} are there already")
        require_space(root, max(0, total - staged))
        with volume_errors(root):
            assets = fetch(source, wanted, staging, progress.advance)
        progress.phase("verifying", f"{name}: all bytes are there and match; making them durable")
        commit(root, spec.name, spec.version, staging, manifest or Manifest.of(assets).encode())
    progress.phase("synced", f"{name}: {human_bytes(total)} synced")


def _list(source: Source) -> dict[str, StoredObject]:
    listed = {stored.name: stored for stored in _patiently(source.list)}
    if not listed:
        raise ObjectNotFound(
            f"{source.uri} holds no objects, expected a published bundle or a model's files",
            hint="Check storageUri and version, or upload with `pantry publish`",
        )
    return listed


def _is_same(present: Bundle, source: Source, published: StoredObject | None, listed: dict[str, StoredObject]) -> bool:
    """Tell whether the bundle on the volume is what the source has, from the listing alone where that is enough."""
    if published:
        return digest_of(_read_whole(source, published)) == present.digest
    pins = {asset.path: asset.pin and (asset.pin.generation, asset.size) for asset in present.manifest.assets}
    return pins == {name: (stored.generation, stored.size) for name, stored in listed.items()}


def _published_manifest(spec: ModelSpec, source: Source, published: StoredObject) -> bytes:
    data = _read_whole(source, published)
    _require_pin(spec, digest_of(data), f"{source.uri}/{MANIFEST_NAME}")
    return data


def _read_whole(source: Source, stored: StoredObject) -> bytes:
    if stored.size > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"{source.uri}/{stored.name} has {stored.size} bytes, expected a manifest")

    def read() -> bytes:
        data = source.read(stored, 0, stored.size)
        digests = FileDigests()
        digests.update(data)
        if len(data) != stored.size or (stored.crc32c and digests.crc32c != stored.crc32c):
            raise SourceUnavailable(f"{source.uri}/{stored.name} arrived damaged or not whole")
        return data

    return _patiently(read) if stored.size else b""


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again, after pauses that double, while the store gives no good answer."""
    give_up, pause = time.monotonic() + GIVE_UP_AFTER_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            return ask()
        except SourceUnavailable:
            if time.monotonic() + pause > give_up:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 20.0)


def _require_pin(spec: ModelSpec, digest: str, where: str) -> None:
    if spec.digest and spec.digest != digest:
        raise DigestMismatch(
            f"{where}: models.yaml pins {spec.digest}, got {digest}",
            hint="Correct the digest in models.yaml, or find out who changed the bundle",
        )


def _wanted(source: Source, manifest: bytes, listed: dict[str, StoredObject]) -> list[Wanted]:
    """Pair every asset of a manifest with the listed generation of its object."""
    parsed = Manifest.decode(manifest, f"{source.uri}/{MANIFEST_NAME}")
    wanted = []
    for asset in parsed.assets:
        stored = listed.get(asset.path)
        if stored is None:
            raise ObjectNotFound(
                f"{source.uri}: the manifest lists {asset.path}, but there is no such object",
                hint="Publish the bundle again under a new version",
            )
        if stored.size != asset.size:
            raise DigestMismatch(
                f"{source.uri}/{asset.path} is damaged: the manifest says {asset.size} bytes, it has {stored.size}",
                hint="Publish the bundle again under a new version",
            )
        wanted.append(Wanted(stored, asset, parsed.chunk_size))
    return wanted


def _wanted_prefix(source: Source, listed: dict[str, StoredObject]) -> list[Wanted]:
    """Take every object of a plain prefix, if its name can be a file's."""
    check_paths(listed, source.uri)
    return [Wanted(listed[name], None) for name in sorted(listed)]


def _prefix_identity(listed: dict[str, StoredObject]) -> str:
    lines = (f"{stored.name}\0{stored.generation}\0{stored.size}" for stored in listed.values())
    return digest_of("\n".join(sorted(lines)).encode())[7:19]
