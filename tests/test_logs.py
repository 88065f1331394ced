"""The log: one JSON line a request and an event, whatever a client, a library or a model says."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from serving.http.exchange import route_of
from serving.http.trace import parse_traceparent, request_id
from serving.sight.logs import LONGEST_LINE, encode_line
from tests.model_kinds import Doubler, Picky
from tests.serve import Server, wait_until
from tests.test_server import DECLARED, put, serve

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ROOT = Path(__file__).resolve().parents[1]


def lines_of(server: Server) -> list[dict[str, Any]]:
    """Every line of the log; each has to be a JSON object."""
    return [dict(json.loads(line)) for line in server.log.read_text().splitlines()]


def line_of(server: Server, **wanted: object) -> dict[str, Any]:
    """The first line with these fields."""
    return dict(
        wait_until(
            lambda: next((line for line in lines_of(server) if wanted.items() <= line.items()), None),
            f"a line {wanted}",
        )
    )


def test_a_request_is_one_line(server: Server) -> None:
    """It has the id, what was asked, who answered, how long it took, rows and bytes."""
    serve(server, Doubler(), DECLARED)
    body = b'{"instances": [[1, 2], [3, 4]]}'
    answer = server.post("/v1/models/m:predict?token=secret", data=body, headers={"X-Request-Id": "abc"})
    line = line_of(server, id="abc")
    assert line.pop("milliseconds") > 0
    assert line.pop("time").startswith(time.strftime("%Y-%m-%dT", time.gmtime()))
    assert line == {
        "event": "request",
        "id": "abc",
        "method": "POST",
        "path": "/v1/models/m:predict",
        "status": 200,
        "model": "m",
        "version": "1",
        "rows": 2,
        "bytes_in": len(body),
        "bytes_out": len(answer.content),
    }
    assert "secret" not in server.log.read_text()


def test_a_trace_is_passed_on(server: Server) -> None:
    """The answer has the client's trace with a span of its own, and its tracestate as it came; so has the line."""
    serve(server, Doubler())
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "a=1,b@c=2", "X-Request-Id": "traced"}
    answer = server.post("/predict", json={"instance": 1}, headers=headers)
    line = line_of(server, id="traced")
    assert (line["trace_id"], line["parent_id"]) == (TRACE_ID, PARENT_ID)
    assert line["span_id"] != PARENT_ID
    assert answer.headers["traceparent"] == f"00-{TRACE_ID}-{line['span_id']}-01"
    assert answer.headers["tracestate"] == "a=1,b@c=2"
    for wrong in ("", "00-x", f"00-{TRACE_ID.upper()}-{PARENT_ID}-01"):
        answer = server.post("/predict", json={"instance": 1}, headers={**headers, "traceparent": wrong})
        assert answer.status_code == 200
        assert not {"traceparent", "tracestate"} & {name.lower() for name in answer.headers}


@pytest.mark.parametrize(
    ("header", "good"),
    [
        (f"00-{TRACE_ID}-{PARENT_ID}-01", True),
        (f"00-{TRACE_ID}-{PARENT_ID}-ff", True),
        (f"cc-{TRACE_ID}-{PARENT_ID}-00-what-comes", True),
        (f"00-{TRACE_ID}-{PARENT_ID}-01-more", False),
        (f"ff-{TRACE_ID}-{PARENT_ID}-01", False),
        (f"00-{'0' * 32}-{PARENT_ID}-01", False),
        (f"00-{TRACE_ID}-{'0' * 16}-01", False),
        (f"00-{TRACE_ID}-{PARENT_ID}-01\n", False),
        (f"00-{TRACE_ID}-{PARENT_ID}", False),
        (f"00-{TRACE_ID}-{PARENT_ID}-1", False),
        (f" 00-{TRACE_ID}-{PARENT_ID}-01", False),
        (f"00-{TRACE_ID}-{PARENT_ID}-01,00-{TRACE_ID}-{PARENT_ID}-01", False),
        (f"00-{TRACE_ID}-{PARENT_ID}-٠١", False),
    ],
)
def test_a_traceparent_is_read_strictly(header: str, good: bool) -> None:
    """Only what the standard allows is a trace; a later version may have more."""
    trace = parse_traceparent(header)
    assert (trace is not None) is good
    if trace:
        assert (trace.trace_id, trace.parent_id) == (TRACE_ID, PARENT_ID)


