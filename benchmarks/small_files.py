"""Fetch 20,000 files of 10 kB over https from an object store on loopback: ours beside gcloud and rclone."""

from __future__ import annotations

import argparse
import filecmp
import os
import sys
from pathlib import Path

from benchmarks import clients
from benchmarks.measure import MIB, Failed, arguments, race, table, workplace
from benchmarks.store import Store

_PREFIX = "small/1"
_SIZE = 10_000
_A_FOLDER = 1000  # files in each
_MOST_MEMORY = 256 * MIB


def main() -> int:
    parser = arguments(__doc__ or "", repeats=3)
    parser.add_argument("--files", type=int, default=20_000, help="how many (default 20000; 2000 with --quick)")
    parser.add_argument("--many", action="store_true", help="then 100,000 files once, ours alone, for its memory")
    options = parser.parse_args()
    clients.print_versions()
    worked = _measure(options.files if not options.quick else 2000, options, alone=False)
    if options.many:
        options.repeats = 1
        worked &= _measure(100_000, options, alone=True)
    return 0 if worked else 1


def _measure(count: int, options: argparse.Namespace, *, alone: bool) -> bool:
    with workplace(options) as home:
        files = _make(home / "source", count)
        clients.publish(home / "source", home / "data", _PREFIX)

        def same(folder: Path) -> None:
            _, different, missing = filecmp.cmpfiles(home / "source", folder, files, shallow=False)
            if different or missing:
                raise Failed(f"{len(different)} files are not their objects, {len(missing)} are missing")

        with Store(home / "data", home / "store") as store:
            everyone = [clients.pantry(store, _PREFIX, home / "pantry")]
            if not alone:
                tuned = ("--transfers=32", "--checkers=32", "--fast-list")
                everyone += [
                    clients.gcloud(store, home, ("rsync", "-r"), _PREFIX, target=1.0),
                    clients.rclone(store, "sync", _PREFIX, target=1.0),
                    clients.rclone(store, "sync", _PREFIX, tuned, target=1.0),
                ]
            results = race(everyone, home, options.repeats, same)
        title = f"{count:,} files of {_SIZE:,} bytes over https, {options.repeats} rounds"
        return table(title, everyone, results, most_memory=_MOST_MEMORY)


def _make(folder: Path, count: int) -> list[str]:
    """Write a bundle's source: random files in folders, and return their names."""
    folder.mkdir()
    (folder / "model.yaml").write_text("predictor: predictor.py:Predictor\n")  # it has no pickle to find
    (folder / "predictor.py").write_text("class Predictor: ...\n")
    names = [f"part-{number // _A_FOLDER:03}/{number:06}.bin" for number in range(count)]
    for number, name in enumerate(names):
        if number % _A_FOLDER == 0:
            (folder / name).parent.mkdir()
        (folder / name).write_bytes(os.urandom(_SIZE))
    return names


if __name__ == "__main__":
    sys.exit(main())
