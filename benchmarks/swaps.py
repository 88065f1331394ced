"""Swap a model of 2 GB ten times, while requests keep the processors half busy: failures, p99, memory.

Requests leave at fixed times, whether the ones before are answered or not, and what a request takes is counted from
the time when it should have left: a server that stands still is seen to.
"""

from __future__ import annotations

import itertools
import json
import pickle
import queue
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.first_answer import give
from benchmarks.loading import resident, run_child
from benchmarks.measure import Failed, arguments, show, tree, verdict, workplace
from benchmarks.serving_client import Client, connected, post, received
from benchmarks.serving_models import Rows
from tests.serve import Server, wait_until
from tests.test_server import children_of

GIGABYTES = 2.0
SWAPS, CONNECTIONS = 10, 16
COLUMNS, ROWS_APART = 125, 4  # of 1,000 bytes a row, so that every page is met
STEP = 1.2
LATEST_SECONDS = 20.0  # for what was asked to be answered, at the end
TIMES, PART = 2.0, 0.02  # the targets
PATH = "/v1/models/m:predict"
BODY = b'{"instances": [[7]]}'
_CONFIG = "inputs: [{name: row, datatype: INT64, shape: [-1, 1]}]\n"


@dataclass(frozen=True)
class Asked:
    """One request: when it should have left, what it took, and the version that answered; None where it failed."""

    at: float
    seconds: float
    version: float | None


def main() -> int:
    parser = arguments(__doc__ or "", repeats=1)
    parser.add_argument("--child", nargs="+")
    options = parser.parse_args()
    if options.child:
        _build(Path(options.child[1]), int(options.child[2]))
        print("null")
        return 0
    with workplace(options) as home:
        rows = int(GIGABYTES * 1e6) // (20 if options.quick else 1)
        if problem := run_child("swaps", "build", home, rows):
            raise SystemExit(f"the bundles were not built: {problem}")
        with tempfile.TemporaryDirectory(dir=home) as folder:
            _measure(Server(Path(folder)), home, rows, promised=not options.quick)
    return 0


def _measure(server: Server, home: Path, rows: int, *, promised: bool) -> None:
    give(home / "published-1", server.volume / "m/1")
    server.desire(("m", "1"))
    server.start(workers=2)
    try:
        server.wait_for("m", "ready", seconds=120)
        rate = _half(server.port)
        load = Load(server.port, rate)
        time.sleep(6)
        held, during = [], []
        before = load.between(load.began + 1, time.monotonic())
        for swap in range(2, SWAPS + 2):
            began = time.monotonic()
            give(home / f"published-{2 - swap % 2}", server.volume / "m" / str(swap))
            server.desire(("m", str(swap)))
            server.wait_for("m", "ready", str(swap), 120)
            wait_until(lambda: _is_alone(server), "one generation", 120)
            during += load.between(began, time.monotonic())
            time.sleep(2)
            held.append(_held(server, rows))
        everything = load.stop()
    finally:
        server.stop()
    failed = sum(asked.version not in (1.0, 2.0) for asked in everything)
    p99, p99_during = _p99(before), _p99(during)
    times = p99_during / p99
    growth = held[-1] / held[0] - 1
    table = [
        ("figure", "measured", "target", ""),
        ("load: requests/s, processors half busy", f"{rate:.0f}", "", ""),
        ("answered; failed", f"{len(everything)}; {failed}", "0 failed", verdict(not failed)),
        ("p99 before, ms", f"{p99 * 1000:.1f}", "", ""),
        ("p99 during swaps, ms", f"{p99_during * 1000:.1f}", "", ""),
        ("times as long", f"{times:.2f}", f"<= {TIMES}", verdict(times <= TIMES)),
        ("slowest during swaps, ms", f"{max(a.seconds for a in during) * 1000:.0f}", "", ""),
        ("memory after the first and the last swap, MB", f"{held[0] / 1e6:.0f}; {held[-1] / 1e6:.0f}", "", ""),
        ("growth", f"{growth:+.2%}", f"<= {PART:.0%}", verdict(growth <= PART)),
    ]
    if not promised:
        table = [(*row[:2], "", "") for row in table]
    show(f"{SWAPS} swaps of a model of {GIGABYTES if promised else GIGABYTES / 20} GB, 2 workers", table)


