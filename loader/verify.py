"""Verify: read every byte of a bundle again and compare it with the manifest, and the manifest with its signature."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.bundle.errors import DigestMismatch
from loader.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, Asset, chunk_range
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
    names = [asset.path for asset in bundle.manifest.assets]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter's lock to the others
        checks = [(asset, index) for asset in bundle.manifest.assets for index in (WHOLE, *range(len(asset.chunks)))]
        problems = pool.map(lambda check: _problem(bundle, *check), checks, chunksize=1)
        wrong = [problem for problem in problems if problem]
    known = {MANIFEST_NAME, SIGNATURE_NAME, *names}
    there = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    wrong += [f"{name}: not in the manifest" for name in there if name not in known]
    for problem in wrong:
        report.event("failed", problem)
    if not wrong:
        signed = ", signed" if keys is not None else ""
        report.event(
            "verified",
            f"{directory}: {len(names)} files, {human_bytes(bundle.manifest.size)}, {bundle.digest}{signed}",
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


def _problem(bundle: Bundle, asset: Asset, index: int) -> str | None:
    """Return what is wrong with one chunk of an asset, or with the whole."""
    path = bundle.directory / asset.path
    if index == WHOLE:
        try:
            with bundle.reader(asset.path):  # missing, a link, or of another size
                pass
        except DigestMismatch as error:
            return error.message
        start, end, expected = 0, asset.size, asset.digest
    else:
        start, end = chunk_range(asset.size, index, bundle.manifest.chunk_size)
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
