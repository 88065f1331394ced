"""The real server: supervisor, generations and HTTP on loopback."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from loader.bundle.manifest import CHUNK_SIZE
from loader.bundle.sync_status import SyncStatus, write_sync_status
from loader.staging import prune
from tests.conftest import write_bundle
from tests.model_kinds import Doubler, Picky, SlowToLoad, add, undefined
from tests.serve import Server, free_port, wait_until

DECLARED = "inputs: [{name: x, datatype: FP64, shape: [-1, 2]}]\n"


def put(server: Server, name: str, version: str, model: Any, config: str = "", **files: str) -> None:
    """Put a bundle on the server's volume under its final name, at once, as the loader does."""
    staging = server.volume / name / ".staging" / version
    write_bundle(staging, model, config, **files)
    staging.rename(server.volume / name / version)


def serve(server: Server, model: Any, config: str = "", **files: str) -> None:
    """Serve one model, m version 1, and wait until it is ready."""
    put(server, "m", "1", model, config, **files)
    server.desire(("m", "1"))
    server.start()
    server.wait_for("m", "ready")


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_phases_and_bytes_are_told_from_the_first_second(server: Server) -> None:
    """Before, during and after the sync, and while loading, readiness says where the model is; then it answers."""
    server.desire(("m", "1"))
    server.start()
    ready = wait_until(lambda: server.admin("/readyz"), "the admin port", seconds=5)
    assert ready.status_code == 503
    assert ready.json()["models"][0]["phase"] == "waiting"
    assert server.admin("/livez").status_code == 200
    write_sync_status(server.volume, "m", "1", SyncStatus("syncing", 5, 10))
    state = server.wait_for("m", "syncing")
    assert (state["bytes"], state["totalBytes"]) == (5, 10)
    answer = wait_until(lambda: server.post("/v1/models/m:predict", json={"instances": [1]}), "the serving port")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json() == {"error": "model m version 1 is syncing: 5 of 10 bytes"}
    assert requests.get(f"{server.url}/healthz", timeout=20).status_code == 503
    write_sync_status(server.volume, "m", "1", SyncStatus("failed", reason="the bucket is empty"))
    assert server.wait_for("m", "failed")["reason"] == "the bucket is empty"
    put(server, "m", "1", Doubler())
    server.wait_for("m", "ready")
    assert server.admin("/readyz").status_code == 200
    assert requests.get(f"{server.url}/healthz", timeout=20).status_code == 200
    assert server.post("/v1/models/m:predict", json={"instances": [1, 2]}).json() == {"predictions": [2.0, 4.0]}


