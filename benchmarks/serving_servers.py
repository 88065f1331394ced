"""The servers that are measured beside one another: how each is started, asked and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Failed, tree
from benchmarks.serving_client import ask, post
from tests.conftest import write_bundle
from tests.serve import Server, free_port

_STARTS_WITHIN_SECONDS = 120
_STOPS_WITHIN_SECONDS = 10
_CONFIG = "inputs: [{{name: x, datatype: FP64, shape: [-1, {columns}]}}]\nbatching: {{maxRows: {rows}}}\n"
_PACKAGES = ("numpy", "scikit_learn")
_SILENT = {  # they tell their makers how they are used, otherwise
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Contestant:
    """A server.

    Attributes:
        name: in the tables.
        path: of its URL that predicts.
        question: returns the document that asks for one row.
        answer: returns the number in a document that answers for one row.
        batches: rows that our own puts together at most; of peers, `serving_peers` says it.
        peer: the file in `serving_peers`, and the virtual environment; empty for our own.
    """

    name: str
    path: str
    question: Callable[[list[float]], object]
    answer: Callable[[Any], Any]
    batches: int = 64
    peer: str = ""

    @property
    def python(self) -> Path:
        """The interpreter of a peer's virtual environment."""
        return cache() / self.peer / "bin/python"

    @property
    def installed(self) -> bool:
        """Whether it can be started here."""
        return not self.peer or (cache() / self.peer / ".installed").exists()

    def version(self, package: str) -> str:
        """Return the version of a package in a peer's virtual environment."""
        for found in (cache() / self.peer).glob(f"lib/python3*/site-packages/{package}-*.dist-info"):
            return found.name.removeprefix(f"{package}-").removesuffix(".dist-info")
        return ""

    def request(self, row: list[float]) -> bytes:
        """Return the bytes that ask for one row."""
        return post(self.path, json.dumps(self.question(row)).encode())


def _open_inference(row: list[float]) -> object:
    return {"inputs": [{"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}]}


OURS = Contestant("pantry", "/v1/models/m:predict", lambda row: {"instances": [row]}, lambda it: it["predictions"][0])
CONTESTANTS = (
    OURS,
    Contestant("pantry, no batches", OURS.path, OURS.question, OURS.answer, batches=1),
    Contestant("LitServe", "/predict", lambda row: {"input": row}, lambda it: it["output"], peer="litserve"),
    Contestant(
        "MLServer", "/v2/models/m/infer", _open_inference, lambda it: it["outputs"][0]["data"][0], peer="mlserver"
    ),
    Contestant("BentoML", "/predict", lambda row: {"rows": [row]}, lambda it: it[0], peer="bentoml"),
    Contestant("KServe", OURS.path, OURS.question, OURS.answer, peer="kserve"),
    Contestant("MLflow", "/invocations", lambda row: {"inputs": [row]}, OURS.answer, peer="mlflow"),
    Contestant("Ray Serve", "/", lambda row: row, lambda it: it, peer="ray"),
)


def cache() -> Path:
    """Return the directory with the peers' virtual environments, which `benchmarks/peers` fills."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pantry-benchmarks"


def packages(contestant: Contestant) -> dict[str, str]:
    """Return the versions of what the models are made of, in a peer's virtual environment."""
    return {name.replace("_", "-"): contestant.version(name) for name in _PACKAGES}


@contextlib.contextmanager
def running(contestant: Contestant, model: Any, columns: int, request: bytes) -> Iterator[tuple[int, int]]:
    """Run a server until the block ends, and give its port and its process.

    Raises:
        Failed: it ends, or does not answer within two minutes.
    """
    with tempfile.TemporaryDirectory(prefix="pantry-bench-") as home:
        run = _peer if contestant.peer else _ours
        with run(contestant, model, columns, Path(home)) as (port, process, log):
            end = time.monotonic() + _STARTS_WITHIN_SECONDS
            while True:
                try:
                    ask(port, [request], 1, 0)
                    break
                except (OSError, Failed) as error:
                    if process.poll() is not None or time.monotonic() > end:
                        raise Failed(f"did not start: {error}; {log.read_text(errors='replace')[-1500:]}") from error
                time.sleep(0.1)
            yield port, process.pid


def cpu_seconds(process: int) -> float:
    """Return the CPU seconds of a process and all its descendants."""
    ticks = 0
    for pid in tree(process):
        with contextlib.suppress(OSError):  # a process may end at any time
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


_Running = tuple[int, "subprocess.Popen[bytes]", Path]


@contextlib.contextmanager
def _ours(contestant: Contestant, model: Any, columns: int, home: Path) -> Iterator[_Running]:
    server = Server(home)
    config = _CONFIG.format(columns=columns, rows=contestant.batches)
    write_bundle(server.volume / "m/.staging/1", model, config)
    (server.volume / "m/.staging/1").rename(server.volume / "m/1")
    server.desire(("m", "1"))
    server.start(workers=1)
    try:
        assert server.process is not None
        yield server.port, server.process, server.log
    finally:
        server.stop()


@contextlib.contextmanager
def _peer(contestant: Contestant, model: Any, columns: int, home: Path) -> Iterator[_Running]:
    port, log = free_port(), home / "log"
    (home / "model.pkl").write_bytes(pickle.dumps(model, protocol=5))
    script = ROOT / "benchmarks/serving_peers" / f"{contestant.peer}.py"
    with log.open("wb") as output:
        # Without -P the script's own directory would come first, and its name is the peer's.
        process = subprocess.Popen(
            [contestant.python, "-P", script, str(port), home / "model.pkl"],
            cwd=home,
            env=_environment(contestant, home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield port, process, log
    finally:
        family = list(tree(process.pid))
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOPS_WITHIN_SECONDS)
        for pid in family:  # what is left
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _environment(contestant: Contestant, home: Path) -> dict[str, str]:
    ours = re.compile("PANTRY_|VIRTUAL_ENV|PYTHON")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    path = f"{contestant.python.parent}:{os.environ['PATH']}"
    # Their caches and what they note down go with the run.
    return {**kept, **_SILENT, "PYTHONPATH": str(ROOT), "PATH": path, "HOME": str(home), "TMPDIR": str(home)}
