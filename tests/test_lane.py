"""Plain small requests are answered by the worker's loop, and nobody can tell: the same answers, limits and log."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from serving.http.plain import read_plain
from tests.model_kinds import Doubler
from tests.serve import Server, wait_until
from tests.test_server import DECLARED, children_of, put

HEADERS = {"Host": "h", "Content-Type": "application/json"}
V1, V2 = "/v1/models/m:predict", "/v2/models/m/infer"
TENSOR = {"name": "x", "shape": [1, 2], "datatype": "FP64"}
BINARY = json.dumps({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 16}}], "outputs": []}).encode()
QUESTIONS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "V1": (V1, b'{"instances": [[1, 2], [3, 4]]}', {}),
    "V1 of a version": ("/v1/models/m/versions/1:predict", b'{"instances": [[1, 2]]}', {}),
    "v2": (V2, json.dumps({"inputs": [{**TENSOR, "data": [1, 2]}], "id": "7"}).encode(), {}),
    "v2 of a version": (
        "/v2/models/m/versions/1/infer",
        json.dumps({"inputs": [{**TENSOR, "data": [1, 2]}]}).encode(),
        {},
    ),
    "binary tensors": (
        V2,
        BINARY + np.array([1.0, 2.0]).tobytes(),
        {"Inference-Header-Content-Length": str(len(BINARY)), "Content-Type": "application/octet-stream"},
    ),
    "short": ("/predict", b'{"x": [1, 2]}', {}),
    "short, many": ("/prediction", b'{"instances": [[1, 2]]}', {}),
    "a .npy file is wanted": (V1, b'{"instances": [[1, 2]]}', {"Accept": "application/x-npy"}),
    "raw": (V1, np.array([1.0, 2.0]).tobytes(), {"Content-Type": "application/octet-stream"}),
    "a trace": (
        V1,
        b'{"instances": [[1, 2]]}',
        {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b"},
    ),
    "not JSON": (V1, b"{", {}),
    "nothing": (V1, b"", {}),
    "ragged": (V1, b'{"instances": [[1, 2], [3]]}', {}),
    "unknown model": ("/v1/models/n:predict", b"{}", {}),
    "unknown version": ("/v1/models/m/versions/2:predict", b"{}", {}),
    "a model that fails": ("/v1/models/broken:predict", b'{"instances": [[1, 2]]}', {}),
    "a model that is away": ("/v1/models/away:predict", b'{"instances": [[1, 2]]}', {}),
    "a large answer": ("/v1/models/large:predict", b'{"instances": [[1, 2]]}', {}),
}
FAILS = """
class Predictor:
    def load(self, bundle): ...
    def predict(self, inputs): raise RuntimeError("no")
"""
SLEEPS = """
import time
class Predictor:
    def load(self, bundle): ...
    def predict(self, inputs):
        time.sleep(2.5 * (inputs["x"] < 0).any())
        return inputs["x"]
"""
REPEATS = """
import numpy as np
class Predictor:
    def load(self, bundle): ...
    def predict(self, inputs): return {"y": np.tile(inputs["x"], (1, 20_000))}
"""


def head(path: str, headers: dict[str, str]) -> bytes:
    """Write the head of a request."""
    return "\r\n".join([f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode()


def ask(server: Server, said: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, and return the status, the headers and the body of the first answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(said)
        answer = b""
        while not (found := re.search(rb"(?s)(.*?)\r\n\r\n(.*)", answer)) or len(found[2]) < length_of(found[1]):
            data = connection.recv(65536)
            assert data, answer
            answer += data
    first, *lines = found[1].decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, found[2]


def length_of(said: bytes) -> int:
    """Return the Content-Length of a head."""
    found = re.search(rb"Content-Length: (\d+)", said)
    assert found
    return int(found[1])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with a good model, a broken one, one with large answers, and one that never comes."""
    server = Server(tmp_path_factory.mktemp("lane"))
    put(server, "m", "1", Doubler(), DECLARED)
    put(server, "broken", "1", b"", DECLARED + "predictor: predictor.py:Predictor\n", predictor__py=FAILS)
    put(server, "large", "1", b"", DECLARED + "predictor: predictor.py:Predictor\n", predictor__py=REPEATS)
    server.desire(("m", "1"), ("broken", "1"), ("large", "1"), ("away", "1"))
    server.start(workers=1, max_body_bytes=2000)
    server.wait_for("large", "ready")
    yield server
    server.stop()


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_lane_answers_as_the_app_does(models: Server, name: str) -> None:
    """A request that is plain, and the same in chunks, which Flask reads: status, headers, body, and the log's line."""
    path, body, more = QUESTIONS[name]
    request_id = os.urandom(8).hex()
    headers = {**HEADERS, "X-Request-Id": request_id, **more}
    plain = head(path, {**headers, "Content-Length": str(len(body))}) + body
    chunks = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    chunked = head(path, {**headers, "Transfer-Encoding": "chunked"}) + chunks + b"0\r\n\r\n"
    assert read_plain(plain)
    assert not read_plain(chunked)
    (status, told, content), (other, others, others_content) = ask(models, plain), ask(models, chunked)
    for volatile in ("Date", "traceparent"):
        assert (volatile in told) == (volatile in others)
        told.pop(volatile, None)
        others.pop(volatile, None)
    assert (status, told, content) == (other, others, others_content)

    def lines() -> list[dict[str, Any]] | None:
        written = [json.loads(line) for line in models.log.read_bytes().splitlines() if request_id.encode() in line]
        written = [line for line in written if line["event"] == "request"]
        return written if len(written) == 2 else None

    one, two = wait_until(lines, "two lines of log", 5)
    for line in (one, two):
        unread = [] if status == 200 else ["bytes_in"]  # the app has not always looked at the body
        for volatile in ("time", "milliseconds", "span_id", *unread):
            line.pop(volatile, None)
    assert one == two


