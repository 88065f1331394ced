"""Hostile and unlucky clients on the real server: each gets its answer or its end, and the others notice nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.model_kinds import Doubler
from tests.serve import Server, wait_until
from tests.test_server import DECLARED, children_of, put, serve

HEAD = b"POST /predict HTTP/1.1\r\nHost: h\r\n"
BODY = b'{"x": [1, 2]}'
GOOD = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
PREDICTOR = """
import time
import numpy as np
class Predictor:
    def load(self, bundle): pass
    def predict(self, inputs):
        x = inputs['x']
        time.sleep({seconds})
        while (x < 0).any():
            time.sleep(1)
        return np.repeat(x, {times}, axis=1)
"""


def say(server: Server, *pieces: bytes, seconds: float = 10, pause: float = 0) -> bytes:
    """Send pieces on one connection, and return all that comes until the server closes it, or for some seconds."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        said = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                said += data
        return said


def status_of(said: bytes) -> int:
    """Return the status of the first response, 0 where there is none."""
    found = re.match(rb"HTTP/1.1 (\d{3}) ", said)
    return int(found[1]) if found else 0


@contextlib.contextmanager
def held(server: Server, count: int, *pieces: bytes) -> Iterator[list[socket.socket]]:
    """Hold connections that have sent something and wait."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sockets.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)))
            for piece in pieces:
                sockets[-1].sendall(piece)
        yield sockets


def times_of(server: Server, count: int) -> list[float]:
    """Ask well-formed requests on one connection; return how long each took, in order of length."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        connection.request("POST", "/predict", BODY)
        answer = connection.getresponse()
        said = answer.read()
        assert json.loads(said) == {"prediction": [2.0, 4.0]}, said
        times.append(time.perf_counter() - began)
    connection.close()
    return sorted(times)


def memory_of(server: Server) -> int:
    """Return the resident bytes of the one generation's worker."""
    assert server.process is not None
    (master,) = children_of(server.process.pid)
    (worker,) = children_of(master)
    return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("stalled", [b"", b"POST /pre", GOOD[:-5], CHUNKED + b"5\r\nab"])
def test_stalled_clients_starve_nobody(server: Server, stalled: bytes) -> None:
    """150 clients that have sent nothing, half a head, half a body or half a chunk; another one is answered at once."""
    serve(server, Doubler(), DECLARED)
    with held(server, 150, *([stalled] if stalled else [])) as sockets:
        for trickling in sockets[:50]:
            trickling.sendall(stalled[-1:])
        times = times_of(server, 200)
    assert times[int(len(times) * 0.99)] < 1.0
    times_of(server, 1)


def test_limits_on_requests(server: Server) -> None:
    """Framing that two readers could read differently, and heads too large, are refused, in JSON, and the end."""
    serve(server, Doubler(), DECLARED)
    length = b"Content-Length: %d\r\n" % len(BODY)
    refused: dict[bytes, int | tuple[int, ...]] = {
        HEAD + length + b"Transfer-Encoding: chunked\r\n\r\n" + BODY: 400,
        HEAD + b"Transfer-Encoding: chunked\r\n" + length + b"\r\n0\r\n\r\n": 400,
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n": 400,
        HEAD + b"Transfer-Encoding: identity, chunked, chunked\r\n\r\n0\r\n\r\n": 400,
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n": (400, 501),
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n": 400,
        HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n": (400, 501),
        HEAD + b"X: a\r\n b\r\n" + length + b"\r\n" + BODY: 400,
        HEAD + length + length + b"\r\n" + BODY: 400,
        HEAD + b"Content-Length: +13\r\n\r\n" + BODY: 400,
        HEAD + b"Content-Length: 13, 13\r\n\r\n" + BODY: 400,
        HEAD + b"Content-Length: -1\r\n\r\n": 400,
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n": 413,
        HEAD + b"Content-Length: 18446744073709551629\r\n\r\n" + BODY: (400, 413),
        HEAD + b"X\x00: a\r\n\r\n": 400,
        HEAD + b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
        b"POST /predict HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
        b"POST /predict HTTP/9.9\r\n\r\n": 400,
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n": 414,
        HEAD + b"X: " + b"a" * 9000 + b"\r\n\r\n": 431,
        HEAD + b"X: a\r\n" * 200 + b"\r\n": 431,
        HEAD + b"X: " + b"a" * 70000: 431,
        CHUNKED + b"zz\r\n": 400,
        CHUNKED + b"-1\r\n": 400,
        CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n": 400,
        CHUNKED + b"1\r\na\r\n" * 300_000: 413,
    }
    for request, status in refused.items():
        said = say(server, request + SMUGGLED, seconds=4)
        statuses = (status,) if isinstance(status, int) else status
        assert status_of(said) in statuses, (request[:120], said[:300])
        assert len(re.findall(rb"HTTP/1.1 \d", said)) == 1, (request[:120], said)
        assert b'{"error":' in said
        assert b"Traceback" not in said
    times_of(server, 1)


