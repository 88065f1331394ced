"""Plan: what a sync would move, reuse and prune, before anything moves."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from loader.bundle.bundle import Bundle
from loader.bundle.errors import PantryError
from loader.bundle.models import ModelSpec
from loader.bundle.pack.record import RECORD_NAME, PackRecord
from loader.errors import Immutable
from loader.offer import Offer, accept, is_same, look, read_asset
from loader.report import Report, human_bytes
from loader.signatures import PublicKeys
from loader.sources import Source, open_source
from loader.staging import SPARE_BYTES, bundles_of, existing_bundle, superseded, volume_errors
from loader.sync import with_twins
from loader.transfer.staged import Wanted


class Plan(msgspec.Struct, frozen=True, rename="camel"):
    """What syncing one bundle would do.

    Attributes:
        model: whose bundle.
        version: which bundle.
        compared_with: the version on the volume that was wanted last; "" where there is none.
        added: files that it does not have.
        changed: files that it has with other content, or, of a plain prefix, with content nobody knows to be the same.
        reused: files whose content the volume has already.
        removed: files that it has and the new bundle does not.
        bytes: of the whole bundle.
        bytes_to_move: of them, what would be fetched.
        bytes_pruned: of the versions that would be pruned.
        pruned: these versions.
        peak_bytes: of memory, that loading its largest pickle was measured to take; 0 where it was not packed.
        mapped_bytes: of memory that come on top while its arrays are used, once for all processes that only read.
    """

    model: str
    version: str
    compared_with: str = ""
    added: int = 0
    changed: int = 0
    reused: int = 0
    removed: int = 0
    bytes: int = 0
    bytes_to_move: int = 0
    bytes_pruned: int = 0
    pruned: tuple[str, ...] = ()
    peak_bytes: int = 0
    mapped_bytes: int = 0


def plan_all(
    specs: tuple[ModelSpec, ...], root: Path, retain: int, report: Report, keys: PublicKeys | None = None
) -> bool:
    """Report what `sync_all` with the same arguments would do.

    Returns:
        True if it could: everything is there, is what it should be, and fits on the volume.
    """
    with volume_errors(root):
        free = shutil.disk_usage(root).free
    possible = True
    for spec in specs:
        try:
            plan = plan_one(spec, root, retain, keys)
        except PantryError as error:
            report.event("failed", f"{spec.name} {spec.version}: {error}", model=spec.name, version=spec.version)
            possible = False
            continue
        fits = not plan.bytes_to_move or free >= plan.bytes_to_move + SPARE_BYTES  # pruning comes after
        free += plan.bytes_pruned - plan.bytes_to_move
        report.event("planned", _sentence(plan, free), freeBytesAfter=free, **msgspec.to_builtins(plan))
        if not fits:
            report.event(
                "failed",
                f"{spec.name} {spec.version}: {root} has not enough room for {human_bytes(plan.bytes_to_move)}. "
                "Enlarge the volume (storage.size in the chart), or retain fewer versions",
                model=spec.name,
                version=spec.version,
            )
        possible = possible and fits
    return possible


def plan_one(
    spec: ModelSpec, root: Path, retain: int, keys: PublicKeys | None = None, source: Source | None = None
) -> Plan:
    """Return what syncing one bundle would do; reads the listing, the manifest and the signature, no asset.

    Args:
        spec: the desired bundle.
        root: the volume.
        retain: bundles of a model that stay on the volume.
        keys: one of these must have signed it; None asks for no signature.
        source: where its bytes are, if not what storageUri opens.

    Raises:
        PantryError: why it could not be synced.
    """
    present = existing_bundle(root, spec.name, spec.version)
    pruned = superseded(root, spec.name, spec.version, retain)
    freed = sum(Bundle.open(directory).manifest.size for directory in pruned)
    if present is None or spec.digest != present.digest:
        offer = look(source or open_source(spec.storage_uri))
        accepted = accept(offer, spec, keys)
        if present is None:
            wanted = with_twins(accepted.wanted, root, spec.name)
            plan = _compare(spec, wanted, root, tuple(path.name for path in pruned), freed)
            return _with_memory(plan, _record(offer, wanted))
        if not is_same(offer, present):
            raise Immutable(
                f"{present.directory} holds {present.digest}, but {spec.storage_uri} has other content now",
                hint="A version names one bundle for ever: publish the new content under a new version",
            )
    manifest = present.manifest
    plan = Plan(
        spec.name, spec.version, spec.version, reused=len(manifest.assets), bytes=manifest.size,
        pruned=tuple(path.name for path in pruned), bytes_pruned=freed,
    )  # fmt: skip
    return _with_memory(plan, present.pack_record())


def _compare(spec: ModelSpec, wanted: list[Wanted], root: Path, pruned: tuple[str, ...], bytes_pruned: int) -> Plan:
    base = next(iter(bundles_of(root, spec.name)), None)
    known = {asset.path for asset in Bundle.open(base).manifest.assets} if base else set()
    names = {item.stored.name for item in wanted}
    fetched = [item for item in wanted if item.twin is None]
    changed = sum(item.stored.name in known for item in fetched)
    return Plan(
        spec.name,
        spec.version,
        base.name if base else "",
        added=len(fetched) - changed,
        changed=changed,
        reused=len(wanted) - len(fetched),
        removed=len(known - names),
        bytes=sum(item.stored.size for item in wanted),
        bytes_to_move=sum(item.stored.size for item in fetched),
        bytes_pruned=bytes_pruned,
        pruned=pruned,
    )


def _record(offer: Offer, wanted: list[Wanted]) -> PackRecord:
    """Return what was packed of a bundle, and measured, when it was published."""
    for item in wanted:
        if item.stored.name == RECORD_NAME:
            return PackRecord.decode(read_asset(offer, item), f"{offer.source.uri}/{RECORD_NAME}")
    return PackRecord()


def _with_memory(plan: Plan, record: PackRecord) -> Plan:
    largest = max(record.pickles, key=lambda packed: packed.peak_bytes + packed.mapped_bytes, default=None)
    if largest is None:
        return plan
    return msgspec.structs.replace(plan, peak_bytes=largest.peak_bytes, mapped_bytes=largest.mapped_bytes)


def _sentence(plan: Plan, free: int) -> str:
    name = f"{plan.model} {plan.version}"
    pruned = f"; prunes {', '.join(plan.pruned)} ({human_bytes(plan.bytes_pruned)})" if plan.pruned else ""
    after = f"{human_bytes(free)} free after"
    if plan.peak_bytes:
        after += f"; loading takes {human_bytes(plan.peak_bytes)} of memory"
        after += f", and {human_bytes(plan.mapped_bytes)} mapped" if plan.mapped_bytes else ""
    if plan.compared_with == plan.version:
        return f"{name}: on the volume already, nothing to move{pruned}; {after}"
    base = f" against {plan.compared_with}" if plan.compared_with else ""
    files = f"{plan.added} files added, {plan.changed} changed, {plan.reused} reused, {plan.removed} removed"
    moves = f"moves {human_bytes(plan.bytes_to_move)} of {human_bytes(plan.bytes)}"
    return f"{name}{base}: {files}; {moves}{pruned}; {after}"