def _half(port: int) -> float:
    """Return the requests a second that keep this machine's processors, clients included, half busy."""
    rate = 250.0
    while True:
        load = Load(port, rate)
        time.sleep(0.5)
        busy, all_together = _ticks()
        time.sleep(1.5)
        now_busy, now_all = _ticks()
        load.stop()
        if now_busy - busy > (now_all - all_together) / 2:
            return rate / STEP
        rate *= STEP


def _ticks() -> tuple[int, int]:
    """Return what this machine's processors have spent busy, and altogether."""
    spent = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = spent[3] + spent[4]
    return sum(spent) - idle, sum(spent)


def _is_alone(server: Server) -> bool:
    assert server.process is not None
    return len(children_of(server.process.pid)) == 1


def _held(server: Server, rows: int) -> int:
    """Return what the server's processes hold when every page of the model was used, in pieces of a tenth."""
    assert server.process is not None
    for part in range(10):
        numbers = [[row] for row in range(part * rows // 10, (part + 1) * rows // 10, ROWS_APART)]
        assert server.post(PATH, json={"instances": numbers}).status_code == 200
    return sum(resident("Pss", pid) for pid in tree(server.process.pid))


def _p99(asked: list[Asked]) -> float:
    return statistics.quantiles([each.seconds for each in asked], n=100)[98]


class Load:
    """Clients on kept-alive connections that ask at a steady rate until they are stopped.

    Args:
        port: of the server.
        rate: requests a second, of all together.
    """

    def __init__(self, port: int, rate: float) -> None:
        self._port, self._rate, self._done = port, rate, threading.Event()
        self._asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self._all: list[Asked] = []
        self.began = time.monotonic() + 0.2
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def between(self, start: float, end: float) -> list[Asked]:
        """Return the requests that were to leave in this time."""
        while not self._asked.empty():
            self._all.append(self._asked.get())
        return [asked for asked in self._all if start <= asked.at < end]

    def stop(self) -> list[Asked]:
        """End, and return all requests."""
        self._done.set()
        self._thread.join()
        return self.between(0, time.monotonic())

    def _ask(self) -> None:
        request = post(PATH, BODY)
        with connected(self._port, CONNECTIONS) as selector:
            clients: list[Client] = [key.data for key in selector.get_map().values()]
            due: list[deque[float]] = [deque() for _ in clients]
            sent = 0
            end = 0.0
            while not end or (any(due) and time.monotonic() < end):
                now = time.monotonic()
                if self._done.is_set() and not end:
                    end = now + LATEST_SECONDS
                while (at := self.began + sent / self._rate) <= now and not end:
                    number = sent % CONNECTIONS
                    due[number].append(at)
                    if len(due[number]) == 1:
                        clients[number].connection.sendall(request)
                    sent += 1
                for key, _ in selector.select(0.1 if end else max(0.0, at - time.monotonic())):
                    client: Client = key.data
                    number = clients.index(client)
                    try:
                        body = received(client)
                    except (Failed, OSError) as error:
                        print(f"failed: {error}", file=sys.stderr)
                        body = b""
                    if body is None:
                        continue
                    ends = not body or b"\r\nConnection: close" in client.said
                    client.said = b""
                    if due[number]:
                        at = due[number].popleft()
                        version = json.loads(body)["predictions"][0] if body else None
                        self._asked.put(Asked(at, time.monotonic() - at, version))
                    if ends:
                        selector.unregister(client.connection)
                        client.connection.close()
                        client.connection = socket.create_connection(("127.0.0.1", self._port), timeout=20)
                        selector.register(client.connection, selectors.EVENT_READ, client)
                    if due[number]:
                        client.connection.sendall(request)
            for at in itertools.chain.from_iterable(due):  # nobody answered
                self._asked.put(Asked(at, time.monotonic() - at, None))


def _build(home: Path, rows: int) -> None:
    from loader.publish import publish
    from loader.report import Report

    for version in (1, 2):
        source = home / f"source-{version}"
        source.mkdir()
        with (source / "model.pkl").open("wb") as file:
            pickle.dump(Rows(np.full((rows, COLUMNS), float(version))), file, protocol=5)
        (source / "model.yaml").write_text(_CONFIG)
        publish(source, f"file://{home / f'published-{version}'}", Report())


if __name__ == "__main__":
    sys.exit(main())