def test_every_form_of_request_is_answered(server: Server) -> None:
    """V1, v2 with and without a version, the short forms, and what describes them."""
    serve(server, Doubler(), DECLARED + "answer: {one: double, many: doubles}\n")
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    infer = {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "output", "datatype": "FP64", "shape": [1, 2], "data": [2.0, 4.0]}],
    }
    assert server.post("/v2/models/m/infer", json={"inputs": [tensor]}).json() == infer
    assert server.post("/v2/models/m/versions/1/infer", json={"inputs": [tensor], "id": "a"}).json() == {
        **infer,
        "id": "a",
    }
    assert server.post("/v1/models/m:predict", json={"instances": [[1, 2]]}).json() == {"predictions": [[2.0, 4.0]]}
    assert server.post("/v1/models/m/versions/1:predict", json={"instances": [[1, 2]]}).status_code == 200
    assert server.post("/predict", json={"x": [1, 2]}).json() == {"double": [2.0, 4.0]}
    assert server.post("/prediction", json={"instances": [[1, 2]]}).json() == {"doubles": [[2.0, 4.0]]}
    described = requests.get(f"{server.url}/v2/models/m", timeout=20).json()
    assert described["versions"] == ["1"]
    assert described["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}]
    assert requests.get(f"{server.url}/v2/models/m/versions/1/ready", timeout=20).json()["ready"] is True
    assert requests.get(f"{server.url}/v2/health/live", timeout=20).json() == {"live": True}
    assert requests.get(f"{server.url}/v2/health/ready", timeout=20).json() == {"ready": True}
    status = requests.get(f"{server.url}/v1/models/m", timeout=20).json()["model_version_status"]
    assert status == [{"version": "1", "state": "AVAILABLE", "status": {}}]
    assert requests.get(f"{server.url}/", timeout=20).json()["models"][0]["phase"] == "ready"
    identified = server.post("/predict", json={"x": [1, 2]}, headers={"X-Request-Id": "mine"})
    assert identified.headers["X-Request-Id"] == "mine"


@pytest.mark.parametrize(
    ("model", "config", "request_body", "answer"),
    [
        (
            add,
            "inputs: [{name: a, datatype: FP64, shape: [-1]}, {name: b, datatype: FP64, shape: [-1]}]",
            {"a": 1, "b": 2},
            3.0,
        ),
        ({"word": [1.0, 2.0]}, "", {"instance": "word"}, [1.0, 2.0]),
        ({7: "seven"}, "", {"instance": 7}, "seven"),
    ],
)
def test_callables_and_mappings_answer_as_they_are(
    server: Server, model: Any, config: str, request_body: Any, answer: Any
) -> None:
    """A function is called with its inputs in declared order; a mapping is looked up by key."""
    serve(server, model, config)
    assert server.post("/predict", json=request_body).json() == {"prediction": answer}


def test_a_bundle_can_bring_its_own_predictor(server: Server) -> None:
    """predictor.py loads what it likes from the verified bundle, and answers named arrays."""
    code = (
        "import json\n"
        "class Predictor:\n"
        "    def load(self, bundle):\n"
        "        self.factor = json.loads(bundle.read('factor.json'))\n"
        "    def predict(self, inputs):\n"
        "        return {'y': inputs['x'] * self.factor}\n"
    )
    config = DECLARED + "predictor: predictor.py:Predictor\n"
    serve(server, Doubler(), config, predictor__py=code, factor__json="3")
    assert server.post("/predict", json={"x": [1, 2]}).json() == {"prediction": [3.0, 6.0]}


def test_bad_requests_are_answered_with_a_sentence_and_no_traceback(server: Server) -> None:
    """Not JSON, wrong shape, type, method, model, version, page, too large, empty: each has its status and words."""
    serve(server, Doubler(), DECLARED)
    page = f"{server.url}/v1/models/m:predict"

    def ask(status: int, words: str, url: str = page, method: str = "POST", **arguments: Any) -> None:
        answer = requests.request(method, url, timeout=10, **arguments)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
        assert words in answer.json()["error"]
        assert "Traceback" not in answer.text
        assert 'File "' not in answer.text

    ask(400, "the body is empty")
    ask(400, "not JSON", data=b"{")
    ask(400, "expected shape [-1, 2], got [1, 1]", json={"instances": [[1]]})
    ask(400, "expected FP64, got texts", json={"instances": [["a", "b"]]})
    ask(400, "without Content-Encoding", data=b"{}", headers={"Content-Encoding": "gzip"})
    ask(400, "takes no images", f"{server.url}/predict", data=b"\x89PNG", headers={"Content-Type": "image/png"})
    ask(404, "model 'nobody' is unknown", f"{server.url}/v1/models/nobody:predict", json={"instances": [[1, 2]]})
    ask(
        404, "version '9' of model m is not served; version 1 is", f"{server.url}/v2/models/m/versions/9/infer", json={}
    )
    ask(404, "not found", f"{server.url}/nothing/here", "GET")
    ask(405, "not allowed", page, "GET")
    ask(413, "at most 10485760", data=b"x" * 10_485_761)
    ask(413, "more than 10485760", data=iter([b"x" * 1_048_576] * 11))  # chunked: no length is announced
    assert requests.delete(page, timeout=20).headers["Allow"]
    assert server.post("/v1/models/m:predict", json={"instances": [[1, 2]]}).status_code == 200


def test_a_body_that_breaks_off_is_no_request(server: Server) -> None:
    """A client that promises more than it sends gets no answer to the part it sent, and the server goes on."""
    serve(server, Doubler(), DECLARED)
    body = json.dumps({"instances": [[1, 2]]}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body) + 10}\r\n\r\n"
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(65536)
    assert server.post("/v1/models/m:predict", json={"instances": [[1, 2]]}).status_code == 200


