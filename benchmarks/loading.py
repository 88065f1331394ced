"""Load models of every size and kind: from a published bundle, beside pickle.load and joblib.load(mmap_mode="r").

Every load is a fresh process with a warm page cache; the ways take turns. What is timed begins with nothing but the
modules imported and ends with a usable object; ours includes verifying what it reads as code.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB, ROOT, arguments, verdict, workplace
from benchmarks.models import MODELS, QUICK, Model

BUNDLE, OLD, JOBLIB = "bundle", "model-2.pkl", "model.joblib"
_OURS, _PICKLE = "Pantry", "pickle.load, protocol 5"
_PATIENCE_SECONDS = 900

Run = dict[str, float]  # seconds, useSeconds; bytes resident: loaded, used, and own, which no file backs


def _load_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _load_joblib(path: Path) -> Any:
    return importlib.import_module("joblib").load(path, mmap_mode="r")


def _load_bundle(path: Path) -> Any:
    from loader.bundle.bundle import Bundle

    return Bundle.open(path).load("model.pkl")


WAYS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    _OURS: (BUNDLE, _load_bundle),
    _PICKLE: (f"{BUNDLE}/model.pkl", _load_pickle),
    "pickle.load, protocol 2": (OLD, _load_pickle),
    'joblib.load(mmap_mode="r")': (JOBLIB, _load_joblib),
}


def main() -> int:
    parser = arguments(__doc__ or "", repeats=5)
    parser.add_argument("--only", default="", metavar="TEXT", help="models with this in their name")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every run to this file, as JSON")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(*options.child)))
        return 0
    results: dict[str, Any] = {}
    with workplace(options) as home:
        for model in MODELS:
            if options.only in model.name:
                with tempfile.TemporaryDirectory(dir=home) as folder:  # one model at a time is on the disk
                    results[model.name] = _measure(model, Path(folder), options)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))
    return 0


def run_child(script: str, *words: object) -> Any:
    """Run a benchmark's own script in a fresh process, and return what it prints as JSON, or its error's last line."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"benchmarks.{script}", "--child", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 else (done.stderr.strip().splitlines() or ["killed"])[-1]


def resident(kind: str = "Rss", pid: int | str = "self") -> int:
    """Return the bytes that a process holds.

    Args:
        kind: Rss; Pss, where a page that several processes share counts in parts; Anonymous: without pages of files,
            which the system can take away and read again.
        pid: of the process.
    """
    found = re.search(rf"^{kind}:\s*(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def build(model: Model, folder: Path, factor: float, *, peers: bool) -> None:
    """Write a model as a published bundle, and for the peers as they have it."""
    from loader.publish import publish
    from loader.report import Report

    source = folder / "source"
    source.mkdir()
    value = model.make(factor)
    with (source / "model.pkl").open("wb") as file:
        pickle.dump(value, file, protocol=5)
    if peers:
        with (folder / OLD).open("wb") as file:
            pickle.dump(value, file, protocol=2)
        importlib.import_module("joblib").dump(value, folder / JOBLIB)
    del value  # packing is another process, and needs its memory
    publish(source, f"file://{folder / BUNDLE}", Report())
    for path in sorted(source.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _child(task: str, name: str, folder: str, more: str) -> Any:
    model = next(model for model in MODELS if model.name == name)
    if task == "build":
        return build(model, Path(folder), float(more), peers=True)
    return _load_once(model, Path(folder), more)


def _load_once(model: Model, folder: Path, way: str) -> Run:
    for module in (
        "joblib",
        "loader.bundle.bundle",
        "loader.bundle.pack.reader",
        "loader.bundle.pickles",
        *model.modules,
    ):
        importlib.import_module(module)
    where, load = WAYS[way]
    gc.collect()
    before, own = resident(), resident("Anonymous")
    began = time.perf_counter()
    value = load(folder / where)
    seconds = time.perf_counter() - began
    loaded = resident() - before
    began = time.perf_counter()
    model.use(value)
    return {
        "seconds": seconds,
        "loaded": loaded,
        "useSeconds": time.perf_counter() - began,
        "used": resident() - before,
        "own": resident("Anonymous") - own,
    }


def _measure(model: Model, folder: Path, options: argparse.Namespace) -> dict[str, list[Run] | str]:
    problem = run_child("loading", "build", model.name, folder, QUICK if options.quick else 1.0)
    if problem is not None:
        print(f"\n{model.name}: not built: {problem}", flush=True)
        return {"problem": problem}
    runs: dict[str, list[Run] | str] = {way: [] for way in WAYS}
    for turn in range(options.repeats):
        ways = list(WAYS)
        for way in [*ways[turn % len(ways) :], *ways[: turn % len(ways)]]:
            if isinstance(done := runs[way], list):
                _warm(folder / WAYS[way][0])
                run = run_child("loading", "load", model.name, folder, way)
                runs[way] = [*done, run] if isinstance(run, dict) else f"failed: {run}"
    size = (folder / BUNDLE / "model.pkl").stat().st_size
    _print(model, size, runs, promised=not options.quick)
    return runs


def _warm(path: Path) -> None:
    """Read files through, so that they come from memory."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                while stream.read(8 * MIB):
                    pass


def _print(model: Model, size: int, runs: dict[str, list[Run] | str], *, promised: bool) -> None:
    print(f"\n{model.name}: a pickle of {size / 1e6:.0f} MB\n")
    print("| way | load s, median | min | it / ours | of minima | MB loaded | used | own | s to use all | target | |")
    print(f"|{'---|' * 11}")
    for way, done in runs.items():
        if isinstance(done, str):
            print(f"| {way} | {done[:110]} |{' |' * 9}")
            continue
        median, least = _times(done)
        ratios = ["", ""]
        target = outcome = ""
        if way != _OURS and isinstance(ours := runs[_OURS], list):
            ratios = [f"{theirs / mine:.2f}" for theirs, mine in zip((median, least), _times(ours), strict=True)]
            if promised and way == _PICKLE and model.target:
                target, outcome = f">= {model.target:.3g}", verdict(median / _times(ours)[0] >= model.target)
        memory = [f"{statistics.median(run[key] for run in done) / 1e6:.0f}" for key in ("loaded", "used", "own")]
        using = f"{statistics.median(run['useSeconds'] for run in done):.2f}"
        print(
            f"| {' | '.join([way, f'{median:.4f}', f'{least:.4f}', *ratios, *memory, using, target, outcome])} |",
            flush=True,
        )


def _times(runs: list[Run]) -> tuple[float, float]:
    return statistics.median(run["seconds"] for run in runs), min(run["seconds"] for run in runs)


if __name__ == "__main__":
    sys.exit(main())