@pytest.mark.parametrize(
    "change",
    [
        (b"POST", b"GET"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"POST /", b"POST  /"),
        (b":predict", b"%3Apredict"),
        (b":predict", b":predict?a=b"),
        (b":predict", b":predict/"),
        (b"/v1/models/", b"/v1//models/"),
        (b"Host: h", b"Host: h\r\nHost: h"),
        (b"Host: h", b"Host: h\r\nhost: i"),
        (b"Host: h\r\n", b""),
        (b"Host: h", b"Host: a b"),
        (b"Host: h", b"Host : h"),
        (b"Host: h", b"Host: h\r\n folded"),
        (b"Host: h\r\n", b"Host: h\n"),
        (b"Host: h", b"Host: h\r\nX_Y: 1"),
        (b"Host: h", b"Host: h\r\nX: \xe4"),
        (b"Host: h", b"Host: h\r\nX: \0"),
        (b"Host: h", b"Host: h\r\nTransfer-Encoding: identity"),
        (b"Host: h", b"Host: h\r\nContent-Encoding: gzip"),
        (b"Host: h", b"Host: h\r\nExpect: 100-continue"),
        (b"Host: h", b"Host: h\r\nUpgrade: websocket"),
        (b"Host: h", b"Host: h\r\nConnection: upgrade"),
        (b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"),
        (b"Content-Length: 2", b"Content-Length: +2"),
        (b"Content-Length: 2", b"Content-Length: 2, 2"),
        (b"Content-Length: 2", b"Content-Length:"),
        (b"Content-Length: 2", b"Content-Length: " + b"0" * 20),
        (b"Host: h", b"Host: h\r\nX: " + b"x" * 4096),
        (b"Host: h", b"Host: h" + b"".join(b"\r\nX%d: 1" % number for number in range(65))),
        (b"\r\n\r\n", b"\r\n"),
    ],
)
def test_what_is_not_plain_is_left_to_gunicorn(change: tuple[bytes, bytes]) -> None:
    """A head with anything that could be read in two ways, or that changes how the body is read, is not plain."""
    said = head("/v1/models/m:predict", {"Host": "h", "Content-Length": "2"})
    request = read_plain(said + b"{}")
    assert request is not None
    assert (request.name, request.version, request.length, request.body_length) == ("m", None, len(said), 2)
    assert change[0] in said
    assert read_plain(said.replace(*change)) is None


def test_requests_behind_one_another_are_answered_in_order(models: Server) -> None:
    """Two thousand at once on one connection, every other one wrong: each has its own answer, and none is lost."""
    said = b""
    for number in range(2000):
        body = b'{"instances": [[%d, 0]]}' % number if number % 2 else b"[]"
        said += head(V1, {**HEADERS, "Content-Length": str(len(body))}) + body
    with socket.create_connection(("127.0.0.1", models.port), timeout=20) as connection:
        connection.sendall(said)
        answers = b""
        while answers.count(b"HTTP/1.1") < 2000 or not answers.endswith(b"}"):
            answers += connection.recv(1 << 20)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"400", b"200"] * 1000
    assert re.findall(rb'{"predictions":\[\[(\d+)\.0,', answers) == [b"%d" % (2 * n) for n in range(1, 2000, 2)]


