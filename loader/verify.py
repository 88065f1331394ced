"""Verify: read every byte of a bundle again and compare it with the manifest, and the manifest with its signature.

Packs that were made on the volume are in no manifest; they are compared with the record that was made beside them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.bundle.errors import DigestMismatch, ManifestInvalid
from loader.bundle.manifest import CHUNK_SIZE, MANIFEST_NAME, SIGNATURE_NAME, Asset, chunk_range
from loader.bundle.pack.record import RECORD_NAME, PackRecord
from loader.bundle.verified import VerifiedReader, ignore_progress
from loader.errors import SignatureInvalid
from loader.report import Report, human_bytes
from loader.signatures import PublicKeys, Statement, check, require_files, require_manifest
from loader.transfer.staged import hash_range

WHOLE = -1


def verify(directory: Path, report: Report, keys: PublicKeys | None = None) -> bool:
    """Tell whether a bundle on disk is whole and right, and report every file that is not.

    Args:
        directory: the bundle's.
        report: where events go.
        keys: one of these must have signed it; None asks for no signature.

    Raises:
        ManifestInvalid: the directory has no manifest that can be followed.
        SignatureInvalid: keys are given, and none of them has signed it.
    """
    bundle = Bundle.open(directory)
    if keys is not None:
        require_signed(bundle, keys)
    packs, wrong = _packs_made_here(bundle)
    files = [(asset, bundle.manifest.chunk_size) for asset in bundle.manifest.assets]
    files += [(pack, CHUNK_SIZE) for pack in packs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter's lock to the others
        checks = [(*file, index) for file in files for index in (WHOLE, *range(len(file[0].chunks)))]
        problems = pool.map(lambda check: _problem(directory, *check), checks, chunksize=1)
        wrong += [problem for problem in problems if problem]
    known = {MANIFEST_NAME, SIGNATURE_NAME, RECORD_NAME, *(asset.path for asset, _ in files)}
    there = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    wrong += [f"{name}: not in the manifest" for name in there if name not in known]
    for problem in wrong:
        report.event("failed", problem)
    if not wrong:
        signed = ", signed" if keys is not None else ""
        made = f", and {len(packs)} packs made here, which the digest does not cover" if packs else ""
        report.event(
            "verified",
            f"{directory}: {len(bundle.manifest.assets)} files, {human_bytes(bundle.manifest.size)}, "
            f"{bundle.digest}{signed}{made}",
            digest=bundle.digest,
        )
    return not wrong


def require_signed(bundle: Bundle, keys: PublicKeys) -> Statement:
    """Check the signature that lies beside a bundle's manifest, and return what it says.

    Raises:
        SignatureInvalid: there is none, none of the keys has made it, or it is for other files.
    """
    path = bundle.directory / SIGNATURE_NAME
    try:
        signature = path.read_bytes()
    except OSError as error:
        raise SignatureInvalid(
            f"{path} cannot be read ({error.strerror}), expected a signature, as public keys are given",
            hint="Publish the bundle with `pantry publish --key` under a new version",
        ) from error
    statement = check(signature, keys, str(path))
    if all(asset.pin for asset in bundle.manifest.assets):  # a plain prefix: its manifest was made after its signature
        require_files(statement, {asset.path: asset.digest for asset in bundle.manifest.assets}, str(path))
    else:
        require_manifest(statement, bundle.manifest, bundle.digest, str(path))
    return statement


def _packs_made_here(bundle: Bundle) -> tuple[list[Asset], list[str]]:
    """Return the packs that were made on this volume, which no manifest lists, and what is wrong with their record."""
    record = bundle.directory / RECORD_NAME
    if any(asset.path == RECORD_NAME for asset in bundle.manifest.assets) or not record.is_file():
        return [], []
    try:
        pickles = PackRecord.decode(record.read_bytes(), RECORD_NAME).pickles
    except ManifestInvalid as error:
        return [], [error.message]
    return [packed.pack for packed in pickles if packed.pack is not None], []


def _problem(directory: Path, asset: Asset, chunk_size: int, index: int) -> str | None:
    """Return what is wrong with one chunk of an asset, or with the whole."""
    path = directory / asset.path
    if index == WHOLE:
        try:
            VerifiedReader(path, asset, chunk_size, ignore_progress).close()  # missing, a link, or of another size
        except DigestMismatch as error:
            return error.message
        start, end, expected = 0, asset.size, asset.digest
    else:
        start, end = chunk_range(asset.size, index, chunk_size)
        expected = asset.chunks[index]
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None  # said of the whole
    try:
        got = f"sha256:{hash_range(descriptor, start, end).sha256.hex()}"
    finally:
        os.close(descriptor)
    place = asset.path if index == WHOLE else f"{asset.path}: chunk {index}, bytes {start} to {end}"
    return None if got == expected else f"{place}: expected {expected}, got {got}"
