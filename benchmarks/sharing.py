"""Hold a model in four workers: one load, then gc.freeze and fork, as Pantry does; or a pickle.load in each.

The figure is copies: what the server and its workers hold together (PSS, where a page that several processes share
counts in parts), less what they hold with no model at all, divided by the size of one copy. One copy is what a single
process holds that loaded the model in that way and used all of it. Every worker uses all of it, too.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.loading import WAYS, build, resident, run_child
from benchmarks.measure import arguments, verdict, workplace
from benchmarks.models import QUICK, SHARED, Model

WORKERS = 4
TARGET = 1.1  # copies
_OURS, _PICKLE = "Pantry", "pickle.load, protocol 5"
_ONCE, _EACH = "one load, then fork", "a load in each worker"
ROWS = [(_OURS, _ONCE), (_PICKLE, _ONCE), (_PICKLE, _EACH), (_OURS, _EACH)]


def main() -> int:
    parser = arguments(__doc__ or "", repeats=3)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every run to this file, as JSON")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(*options.child)))
        return 0
    results: dict[str, Any] = {}
    with workplace(options) as home:
        for model in SHARED:
            with tempfile.TemporaryDirectory(dir=home) as folder:
                results[model.name] = _measure(model, Path(folder), options)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))
    return 0


def _child(task: str, name: str, folder: str, more: str, mode: str = "") -> Any:
    model = next(model for model in SHARED if model.name == name)
    if task == "build":
        return build(model, Path(folder), float(more), peers=False)
    for module in ("loader.bundle.bundle", "loader.bundle.pack.reader", "loader.bundle.pickles", *model.modules):
        importlib.import_module(module)
    gc.collect()
    where, load = WAYS[more]
    path = Path(folder, where)
    if task == "copy":
        before = resident("Pss")
        model.use(value := load(path))
        held = resident("Pss") - before
        del value
        return held
    nothing = _held_by_all(lambda: None)
    loaded = [load(path)] if mode == _ONCE else []

    def work() -> Any:
        value = loaded[0] if loaded else load(path)
        model.use(value)
        return value

    return _held_by_all(work) - nothing


def _held_by_all(work: Callable[[], Any]) -> int:
    """Fork workers that all do some work and keep what it returns, and return the PSS of all processes by then."""
    gc.collect()
    gc.freeze()
    done_read, done = os.pipe()
    stay, stay_open = os.pipe()
    workers = []
    for _ in range(WORKERS):
        worker = os.fork()
        if worker == 0:
            try:
                os.close(stay_open)
                kept = [work()]
                os.write(done, b".")
                os.read(stay, 1)
                del kept
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        workers.append(worker)
    os.close(done)
    finished = 0
    while finished < WORKERS and (got := os.read(done_read, WORKERS)):
        finished += len(got)
    held = sum(resident("Pss", pid) for pid in (os.getpid(), *workers))
    os.close(stay_open)
    for worker in workers:
        os.waitpid(worker, 0)
    for descriptor in (done_read, stay):
        os.close(descriptor)
    assert finished == WORKERS, "a worker failed"
    return held


def _measure(model: Model, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    problem = run_child("sharing", "build", model.name, folder, QUICK if options.quick else 1.0)
    if problem is not None:
        print(f"\n{model.name}: not built: {problem}", flush=True)
        return {"problem": problem}
    print(f"\n{model.name}: {WORKERS} workers\n")
    print("| way | | MB, all processes | MB, one copy | copies | most | target | |")
    print(f"|{'---|' * 8}")
    runs: dict[str, Any] = {}
    for way, mode in ROWS:
        held, copy = [], []
        for _ in range(options.repeats):
            copy.append(run_child("sharing", "copy", model.name, folder, way))
            held.append(run_child("sharing", "hold", model.name, folder, way, mode))
        if problems := [each for each in (*held, *copy) if not isinstance(each, int)]:
            runs[f"{way}, {mode}"] = str(problems[0])
            print(f"| {way} | {mode} | failed: {str(problems[0])[:110]} |{' |' * 5}", flush=True)
            continue
        runs[f"{way}, {mode}"] = {"held": held, "copy": copy}
        one = statistics.median(copy)
        copies = [each / one for each in held]
        promise = ["", ""]
        if (way, mode) == ROWS[0] and not options.quick:
            promise = [f"<= {TARGET}", verdict(statistics.median(copies) <= TARGET)]
        megabytes = [f"{each / 1e6:.0f}" for each in (statistics.median(held), one)]
        figures = [f"{statistics.median(copies):.2f}", f"{max(copies):.2f}"]
        print(f"| {' | '.join([way, mode, *megabytes, *figures, *promise])} |", flush=True)
    return runs


if __name__ == "__main__":
    sys.exit(main())