def test_a_body_over_the_limit_is_refused_however_fast_it_comes(models: Server) -> None:
    """The lane takes small bodies, but none that the server does not."""
    body = b'{"instances": [[1, 2]]}'.ljust(2001)
    said = head(V1, {**HEADERS, "Content-Length": str(len(body))}) + body
    assert ask(models, said)[0] == 413
    assert ask(models, said.replace(b"2001", b"2000")[:-1])[0] == 200


def test_the_client_says_whether_the_connection_stays(models: Server) -> None:
    """`Connection: close` is said back, and done; otherwise it stays."""
    body = b'{"instances": [[1, 2]]}'
    headers = {**HEADERS, "Content-Length": str(len(body))}
    with socket.create_connection(("127.0.0.1", models.port), timeout=10) as connection:
        connection.sendall(head(V1, headers) + body)
        assert b"Connection: keep-alive" in connection.recv(65536)
        connection.sendall(head(V1, {**headers, "Connection": "close"}) + body)
        assert b"Connection: close" in connection.recv(65536)
        assert connection.recv(65536) == b""


def test_whoever_goes_away_costs_nothing(models: Server) -> None:
    """Clients that close before their answer comes leave no connection behind, and others are answered."""
    body = b'{"instances": [[1, 2]]}'
    said = head("/v1/models/large:predict", {**HEADERS, "Content-Length": str(len(body))}) + body
    (worker,) = workers_of(models)
    before = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", models.port), timeout=10) as connection:
            connection.sendall(said)
    assert ask(models, said)[0] == 200
    wait_until(lambda: len(list(Path(f"/proc/{worker}/fd").iterdir())) <= before + 2, "the connections are closed", 10)


def test_a_model_that_does_not_return_in_time_is_told_of_to_all_who_wait(server: Server) -> None:
    """Those in the run get 504, those behind 503; the loop answers others all the time."""
    config = DECLARED + "predictor: predictor.py:Predictor\n"
    put(server, "slow", "1", b"", config, predictor__py=SLEEPS)
    put(server, "m", "1", Doubler(), DECLARED)
    server.desire(("m", "1"), ("slow", "1"))
    server.start(workers=1, predict_seconds=1)
    server.wait_for("slow", "ready")
    body = b'{"instances": [[-1, 2]]}'
    said = head("/v1/models/slow:predict", {**HEADERS, "Content-Length": str(len(body))}) + body
    sockets = []
    for _ in range(5):
        sockets.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        sockets[-1].sendall(said)
        time.sleep(0.1)
    slowest = 0.0
    while time.monotonic() and sockets and slowest < 1 and not server.log.read_text().count('"status":504'):
        began = time.monotonic()
        assert server.post("/predict", json={"x": [1, 2]}).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    answers = [connection.recv(65536) for connection in sockets]
    assert re.findall(rb"HTTP/1.1 (\d+)", b"".join(answers)) == [b"504", *[b"503"] * 4]
    assert b"PANTRY_PREDICT_SECONDS" in answers[0]
    assert slowest < 1
    for connection in sockets:
        connection.close()
    again = said.replace(b"-1", b" 1")
    wait_until(lambda: ask(server, again)[0] == 200 or None, "the model is back", 10)


def test_access_is_asked_for_in_the_lane_too(server: Server, tmp_path: Path) -> None:
    """Without a token 401, with one the answer."""
    tokens = tmp_path / "tokens"
    tokens.write_text("right-and-long-enough-to-be-a-token\n")
    put(server, "m", "1", Doubler(), DECLARED)
    server.desire(("m", "1"))
    server.start(access="tokens", tokens_file=str(tokens))
    wait_until(lambda: requests.get(f"{server.url}/healthz", timeout=20).status_code == 200 or None, "ready", 20)
    body = b'{"instances": [[1, 2]]}'
    headers = {**HEADERS, "Content-Length": str(len(body))}
    assert ask(server, head(V1, headers) + body)[0] == 401
    assert (
        ask(server, head(V1, {**headers, "Authorization": "Bearer wrong-and-long-enough-to-be-a-token"}) + body)[0]
        == 401
    )
    right = head(V1, {**headers, "Authorization": "Bearer right-and-long-enough-to-be-a-token"}) + body
    assert read_plain(right)
    assert ask(server, right)[2] == b'{"predictions":[[2.0,4.0]]}'


def workers_of(server: Server) -> list[int]:
    """Return the processes that answer."""
    assert server.process is not None
    return [worker for master in children_of(server.process.pid) for worker in children_of(master)]