def test_random_bytes_get_no_traceback_and_harm_nobody(server: Server) -> None:
    """Noise, and good requests with a few bytes changed: nothing is answered with a 500, and the server goes on."""
    serve(server, Doubler(), DECLARED)
    chance = random.Random(5)
    statuses = Counter[int]()
    for number in range(150):
        if number % 3:
            request = bytearray(GOOD if number % 2 else CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\n\r\n")
            for _ in range(chance.randint(1, 4)):
                request[chance.randrange(len(request))] = chance.randrange(256)
        else:
            request = bytearray(chance.randbytes(chance.randint(1, 3000)))
        said = say(server, bytes(request), seconds=0.05)
        statuses[status_of(said)] += 1
        assert b"Traceback" not in said
    assert not {status for status in statuses if status >= 500 and status != 501}, statuses
    assert statuses[400] > 20
    times_of(server, 5)
    log = server.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:2000]


def test_a_request_that_never_ends_is_told_so(server: Server) -> None:
    """Half a request gets 408 after PANTRY_REQUEST_SECONDS, however it trickles, and its connection is closed."""
    put(server, "m", "1", Doubler(), DECLARED)
    server.desire(("m", "1"))
    server.start(request_seconds=2)
    server.wait_for("m", "ready")
    began = time.monotonic()
    assert status_of(say(server, GOOD[:-1])) == 408
    assert status_of(say(server, *[b"G"] * 30, pause=0.1)) == 408
    assert say(server) == b""  # it never began: there is nothing to answer
    assert 5.5 < time.monotonic() - began < 15


def test_requests_may_come_in_pieces_or_several_at_once(server: Server) -> None:
    """Byte by byte, announced by Expect, or pipelined behind one another: each is answered, in order."""
    serve(server, Doubler(), DECLARED)
    close = GOOD.replace(b"Host: h", b"Host: h\r\nConnection: close")
    said = say(server, *[close[i : i + 1] for i in range(len(close))])
    assert status_of(said) == 200
    expecting = close.replace(b"Host: h", b"Host: h\r\nExpect: 100-continue")
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(expecting[: -len(BODY)])
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert status_of(connection.recv(65536)) == 200
    chunks = CHUNKED + b"7\r\n" + BODY[:7] + b"\r\n6;a=b\r\n" + BODY[7:] + b"\r\n0\r\nX: y\r\n\r\n"
    said = say(server, GOOD + chunks + SMUGGLED + GOOD[:40], GOOD[40:] + close)
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200"] * 5
    assert re.findall(rb'{"\w+', said)[2] == b'{"status'


def test_clients_that_do_not_take_their_answers_starve_nobody(server: Server) -> None:
    """Forty clients ask for megabytes and read nothing, some go away in the middle; others are answered meanwhile."""
    code = PREDICTOR.format(seconds=0, times=200_000)
    put(server, "large", "1", b"", DECLARED + "predictor: predictor.py:Predictor\n", predictor__py=code)
    put(server, "m", "1", Doubler(), DECLARED)
    server.desire(("m", "1"), ("large", "1"))
    server.start(request_seconds=5, max_queue=64)
    server.wait_for("large", "ready")
    body = b'{"instances": [[1, 2]]}'
    ask = b"POST /v1/models/large:predict HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with held(server, 40, ask) as sockets:
        for gone in sockets[::2]:
            gone.recv(1000)
            gone.close()
        assert times_of(server, 20)[-1] < 3.0
        patient = sockets[1]
        said = b""
        with contextlib.suppress(OSError):
            while len(said) < 1_600_000 and (data := patient.recv(65536)):
                said += data
        assert status_of(said) == 200
        assert int(re.search(rb"Content-Length: (\d+)", said)[1]) + said.index(b"\r\n\r\n") + 4 == len(said)  # type: ignore[index]
    times_of(server, 1)


