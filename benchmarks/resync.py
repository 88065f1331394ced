"""Sync 100 GB that are on the volume already: one listing, no data read, under a second.

The 100 files of 1 GB are sparse, in the store and on the volume; their manifest is the one of a real bundle of zeros.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
from collections import Counter
from pathlib import Path

from benchmarks import clients
from benchmarks.measure import ROOT, Failed, arguments, run, table, verdict, workplace
from benchmarks.store import Request, Store
from loader.bundle.digest import digest_of
from loader.bundle.manifest import CHUNK_SIZE, MANIFEST_NAME, Asset, Manifest
from loader.bundle.volume import bundle_directory

_PREFIX = "big/1"
_SIZE = 1_000_000_000
_MOST_SECONDS = 1.0


def main() -> int:
    parser = arguments(__doc__ or "", repeats=5)
    parser.add_argument("--files", type=int, default=100, help="of 1 GB each (default 100; 10 with --quick)")
    options = parser.parse_args()
    clients.print_versions()
    with workplace(options) as home:
        names = [f"part-{number:03}.bin" for number in range(10 if options.quick else options.files)]
        volume = home / "volume"
        manifest = _manifest(names)
        _lay_out(home / "data" / clients.BUCKET / _PREFIX, names, manifest)
        _lay_out(bundle_directory(volume, "bench", "1"), names, manifest)
        with Store(home / "data", home / "store") as store:
            ours = clients.pantry(store, _PREFIX, home / "pantry", "pantry sync, again")
            runs, kinds = [], Counter[str]()
            try:
                for _ in range(options.repeats):
                    runs.append(run(ours.command(volume), ours.environment, ROOT))
                    kinds.update(map(_kind, store.requests()))
            except Failed as error:
                return int(not table("a second sync", [ours], {ours.name: f"failed: {error}"}))
    table(f"a second sync of {len(names)} GB, {options.repeats} rounds", [ours], {ours.name: runs})
    wall = statistics.median(use.wall for use in runs)
    print(f"under {_MOST_SECONDS} s: {verdict(wall < _MOST_SECONDS)}")
    expected = {"listing": options.repeats, "data": 0}
    for kind in sorted(kinds | expected.keys()):
        print(f"requests for {kind}: {kinds[kind]} in {options.repeats} rounds", end="")
        print(f": {verdict(kinds[kind] == expected[kind])}" if kind in expected else "")
    return 0


def _kind(request: Request) -> str:
    if request.is_listing:
        return "listing"
    if request.is_media:
        return "the manifest" if f"%2F{MANIFEST_NAME}" in request.target else "data"
    return f"metadata ({request.target.partition('?')[0]})"


def _manifest(names: list[str]) -> bytes:
    """Return the manifest of files of zeros, with the digests that hashing them all would give."""
    zeros = bytes(CHUNK_SIZE)
    whole = hashlib.sha256()
    lengths = [min(CHUNK_SIZE, _SIZE - start) for start in range(0, _SIZE, CHUNK_SIZE)]
    digests = {length: digest_of(zeros[:length]) for length in set(lengths)}
    for length in lengths:
        whole.update(zeros[:length])
    chunks = tuple(digests[length] for length in lengths)
    return Manifest.of([Asset(name, _SIZE, f"sha256:{whole.hexdigest()}", chunks) for name in names]).encode()


def _lay_out(folder: Path, names: list[str], manifest: bytes) -> None:
    """Write a bundle: its manifest, and links to one sparse file."""
    folder.mkdir(parents=True)
    with (folder / names[0]).open("wb") as file:
        file.truncate(_SIZE)
    for name in names[1:]:
        os.link(folder / names[0], folder / name)
    (folder / MANIFEST_NAME).write_bytes(manifest)


if __name__ == "__main__":
    sys.exit(main())