def test_a_models_own_failure_is_told_apart_from_a_bad_request(server: Server) -> None:
    """With declared inputs a raise is the model's fault (500); without, the model is the judge of its input (400)."""
    put(server, "declared", "1", Picky(), DECLARED)
    put(server, "free", "1", Picky())
    put(server, "nan", "1", undefined)
    server.desire(("declared", "1"), ("free", "1"), ("nan", "1"))
    server.start()
    server.wait_for("nan", "ready")
    for name, status in (("declared", 500), ("free", 400), ("nan", 500)):
        answer = server.post(f"/v1/models/{name}:predict", json={"instances": [[1, 2]]})
        assert (name, answer.status_code) == (name, status)
        assert "Traceback" not in answer.text
    assert "Picky expects none" in server.log.read_text()


def test_versions_swap_under_load_without_a_failed_request(server: Server) -> None:
    """Clients on kept-alive connections, some slow, some idle across the swap, get a right answer to every request."""
    serve(server, Doubler(1), DECLARED)
    end, counts = threading.Event(), Counter[str]()

    def client(pause: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        while not end.is_set():
            try:
                connection.request("POST", "/predict", json.dumps({"x": [1, 2]}), {"Content-Type": "application/json"})
                answer = json.loads(connection.getresponse().read())["prediction"]
                counts[f"version {answer[0]:.0f}"] += 1
            except (OSError, http.client.HTTPException, KeyError) as error:
                counts[f"failed: {error!r}"] += 1
                connection.close()
            time.sleep(pause)
        connection.close()

    threads = [threading.Thread(target=client, args=(pause,)) for pause in (0.0, 0.0, 0.05, 0.7, 1.2)]
    for thread in threads:
        thread.start()
    for version in (2, 3):
        put(server, "m", str(version), Doubler(version, seconds=0.1), DECLARED)
        server.desire(("m", str(version)))
        server.wait_for("m", "ready", str(version))
        time.sleep(2.5)
    end.set()
    for thread in threads:
        thread.join()
    assert {what for what in counts if what.startswith("failed")} == set(), counts
    assert counts.keys() == {"version 1", "version 2", "version 3"}


def test_a_version_is_ready_when_no_new_connection_meets_the_one_before(server: Server) -> None:
    """As long as one may, here because the old generation stands still, the phase is warming; either answers."""
    serve(server, Doubler())
    assert server.process is not None
    (master,) = children_of(server.process.pid)
    put(server, "m", "2", Doubler(3))
    os.kill(master, signal.SIGSTOP)
    try:
        server.desire(("m", "2"))
        wait_until(lambda: '"generation":3,"bundles":["m/2"],"seconds"' in server.log.read_text(), "it to be there")
        time.sleep(1)
        assert (server.model("m")["phase"], server.model("m")["serving"]) == ("warming", "1")
        assert server.admin("/readyz").status_code == 200
        answers = {server.post("/predict", json={"instance": 1}).json()["prediction"] for _ in range(40)}
        assert answers <= {2.0, 3.0}
    finally:
        os.kill(master, signal.SIGCONT)
    server.wait_for("m", "ready", "2")
    assert {server.post("/predict", json={"instance": 1}).json()["prediction"] for _ in range(40)} == {3.0}


def test_the_old_generation_ends_after_a_swap(server: Server) -> None:
    """There is one generation again, so that the memory of the old one is the system's."""
    serve(server, Doubler())
    assert server.process is not None
    put(server, "m", "2", Doubler(3))
    server.desire(("m", "2"))
    server.wait_for("m", "ready", "2")
    pid = server.process.pid
    wait_until(lambda: len(children_of(pid)) == 1, "one generation to be left", 20)


def test_a_version_that_answers_its_golden_requests_wrong_never_serves(server: Server) -> None:
    """golden.json says what must come out: the version that errs is refused with what it said."""
    config = DECLARED + "golden: golden.json\n"
    golden = json.dumps([{"inputs": {"x": [[1, 2]]}, "outputs": {"output": [[2, 4]]}}])
    serve(server, Doubler(2), config, golden__json=golden)
    put(server, "m", "2", Doubler(3), config, golden__json=golden)
    server.desire(("m", "2"))
    state = server.wait_for("m", "failed")
    assert "golden request 1: output 'output': expected [[2, 4]], got [[3.0, 6.0]]" in state["reason"]
    assert server.post("/predict", json={"x": [1, 2]}).json() == {"prediction": [2.0, 4.0]}


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(server: Server) -> None:
    """A broken pickle is named in the status; nothing loops; the next good version goes in by itself."""
    serve(server, Doubler(1))
    put(server, "m", "2", b"cno_such_module\nThing\n.")
    server.desire(("m", "2"))
    state = server.wait_for("m", "failed")
    assert "needs the module 'no_such_module'" in state["reason"]
    assert state["serving"] == "1"
    time.sleep(1.5)
    assert server.log.read_text().count("generation-failed") == 1
    assert server.admin("/readyz").status_code == 200
    assert server.post("/predict", json={"instance": 1}).json() == {"prediction": 1.0}
    status = requests.get(f"{server.url}/v1/models/m", timeout=20).json()["model_version_status"]
    assert [(version["version"], version["state"]) for version in status] == [("2", "END"), ("1", "AVAILABLE")]
    put(server, "m", "3", Doubler(3))
    server.desire(("m", "3"))
    server.wait_for("m", "ready", "3")
    assert server.post("/predict", json={"instance": 1}).json() == {"prediction": 3.0}


def test_a_version_that_answers_is_never_pruned(server: Server) -> None:
    """However many newer versions have come, and failed, the bundle that is served stays on the volume; others go."""
    serve(server, Doubler(1))
    for version in ("2", "3"):
        put(server, "m", version, b"no pickle")
        server.desire(("m", version))
        server.wait_for("m", "failed", version)
        gone = prune(server.volume, "m", version, retain=1)
    assert gone == ["2"]
    put(server, "m", "4", Doubler(4))
    server.desire(("m", "4"))
    server.wait_for("m", "ready", "4")
    wait_until(lambda: prune(server.volume, "m", "4", retain=1) == ["1"], "version 1 to be let go")


def test_a_byte_that_changed_on_the_volume_never_reaches_the_unpickler(server: Server, tmp_path: Path) -> None:
    """The stream is checked before any of it runs: a payload that is not the manifest's never does."""
    witness = tmp_path / "witness"
    payload = b"cos\nsystem\n(S'touch " + str(witness).encode() + b"'\ntR."
    put(server, "m", "1", b"X" * (CHUNK_SIZE + 1))
    file = server.volume / "m" / "1" / "model.pkl"
    file.write_bytes(payload + bytes(CHUNK_SIZE + 1 - len(payload)))
    server.desire(("m", "1"))
    server.start()
    reason = server.wait_for("m", "failed")["reason"]
    assert "model.pkl: chunk 0" in reason
    assert not witness.exists()
    put(server, "published", "1", payload)  # the same bytes, where the manifest vouches for them
    server.desire(("published", "1"))
    server.wait_for("published", "failed")
    assert witness.exists()


def test_status_is_told_as_a_table(server: Server) -> None:
    """`pantry status` shows every model with its phase and reason; 0 when the server is ready, 1 when not."""

    def ask(url: str) -> tuple[int, list[str], str]:
        command = [sys.executable, "-m", "loader.cli", "status", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines(), done.stderr

    put(server, "good", "1", Doubler())
    server.desire(("good", "1"), ("missing", "2"))
    server.start()
    server.wait_for("good", "ready")
    admin = f"http://127.0.0.1:{server.admin_port}"
    code, (head, good, missing), _ = ask(admin)
    assert code == 1
    assert head.split() == ["MODEL", "VERSION", "PHASE", "BYTES", "SERVING"]
    assert (good.split()[:3], good.split()[-1]) == (["good", "1", "ready"], "1")
    assert missing.split() == ["missing", "2", "waiting", "-", "-"]
    put(server, "missing", "2", b"no pickle")
    server.wait_for("missing", "failed")
    code, lines, _ = ask(f"{admin}/")
    assert code == 0
    assert lines[-1].startswith("missing 2: missing/2/model.pkl cannot be loaded")
    code, lines, said = ask(server.url)  # the serving port
    assert (code, lines) == (1, [])
    assert "does not tell a status" in said
    assert ask("nowhere")[0] == 2


def test_a_bundle_under_another_digest_than_the_pinned_one_is_not_served(server: Server) -> None:
    """models.yaml pins a manifest: what is on the volume must be it."""
    put(server, "m", "1", Doubler())
    pinned = {"name": "m", "version": "1", "storageUri": "gs://b/m", "digest": "sha256:" + "0" * 64}
    server.desire(pinned)
    server.start()
    assert "models.yaml pins sha256:000" in server.wait_for("m", "failed")["reason"]


def test_one_models_failure_does_not_take_another_down(server: Server) -> None:
    """Each model has its own phase; those that can answer do."""
    put(server, "good", "1", Doubler())
    put(server, "bad", "1", b"not a pickle")
    server.desire(("bad", "1"), ("good", "1"))
    server.start()
    server.wait_for("good", "ready")
    server.wait_for("bad", "failed")
    assert server.post("/v1/models/good:predict", json={"instances": [1]}).json() == {"predictions": [2.0]}
    refused = server.post("/v1/models/bad:predict", json={"instances": [1]})
    assert refused.status_code == 503
    assert "cannot be loaded" in refused.json()["error"]
    assert server.admin("/readyz").status_code == 200


def test_an_on_demand_model_is_loaded_at_its_first_request(server: Server) -> None:
    """Until someone asks it takes no memory, and readiness does not wait for it."""
    put(server, "m", "1", Doubler())
    server.desire({"name": "m", "version": "1", "storageUri": "gs://b/m", "load": "on-demand"})
    server.start()
    wait_until(lambda: server.admin("/readyz").status_code == 200, "readiness")
    assert server.model("m")["phase"] == "waiting"
    first = wait_until(lambda: server.post("/v1/models/m:predict", json={"instances": [1]}), "the serving port")
    assert (first.status_code, first.headers["Retry-After"]) == (503, "5")
    server.wait_for("m", "ready")
    assert server.post("/v1/models/m:predict", json={"instances": [1]}).json() == {"predictions": [2.0]}


def test_a_broken_models_file_changes_nothing_and_is_told(server: Server, tmp_path: Path) -> None:
    """What was served is served on; the status names the mistake; mending the file is enough."""
    serve(server, Doubler())
    (tmp_path / "models.yaml").write_text("models: [{name: m, version: 1, storageURI: gs://b}]")
    problem = wait_until(lambda: server.admin("/status").json()["problem"], "the problem to be told")
    assert "storageURI" in problem
    assert server.post("/predict", json={"instance": 1}).status_code == 200
    server.desire(("m", "1"))
    wait_until(lambda: server.admin("/status").json()["problem"] == "", "the problem to be gone")


@pytest.mark.parametrize("victim", ["worker", "master"])
def test_a_killed_process_is_replaced(server: Server, victim: str) -> None:
    """SIGKILL of a worker or of a generation's master: the server answers again by itself."""
    serve(server, Doubler())
    assert server.process is not None
    pid = server.process.pid
    wait_until(lambda: len(children_of(pid)) == 1, "one generation to be left", 20)
    master = children_of(pid)[0]
    target = master if victim == "master" else children_of(master)[0]
    os.kill(target, signal.SIGKILL)

    def answers() -> bool:
        try:
            return bool(server.post("/predict", json={"instance": 1}).json() == {"prediction": 2.0})
        except requests.RequestException:
            return False

    wait_until(lambda: not Path(f"/proc/{target}").exists() and answers(), "an answer again")
    assert server.process.poll() is None


def test_someone_answers_while_a_lost_generation_is_replaced(server: Server) -> None:
    """The only generation is killed while the next one loads for long: clients get a 503 at once, then answers."""
    serve(server, Doubler(1))
    assert server.process is not None
    pid = server.process.pid
    wait_until(lambda: len(children_of(pid)) == 1, "one generation to be left", 20)
    put(server, "m", "2", SlowToLoad(2, seconds=4))
    server.desire(("m", "2"))
    server.wait_for("m", "loading", "2")
    os.kill(min(children_of(pid)), signal.SIGKILL)
    wait_until(lambda: server.admin("/status").json()["models"][0]["serving"] is None, "the loss to be seen", 5)
    refused = server.post("/predict", json={"instance": 1})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.elapsed.total_seconds() < 3
    server.wait_for("m", "ready", "2")
    assert server.post("/predict", json={"instance": 1}).json() == {"prediction": 2.0}


def test_sigterm_answers_what_is_in_flight_and_leaves_nothing_behind(server: Server) -> None:
    """Readiness goes, the slow request is answered, exit is 0, and no process stays."""
    serve(server, Doubler(seconds=1.5))
    assert server.process is not None
    family = [server.process.pid, *children_of(server.process.pid)]
    answers: list[requests.Response] = []
    slow = threading.Thread(target=lambda: answers.append(server.post("/predict", json={"instance": 1})))
    slow.start()
    time.sleep(0.5)
    assert server.stop() == 0
    slow.join()
    assert answers[0].json() == {"prediction": 2.0}
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []


def test_a_killed_supervisor_leaves_no_server_behind(server: Server) -> None:
    """Without PID 1 nobody would follow models.yaml: its generations end too."""
    serve(server, Doubler())
    assert server.process is not None
    masters = children_of(server.process.pid)
    server.stop(signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in masters), "the generations to end", 15)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--bind", "nowhere"], {}, "expected HOST:PORT, got 'nowhere'"),
        ([], {"PANTRY_THREADS": "x"}, "PANTRY_THREADS is 'x'"),
        ([], {}, "cannot be read"),
    ],
)
def test_wrong_use_ends_with_two_and_a_sentence(
    server: Server, arguments: list[str], environment: dict[str, str], words: str
) -> None:
    """A typo in a flag, a setting or a path is named before anything starts."""
    done = subprocess.run(
        [sys.executable, "-m", "serving.cli", "--models", "/none", "--volume", str(server.volume), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(server: Server) -> None:
    """The second server on a port says so and ends with 1."""
    server.desire(("m", "1"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "serving.cli", "--models", str(server.volume.parent / "models.yaml")),
                *("--volume", str(server.volume), "--bind", f"127.0.0.1:{taken.getsockname()[1]}"),
                *("--admin", f"127.0.0.1:{free_port()}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr


def test_requests_are_logged_as_one_json_line_each(server: Server) -> None:
    """A line has the id, the path, the status, the time, and which model answered."""
    serve(server, Doubler())
    server.post("/predict", json={"instance": 1}, headers={"X-Request-Id": "abc"})

    def line() -> dict[str, Any] | None:
        for text in server.log.read_text().splitlines():
            if '"abc"' in text:
                return dict(msgspec.json.decode(text))
        return None

    logged = wait_until(line, "the line")
    assert (logged["path"], logged["status"], logged["model"], logged["version"]) == ("/predict", 200, "m", "1")
