"""Download 1 GiB over https from an object store on loopback: ours, crc32c and sha256 checked, beside the peers."""

from __future__ import annotations

import filecmp
import hashlib
import os
import sys
from pathlib import Path

from benchmarks import clients
from benchmarks.measure import MIB, Client, Failed, arguments, race, table, workplace
from benchmarks.store import Store

_PREFIX = "bench/1"
_OBJECT = f"{_PREFIX}/model.bin"
_MOST_MEMORY = 256 * MIB


def main() -> int:
    parser = arguments(__doc__ or "", repeats=5)
    parser.add_argument("--mib", type=int, default=1024, help="size of the object (default 1024; 256 with --quick)")
    parser.add_argument(
        "--limits", type=int, nargs="*", default=[100, 25], metavar="MB/s", help="of each connection, in turn"
    )
    options = parser.parse_args()
    size = (256 if options.quick else options.mib) * MIB
    clients.print_versions()
    with workplace(options) as home:
        model, digest = _make(home / "source", size)
        clients.publish(model.parent, home / "data", _PREFIX)
        model.unlink()
        stored = home / "data" / clients.BUCKET / _OBJECT

        def same(folder: Path) -> None:
            if not filecmp.cmp(stored, folder / "model.bin", shallow=False):
                raise Failed("the file is not the object")

        with Store(home / "data", home / "store") as store:
            everyone = _everyone(store, home, stored, digest)
            results = race(everyone, home, options.repeats, same)
        worked = table(f"{size // MIB} MiB over https, {options.repeats} rounds", everyone, results,
                       most_memory=_MOST_MEMORY)  # fmt: skip
        for limit in options.limits:
            with Store(home / "data", home / f"store-{limit}", limit=limit * 1000 * 1000) as store:
                two = [
                    clients.pantry(store, _PREFIX, home / f"pantry-{limit}"),
                    clients.aria2(store, _OBJECT, target=1.15),
                ]
                results = race(two, home, options.repeats, same)
            ideal = size / (8 * limit * 1e6)
            title = f"{size // MIB} MiB, each connection limited to {limit} MB/s: 8 of them need {ideal:.2f} s at least"
            worked &= table(title, two, results, most_memory=_MOST_MEMORY)
    return 0 if worked else 1


def _everyone(store: Store, home: Path, stored: Path, digest: str) -> list[Client]:
    return [
        clients.pantry(store, _PREFIX, home / "pantry"),
        clients.aria2(store, _OBJECT, f'sha256sum "$file" | grep -q {digest}', target=0.8),
        clients.aria2(store, _OBJECT, f'openssl sha256 "$file" | grep -q {digest}'),
        clients.transfer_manager(store, _OBJECT, "processes", target=0.6),
        clients.transfer_manager(store, _OBJECT, "threads"),
        clients.gcloud(store, home, ("cp",), _OBJECT, target=0.5),
        clients.rclone(store, "copy", _OBJECT, ("--multi-thread-streams=8",)),
        Client("cp from memory: the floor", lambda folder: ["cp", stored, folder]),
    ]


def _make(folder: Path, size: int) -> tuple[Path, str]:
    """Write a bundle's source with random bytes as its model, and return that file and its sha256."""
    folder.mkdir()
    digest = hashlib.sha256()
    with (folder / "model.bin").open("wb") as file:
        for _ in range(size // MIB):
            block = os.urandom(MIB)
            digest.update(block)
            file.write(block)
    (folder / "model.yaml").write_text("predictor: predictor.py:Predictor\n")  # it has no pickle to find
    (folder / "predictor.py").write_text("class Predictor: ...\n")
    return folder / "model.bin", digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