def test_a_flood_is_refused_before_it_waits_in_vain_and_leaves_nothing(server: Server) -> None:
    """With the queue full, clients get 503 and Retry-After at once, health answers, and the memory comes back."""
    put(
        server,
        "m",
        "1",
        Doubler(seconds=0.3),
        "inputs: [{name: x, datatype: FP64, shape: [-1, 2]}]\nbatching: {maxRows: 1}\n",
    )
    server.desire(("m", "1"))
    server.start(max_queue=16, predict_seconds=3)
    server.wait_for("m", "ready")
    wait_until(lambda: server.process and len(children_of(server.process.pid)) == 1, "one generation")
    statuses, slowest_refusal, waits = Counter[int](), [0.0], []

    def client() -> None:
        for _ in range(4):
            answer = server.post("/predict", data=BODY)
            statuses[answer.status_code] += 1
            if answer.status_code == 503:
                assert "is busy" in answer.json()["error"]
                waits.append(int(answer.headers["Retry-After"]))
                slowest_refusal[0] = max(slowest_refusal[0], answer.elapsed.total_seconds())

    server.post("/predict", data=BODY)
    before = memory_of(server)
    threads = [threading.Thread(target=client) for _ in range(60)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    health = requests.get(f"{server.url}/healthz", timeout=20)
    for thread in threads:
        thread.join()
    assert health.status_code == 200
    assert health.elapsed.total_seconds() < 2
    assert statuses.keys() == {200, 503}
    assert statuses[200] >= 8
    assert all(wait >= 1 for wait in waits)
    assert slowest_refusal[0] < 2.5
    assert times_of(server, 1)[0] < 1
    assert memory_of(server) - before < 50_000_000


def test_large_bodies_that_never_end_do_not_fill_the_memory(server: Server) -> None:
    """What unfinished bodies hold is bounded: beyond it large ones get 503, small ones go on."""
    put(server, "m", "1", Doubler(), DECLARED)
    server.desire(("m", "1"))
    server.start(threads=2, max_body_bytes=4_000_000)
    server.wait_for("m", "ready")
    wait_until(lambda: server.process and len(children_of(server.process.pid)) == 1, "one generation")
    before = memory_of(server)
    with held(server, 30, HEAD + b"Content-Length: 3900000\r\n\r\n") as sockets:
        for holding in sockets:
            with contextlib.suppress(OSError):
                holding.sendall(b"x" * 3_000_000)
        assert memory_of(server) - before < 40_000_000
        times_of(server, 20)
        assert sum(status_of(_read(one)) == 503 for one in sockets[10:]) >= 10
    times_of(server, 1)


def _read(connection: socket.socket) -> bytes:
    connection.settimeout(0.05)
    with contextlib.suppress(OSError):
        return connection.recv(65536)
    return b""


def test_a_predict_that_hangs_costs_its_worker_and_nothing_else(server: Server) -> None:
    """Its clients get 504, a worker is forked in its place, the log says so; other workers answer all the time."""
    code = PREDICTOR.format(seconds=0, times=1)
    put(server, "m", "1", b"", DECLARED + "predictor: predictor.py:Predictor\n", predictor__py=code)
    server.desire(("m", "1"))
    server.start(predict_seconds=1, workers=2)
    server.wait_for("m", "ready")
    assert server.process is not None
    wait_until(lambda: server.process and len(children_of(server.process.pid)) == 1, "one generation")
    (master,) = children_of(server.process.pid)
    workers = set(children_of(master))
    hanging = server.post("/predict", json={"x": [-1, 2]})
    assert (hanging.status_code, "PANTRY_PREDICT_SECONDS" in hanging.json()["error"]) == (504, True)
    assert hanging.elapsed.total_seconds() < 8
    wait_until(lambda: len(set(children_of(master)) - workers) == 1, "another worker", 20)
    assert len(workers & set(children_of(master))) == 1
    assert '"worker-hangs"' in server.log.read_text()
    for _ in range(20):
        assert server.post("/predict", json={"x": [1, 2]}).json() == {"prediction": [1.0, 2.0]}


def test_a_stopped_worker_is_not_waited_for(server: Server) -> None:
    """One of two workers stands still, as where C code holds the interpreter's lock; the other answers new clients."""
    put(server, "m", "1", Doubler(), DECLARED)
    server.desire(("m", "1"))
    server.start(workers=2)
    server.wait_for("m", "ready")
    assert server.process is not None
    wait_until(lambda: server.process and len(children_of(server.process.pid)) == 1, "one generation")
    stopped = children_of(children_of(server.process.pid)[0])[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert server.post("/predict", data=BODY).status_code == 200
    finally:
        os.kill(stopped, signal.SIGCONT)
