"""From a published word table of 2.2 GB to the first right answer: ours, beside a server that calls pickle.load.

Twice: from the moment the bundle has its final name on the volume of a server that runs; and from the start of the
process, with the bundle there. The peer is the smallest server there can be: it waits for the file, loads it, answers.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import requests

from benchmarks.loading import run_child
from benchmarks.measure import ROOT, arguments, show, verdict, workplace
from benchmarks.models import MODELS, QUICK
from tests.serve import Server, free_port

TABLE = next(model for model in MODELS if "930,000" in model.name)
MOST_SECONDS, TIMES = 2.0, 8.0  # the targets
WORD = "word1000"
_CONFIG = "inputs: [{name: word, datatype: BYTES, shape: [-1]}]\n"
_PATIENCE_SECONDS = 300
_IMPORTS = "import serving.generation, numpy, loader.bundle.pack.reader"
_PEER_IMPORTS = "import http.server, json, pickle, numpy"


def main() -> int:
    parser = arguments(__doc__ or "", repeats=3)
    parser.add_argument("--child", nargs="+")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(*options.child)))
        return 0
    with workplace(options) as home:
        bundle = home / "published"
        problem = run_child("first_answer", "build", home, QUICK if options.quick else 1.0)
        if problem is not None:
            raise SystemExit(f"the bundle was not built: {problem}")
        size = (bundle / "model.pkl").stat().st_size
        ways: dict[str, Callable[[Path, Path], float]] = {
            "ours, final name": _ours_from_name,
            "pickle.load, final name": _peer_from_name,
            "ours, process start": _ours_from_start,
            "pickle.load, process start": _peer_from_start,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        imports: list[float] = []
        for _ in range(options.repeats):
            imports.append(_imports(_IMPORTS))
            for name, way in ways.items():
                with tempfile.TemporaryDirectory(dir=home) as folder:
                    _warm(bundle)
                    seconds[name].append(way(Path(folder), bundle))
        _print(size, seconds, imports, promised=not options.quick)
    return 0


def _print(size: int, seconds: dict[str, list[float]], imports: list[float], *, promised: bool) -> None:
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    needed = statistics.median(imports)
    rows: list[tuple[str, ...]] = [
        ("from", "ours, s", "beyond imports", f"<= {MOST_SECONDS}", "pickle.load, s", "it / ours", f">= {TIMES}")
    ]
    for since in ("final name", "process start"):
        ours, peer = middle[f"ours, {since}"], middle[f"pickle.load, {since}"]
        rows.append(
            (
                since,
                f"{ours:.2f}",
                f"{ours - needed:.2f}",
                verdict(ours - needed <= MOST_SECONDS) if promised else "",
                f"{peer:.2f}",
                f"{peer / ours:.1f}",
                verdict(peer / ours >= TIMES) if promised else "",
            )
        )
    show(
        f"Word table, pickle of {size / 1e9:.2f} GB: to the first right answer",
        rows,
        [f"our imports alone: {needed:.2f} s; every run: {json.dumps(seconds)}"],
    )


def _ours_from_name(home: Path, bundle: Path) -> float:
    with _ours(home) as server:
        _await(server.url, status=503)
        began = time.perf_counter()
        give(bundle, server.volume / "m/1")
        _await(server.url)
        return time.perf_counter() - began


def _ours_from_start(home: Path, bundle: Path) -> float:
    def prepare(server: Server) -> None:
        give(bundle, server.volume / "m/1")

    began = time.perf_counter()
    with _ours(home, prepare) as server:
        _await(server.url)
        return time.perf_counter() - began


def _peer_from_name(home: Path, bundle: Path) -> float:
    with _peer(home) as url:
        _await(url, status=503)
        began = time.perf_counter()
        (home / "model.pkl").symlink_to(bundle / "model.pkl")
        _await(url)
        return time.perf_counter() - began


def _peer_from_start(home: Path, bundle: Path) -> float:
    (home / "model.pkl").symlink_to(bundle / "model.pkl")
    began = time.perf_counter()
    with _peer(home) as url:
        _await(url)
        return time.perf_counter() - began


@contextlib.contextmanager
def _ours(home: Path, prepare: Callable[[Server], None] = lambda server: None) -> Iterator[Server]:
    server = Server(home)
    (server.volume / "m").mkdir()
    prepare(server)
    server.desire(("m", "1"))
    server.start(workers=2)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _peer(home: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.first_answer", "--child", "serve", str(home), str(port)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def give(bundle: Path, final: Path) -> None:
    """Give a bundle its final name on a volume, by a rename, as the loader does; its files are linked."""
    staging = final.with_name(".staging")
    staging.mkdir(parents=True)
    for file in bundle.rglob("*"):
        if file.is_file():
            target = staging / file.relative_to(bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file)
    staging.rename(final)


def _await(url: str, status: int = 200) -> None:
    """Ask until the answer has a status, and is right."""
    end = time.monotonic() + _PATIENCE_SECONDS
    body = json.dumps({"instances": [WORD]}).encode()
    while time.monotonic() < end:
        with contextlib.suppress(requests.ConnectionError):
            answer = requests.post(f"{url}/v1/models/m:predict", data=body, timeout=_PATIENCE_SECONDS)
            if answer.status_code == status:
                assert status != 200 or len(answer.json()["predictions"][0]) == 620
                return
        time.sleep(0.01)
    raise SystemExit(f"{url} did not answer within {_PATIENCE_SECONDS} s")


def _imports(words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=True)
    return time.perf_counter() - began


def _warm(folder: Path) -> None:
    """Read all files, so that all find them in the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                while opened.read(1 << 24):
                    pass


def _child(task: str, home: str, more: str) -> Any:
    if task == "build":
        return _build(Path(home), float(more))
    return _serve(Path(home, "model.pkl"), int(more))


def _build(home: Path, factor: float) -> None:
    from loader.publish import publish
    from loader.report import Report

    source = home / "source"
    source.mkdir()
    with (source / "model.pkl").open("wb") as file:
        pickle.dump(TABLE.make(factor), file, protocol=5)
    (source / "model.yaml").write_text(_CONFIG)
    publish(source, f"file://{home / 'published'}", Report())


def _serve(pickled: Path, port: int) -> None:
    """Be the peer."""
    table: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not table and pickled.exists():
                with pickled.open("rb") as file:
                    table.update(pickle.load(file))
            answer = json.dumps({"predictions": [table[word].tolist() for word in asked["instances"]] if table else []})
            self.send_response(200 if table else 503)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_request(self, code: Any = "-", size: Any = "-") -> None: ...

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    sys.exit(main())
