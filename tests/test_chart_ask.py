"""`helm test`: the chart's own script, run against servers that answer this and that."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import helm

Answers = dict[str, tuple[int, object]]
Asked = list[tuple[str, object, str | None]]  # path, body and token of each request


class Service(http.server.ThreadingHTTPServer):
    """On loopback; gives the answers put into it, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: Answers = dict(READY)
        self.asked: Asked = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET and POST alike."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Service)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        status, answer = self.server.answers.get(self.path, (404, "no such path"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so it is called
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def helm_test(
    url: str, changes: helm.Values | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the test pod's own script with its own arguments, without its patience, against a URL."""
    values = helm.minimal(
        {"models": [model("digits", 2), model("faces", "a.b")], "service.port": 8000} | (changes or {})
    )
    pod = helm.one(helm.render(values), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    script, service, *models = helm.container(pod)["args"]
    assert service == "http://digits-pantry.models.svc:8000"
    script = script.replace("PATIENCE_SECONDS = 120", "PATIENCE_SECONDS = -1")
    assert helm.container(pod)["command"] == ["python3", "-c"]
    command = [sys.executable, "-c", script, url, *models]
    variables = helm.environment(pod) | (environment or {})
    return subprocess.run(command, text=True, capture_output=True, timeout=30, check=False, env=variables)


def model(name: str, version: object) -> helm.Object:
    return {"name": name, "version": version, "storageUri": f"gs://bucket/{name}"}


READY: Answers = {
    "/healthz": (200, "ok"),
    "/v2/models/digits": (200, {"name": "digits", "versions": ["2"]}),
    "/v2/models/faces": (200, {"name": "faces", "versions": ["a.b"]}),
}
INPUTS = {
    "versions": ["2"],
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
    ],
}


def test_it_passes_when_the_wanted_versions_are_served(service: Service) -> None:
    """It asks for health and for each model's versions."""
    done = helm_test(service.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "served: digits=2 faces=a.b\n", "")
    assert [path for path, _, _ in service.asked] == ["/healthz", "/v2/models/digits", "/v2/models/faces"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"/healthz": (503, "loading")}, '/healthz: 503 "loading"'),
        ({"/v2/models/digits": (200, {"versions": ["1"]})}, "digits: version 2 is wanted, 1 is served"),
        ({"/v2/models/faces": (404, "unknown model")}, 'faces: 404 "unknown model"'),
        ({"/v2/models/faces": (401, "who are you?")}, 'faces: 401 "who are you?"'),
        ({"/v2/models/faces": (200, [])}, "faces: the answer names no versions: []"),
        ({"/v2/models/digits": (200, INPUTS), "/v2/models/digits/infer": (500, "it broke")}, 'digits: 500 "it broke"'),
    ],
)
def test_it_fails_with_a_sentence(service: Service, answer: Answers, sentence: str) -> None:
    """What is not served is named, with what was found instead, and there is no traceback."""
    service.answers.update(answer)
    done = helm_test(service.url)
    assert (done.returncode, done.stderr) == (1, "")
    assert "not served: " in done.stdout
    assert sentence in done.stdout


def test_it_says_when_nobody_answers() -> None:
    """A Service without a pod is a sentence, too."""
    done = helm_test("http://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (1, "")
    assert "not served: http://127.0.0.1:9/healthz: 0" in done.stdout


def test_a_model_that_says_what_it_takes_is_asked(service: Service) -> None:
    """For one row of zeros; that it is refused as no sense for this model is an answer as well."""
    service.answers |= {"/v2/models/digits": (200, INPUTS), "/v2/models/digits/infer": (200, {"outputs": []})}
    assert helm_test(service.url).returncode == 0
    (body,) = (body for path, body, _ in service.asked if path.endswith("/infer"))
    assert body == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]},
            {"name": "text", "datatype": "BYTES", "shape": [1], "data": [""]},
        ]
    }
    service.answers["/v2/models/digits/infer"] = (400, "an empty text")
    done = helm_test(service.url)
    assert done.returncode == 0
    assert 'digits: answers, but not to a row of zeros: "an empty text"' in done.stdout


@pytest.mark.parametrize(("version", "code"), [("2", 0), ("3", 0), ("1", 1)])
def test_either_track_of_a_canary_may_answer(service: Service, version: str, code: int) -> None:
    """While version 3 is tried beside 2, the Service leads to both."""
    service.answers["/v2/models/digits"] = (200, {"versions": [version]})
    tried = {"canary.enabled": True, "canary.models": [model("digits", 3)]}
    assert helm_test(service.url, tried).returncode == code


def test_it_shows_the_first_token(service: Service, tmp_path: Path) -> None:
    """With access.mode tokens, from the Secret that is mounted into its pod."""
    (tmp_path / "tokens").write_text("# clients\n\nfirst\nsecond\n")
    access = {"access": {"mode": "tokens", "secretName": "mine"}}
    assert helm_test(service.url, access, {"PANTRY_TOKENS_FILE": str(tmp_path / "tokens")}).returncode == 0
    assert {token for _, _, token in service.asked} == {"Bearer first"}


@pytest.mark.parametrize(
    "access",
    [{"mode": "users", "secretName": "mine"}, {"mode": "tokens", "storageUris": {"tokens": "gs://bucket/tokens"}}],
    ids=["users", "tokens-of-the-bucket"],
)
def test_it_has_no_password(service: Service, access: dict[str, Any]) -> None:
    """Where it has nothing to show, a model that asks who is there counts as served."""
    service.answers |= {"/v2/models/digits": (401, "log in"), "/v2/models/faces": (401, "log in")}
    done = helm_test(service.url, {"access": access})
    assert done.returncode == 0
    assert "digits: asks who is there, so its version is not compared" in done.stdout
