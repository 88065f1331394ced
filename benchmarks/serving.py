"""Ask the real server over loopback, with few and many clients, and compare with the bare predict in a loop.

One process plays all clients on kept-alive connections, on the same cores: a client sends its next request when it has
its answer. "loop" is the model called in a loop over batches of as many rows as there are clients, with no server.
Peers are not asked yet.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import write_bundle
from tests.serve import Server

CLIENTS = (1, 16, 64)
CONFIG = "inputs: [{{name: x, datatype: FP64, shape: [-1, {columns}]}}]\nbatching: {{maxRows: {rows}}}\n"


class Product:
    """Multiplies rows by a square matrix, which is read from memory once for each batch."""

    def __init__(self, size: int) -> None:
        self.matrix = np.random.default_rng(1).random((size, size))

    def predict(self, rows: Any) -> Any:
        """Return one number a row."""
        return (rows @ self.matrix)[:, 0]


def models() -> dict[str, tuple[Any, int]]:
    """Return models with the number of their columns."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    chance = np.random.default_rng(1)
    rows, labels = chance.random((2000, 64)), chance.integers(0, 10, 2000)
    return {
        "logistic regression": (LogisticRegression(max_iter=50).fit(rows, labels), 64),
        "forest": (RandomForestClassifier(100, random_state=1).fit(rows, labels), 64),
        "2048² product": (Product(2048), 2048),
    }


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="of each figure")
    parser.add_argument("--only", default="", help="part of a model's name")
    options = parser.parse_args()
    titles = ["model", "clients", "loop rows/s", *(["{} req/s", "p50 ms", "p99 ms", "CPU ms"] * 2)]
    print(f"| {' | '.join(titles)} |".format("apart", "batched"))
    print("|---" * len(titles) + "|")
    for name, (model, columns) in models().items():
        if options.only not in name:
            continue
        figures = {rows: dict(_serve(model, columns, rows, options.seconds)) for rows in (1, 64)}
        for clients in CLIENTS:
            cells = [name, str(clients), f"{_loop(model, columns, clients):.0f}"]
            cells += [figure for rows in (1, 64) for figure in figures[rows][clients]]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def _serve(model: Any, columns: int, rows: int, seconds: float) -> Iterator[tuple[int, list[str]]]:
    with tempfile.TemporaryDirectory() as home:
        server = Server(Path(home))
        write_bundle(server.volume / "m/.staging/1", model, CONFIG.format(columns=columns, rows=rows))
        (server.volume / "m/.staging/1").rename(server.volume / "m/1")
        server.desire(("m", "1"))
        server.start()
        try:
            server.wait_for("m", "ready")
            body = json.dumps({"instances": np.random.default_rng(2).random((1, columns)).round(3).tolist()}).encode()
            head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            _ask(server.port, request, 4, 1.0)
            for clients in CLIENTS:
                began = _cpu_of(server)
                times = _ask(server.port, request, clients, seconds)
                cpu = (_cpu_of(server) - began) / len(times) * 1000
                cuts = statistics.quantiles(times, n=100)
                yield (
                    clients,
                    [f"{len(times) / seconds:.0f}", *(f"{cuts[n] * 1000:.1f}" for n in (49, 98)), f"{cpu:.2f}"],
                )
        finally:
            server.stop()


def _ask(port: int, request: bytes, clients: int, seconds: float) -> list[float]:
    """Return how long each request took."""
    times: list[float] = []
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ, [time.perf_counter()])
        connection.sendall(request)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, _ in selector.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            connection, began = key.fileobj, key.data
            said = connection.recv(65536)
            assert said.startswith(b"HTTP/1.1 200"), said
            now = time.perf_counter()
            times.append(now - began[0])
            began[0] = now
            connection.sendall(request)
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    return times


def _loop(model: Any, columns: int, rows: int) -> float:
    """Return the rows per second of the bare model."""
    batch = np.random.default_rng(2).random((rows, columns))
    predict: Callable[[Any], Any] = model.predict
    predict(batch)
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < 1:
        predict(batch)
        calls += 1
    return calls * rows / (time.perf_counter() - began)


def _cpu_of(server: Server) -> float:
    """Return the CPU seconds of the server's whole process tree."""
    assert server.process is not None
    pids, ticks = [server.process.pid], 0
    while pids:
        pid = pids.pop()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    from benchmarks import serving  # by its name: what it pickles is found again by that

    raise SystemExit(serving.main())
