"""Sync: make a volume hold the bundles that models.yaml lists. Idempotent; DESIGN section 4 is the same in prose."""

from __future__ import annotations

from pathlib import Path

import msgspec

from loader.bundle.bundle import Bundle
from loader.bundle.errors import PantryError
from loader.bundle.manifest import Asset, Manifest
from loader.bundle.models import ModelSpec
from loader.bundle.pack.record import RECORD_NAME
from loader.errors import Immutable
from loader.offer import accept, is_same, look, require_pin
from loader.report import Report, SyncProgress, human_bytes
from loader.signatures import PublicKeys, Statement, require_files, require_identity
from loader.sources import Source, open_source
from loader.staging import (
    begin,
    bundles_of,
    commit,
    existing_bundle,
    prune,
    require_space,
    staged_bytes,
    volume_errors,
)  # fmt: skip
from loader.transfer.fetch import fetch
from loader.transfer.staged import Wanted
from loader.verify import require_signed


def sync_all(
    specs: tuple[ModelSpec, ...],
    root: Path,
    retain: int,
    report: Report,
    keys: PublicKeys | None = None,
    *,
    pack: bool = False,
) -> bool:
    """Sync every model; the failure of one does not keep the next from its turn.

    Args:
        specs: the desired bundles.
        root: the volume.
        retain: bundles of a model that stay on the volume, the desired one included.
        report: where events go.
        keys: one of these must have signed every bundle; None asks for no signature.
        pack: pack the pickles of bundles that come unpacked. This runs their code.

    Returns:
        True if the volume now holds them all.
    """
    complete = True
    for spec in specs:
        progress = SyncProgress(report, root, spec.name, spec.version)
        try:
            sync(spec, root, progress, keys=keys, pack=pack)
            for version in prune(root, spec.name, spec.version, retain):
                report.event("pruned", f"{spec.name} {version}: removed from the volume", model=spec.name)
        except PantryError as error:
            complete = False
            try:
                progress.failed(str(error))
            except PantryError as second:  # the volume itself is what fails
                report.event("failed", str(second), model=spec.name, version=spec.version)
    return complete


def sync(
    spec: ModelSpec,
    root: Path,
    progress: SyncProgress,
    source: Source | None = None,
    keys: PublicKeys | None = None,
    *,
    pack: bool = False,
) -> None:
    """Make the volume hold one bundle.

    Args:
        spec: the desired bundle.
        root: the volume.
        progress: where events go.
        source: where its bytes are, if not what storageUri opens.
        keys: one of these must have signed it; None asks for no signature.
        pack: pack its pickles, where it comes unpacked. This runs their code.

    Raises:
        PantryError: it cannot; whatever was there under a final name is as it was.
    """
    name = f"{spec.name} {spec.version}"
    present = existing_bundle(root, spec.name, spec.version)
    if present and keys is not None:
        require_identity(require_signed(present, keys), spec, str(present.directory))
    if present and spec.digest == present.digest:
        progress.phase("synced", f"{name}: on the volume already, as pinned; nothing moved", present.manifest.size)
        return
    source = source or open_source(spec.storage_uri)
    offer = look(source)
    if present and is_same(offer, present):
        require_pin(spec, present.digest, str(present.directory))
        progress.phase("synced", f"{name}: on the volume already; nothing moved", present.manifest.size)
        return
    if present:
        raise Immutable(
            f"{present.directory} holds {present.digest}, but {spec.storage_uri} has other content now",
            hint="A version names one bundle for ever: publish the new content under a new version",
        )
    accepted = accept(offer, spec, keys)
    del offer  # of 100,000 files it has megabytes
    wanted = with_twins(accepted.wanted, root, spec.name)
    total = sum(item.stored.size for item in wanted)

    progress.phase("syncing", f"{name}: {len(wanted)} files, {human_bytes(total)} from {spec.storage_uri}", total)
    with begin(root, spec.name, spec.version, accepted.content) as staging:
        if staged := staged_bytes(staging):
            progress.phase("syncing", f"{name}: {human_bytes(staged)} of {human_bytes(total)} are there already")
        require_space(root, sum(item.stored.size for item in wanted if item.twin is None) - staged)
        with volume_errors(root):
            assets = fetch(source, wanted, staging, progress.advance)
        manifest = accepted.manifest or _manifest(assets, accepted.statement, spec.storage_uri)
        if pack and not any(asset.path == RECORD_NAME for asset in assets):
            from loader.packing import pack_directory

            pack_directory(staging, progress.report)
        progress.phase("verifying", f"{name}: all bytes are there and match; making them durable")
        commit(root, spec.name, spec.version, staging, manifest, accepted.signature)
    progress.phase("synced", f"{name}: {human_bytes(total)} synced")


def with_twins(wanted: list[Wanted], root: Path, model: str) -> list[Wanted]:
    """Say of every wanted asset where an older bundle of the model has a file with the same digests.

    Only published assets have digests beforehand; of a plain prefix every file is fetched.
    """
    twins: dict[str, tuple[Asset, Path]] = {}
    if any(item.asset for item in wanted):
        for directory in bundles_of(root, model):
            for asset in Bundle.open(directory).manifest.assets:
                twins.setdefault(asset.digest, (asset, directory / asset.path))
    found = []
    for item in wanted:
        twin = twins.get(item.asset.digest) if item.asset else None
        if twin and item.asset and (twin[0].size, twin[0].chunks) == (item.asset.size, item.asset.chunks):
            item = msgspec.structs.replace(item, twin=twin[1])  # noqa: PLW2901
        found.append(item)
    return found


def _manifest(assets: list[Asset], statement: Statement | None, uri: str) -> bytes:
    """Return the manifest of a plain prefix; where its files are signed, they can only be compared now."""
    if statement:
        require_files(statement, {asset.path: asset.digest for asset in assets}, uri)
    return Manifest.of(assets).encode()