@given(st.text())
def test_any_text_makes_a_harmless_request_id(said: str) -> None:
    """It is visible ASCII, at most 128 characters, and never empty."""
    made = request_id(said)
    assert 0 < len(made) <= 128
    assert all("!" <= character <= "~" for character in made)


@given(
    st.dictionaries(
        st.text(max_size=8), st.text(max_size=6000) | st.integers() | st.lists(st.text(max_size=9)), max_size=5
    )
)
def test_any_fields_make_one_short_line(fields: dict[str, Any]) -> None:
    """Whatever an event is about, its line is one JSON object, and one write."""
    line = encode_line(fields)
    assert line.count(b"\n") == 1
    assert len(line) <= LONGEST_LINE
    assert json.loads(line).keys() == fields.keys()


def test_what_is_no_text_or_half_a_surrogate_is_a_line_too() -> None:
    """An event about a path that is not UTF-8, or about an object, is told."""
    assert json.loads(encode_line({"path": Path("a\udcff"), "name": "a\udcff"})) == {
        "path": "a\udcff",
        "name": "a\udcff",
    }


def test_kinds_of_routes_are_few() -> None:
    """A path of any form is one of five kinds."""
    paths = ["/predict", "/v1/models/m:predict", "/v2/models/m/versions/1/infer", "/healthz", "/", "/v2/x" * 1000]
    assert [route_of(path) for path in paths] == ["short", "v1", "v2", "health", "other", "other"]


def test_a_crash_is_one_line_with_its_traceback(server: Server) -> None:
    """What a model raises, what gunicorn says and what the supervisor does are lines of JSON, and nothing else is."""
    put(server, "m", "1", Picky(), DECLARED)
    server.desire(("m", "1"))
    server.start()
    server.wait_for("m", "ready")
    refused = server.post("/predict", json={"x": [1, 2]}, headers={"X-Request-Id": "crashed"})
    assert refused.status_code == 500
    line = line_of(server, event="request-failed", id="crashed")
    assert "Picky expects none" in line["traceback"]
    assert "Traceback" in line["traceback"]
    put(server, "m", "2", b"no pickle")
    server.desire(("m", "2"))
    server.wait_for("m", "failed", "2")
    server.stop()
    events = {line["event"] for line in lines_of(server)}
    assert {"phase", "generation-serving", "generation-failed", "request", "stopping", "stopped"} <= events


def test_hostile_headers_make_no_other_lines(server: Server) -> None:
    """Quotes, backslashes, bytes beyond ASCII and long values stay inside their line, and in the answer's header."""
    serve(server, Doubler())
    for said, kept in (
        ('a"b\\c', 'a"b\\c'),
        ("x" * 500, "x" * 128),
        ("\xe9\xff evil", "evil"),
    ):
        answer = requests.get(f"{server.url}/healthz", headers={"X-Request-Id": said.encode("latin-1")}, timeout=20)
        assert answer.headers["X-Request-Id"] == kept
        line_of(server, id=kept)
    path = "/" + "%22%0A%7B" * 100
    assert requests.get(server.url + path, headers={"X-Request-Id": "path"}, timeout=20).status_code == 404
    assert line_of(server, id="path")["path"].startswith('/"\n{')
    assert all("event" in line for line in lines_of(server))


STUCK = """
import sys, time
sys.path[:0] = ["image", "."]
from serving.sight import logs
dropped = []
logs.configure(lambda: dropped.append(1))
began = time.monotonic()
for number in range(2000):
    logs.write_event("filler", number=number, text="x" * 500)
print(len(dropped), time.monotonic() - began, file=sys.stderr)
"""


def test_a_log_that_nobody_reads_stops_nobody() -> None:
    """When the pipe is full, lines are dropped and counted after one second of patience, not one second each."""
    reading, writing = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", STUCK],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        kept = [json.loads(line) for line in pipe.read().splitlines()]
    dropped, seconds = done.stderr.split()
    assert len(kept) + int(dropped) == 2000
    assert len(kept) > 50
    assert float(seconds) < 3


def test_what_libraries_say_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    """A logger's message and an exception with words that raise are told by the handler."""
    from serving.sight.logs import JsonHandler

    class Wordless(Exception):
        def __str__(self) -> str:
            raise ValueError

    handler = JsonHandler()
    for error in (ValueError("plain"), Wordless()):
        handler.emit(
            logging.LogRecord("lib", logging.WARNING, __file__, 1, "said %s", ("so",), (type(error), error, None))
        )
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["message"], line["error"]) for line in lines] == [("said so", "ValueError"), ("said so", "Wordless")]
    assert "plain" in lines[0]["traceback"]
