"""Verify: read every byte of a bundle again and compare it with the manifest."""

from __future__ import annotations

from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.bundle.errors import DigestMismatch
from loader.bundle.manifest import MANIFEST_NAME
from loader.hashing import hash_file
from loader.report import Report, human_bytes


def verify(directory: Path, report: Report) -> bool:
    """Tell whether a bundle on disk is whole and right, and report every file that is not.

    Raises:
        ManifestInvalid: the directory has no manifest that can be followed.
    """
    bundle = Bundle.open(directory)
    wrong = [problem for asset in bundle.manifest.assets if (problem := _problem(bundle, asset.path))]
    known = {MANIFEST_NAME, *(asset.path for asset in bundle.manifest.assets)}
    there = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    wrong += [f"{name}: not in the manifest" for name in there if name not in known]
    for problem in wrong:
        report.event("failed", problem)
    if not wrong:
        report.event(
            "verified",
            f"{directory}: {len(bundle.manifest.assets)} files, {human_bytes(bundle.manifest.size)}, {bundle.digest}",
            digest=bundle.digest,
        )
    return not wrong


def _problem(bundle: Bundle, name: str) -> str | None:
    try:
        with bundle.reader(name):  # missing, a link, or of another size
            pass
    except DigestMismatch as error:
        return error.message
    asset = bundle.asset(name)
    _, digest, chunks, _ = hash_file(bundle.directory / name, bundle.manifest.chunk_size)
    if digest == asset.digest:
        return None
    bad = [index for index, (got, want) in enumerate(zip(chunks, asset.chunks, strict=False)) if got != want] or [0]
    return f"{name}: expected {asset.digest}, got {digest} (chunk {', '.join(map(str, bad[:10]))})"
