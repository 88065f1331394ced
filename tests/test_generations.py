"""Generations on the real server: memory, workers that die or grow, many swaps, the ends of processes."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from loader.bundle.digest import digest_of
from loader.bundle.pack.record import RECORD_NAME, Environment, PackedPickle, PackRecord
from serving.supervise.memory import descendants
from tests.conftest import write_bundle
from tests.model_kinds import Doubler, SlowToLoad
from tests.serve import Server, wait_until

MIB = 1 << 20
DECLARED = "inputs: [{name: x, datatype: FP64, shape: [-1, 2]}]\n"
PREDICTOR = DECLARED + "predictor: predictor.py:Predictor\n"


def put(server: Server, name: str, version: str, model: Any, config: str = "", peak: int = 0, **files: str) -> None:
    """Put a bundle on the volume at once; with a peak, as if packing had measured so many bytes."""
    staging = server.volume / name / ".staging" / version
    write_bundle(staging, model, config, **files)
    if peak:
        digest = digest_of((staging / "model.pkl").read_bytes())
        packed = PackedPickle("model.pkl", digest, "pickle", Environment("3", "2", {}), peak_bytes=peak)
        (staging / RECORD_NAME).parent.mkdir()
        (staging / RECORD_NAME).write_bytes(PackRecord((packed,)).encode())
    staging.rename(server.volume / name / version)


def ballast(factor: float, size: int, kind: type[Doubler] = Doubler) -> Doubler:
    """Return a model that takes memory, and where it is slow to load, two seconds."""
    model = kind(factor, 2.0 if kind is SlowToLoad else 0.0)
    vars(model)["ballast"] = np.full(size // 8, factor)
    return model


def answer(server: Server, name: str = "m") -> float:
    """Return what a model makes of 1."""
    return float(server.post(f"/v1/models/{name}:predict", json={"instances": [[1, 1]]}).json()["predictions"][0][0])


def workers_of(server: Server) -> list[int]:
    """Return the workers of the one generation that there is."""
    assert server.process is not None
    pid = server.process.pid
    wait_until(lambda: len(_children(pid)) == 1, "one generation to be left", 20)
    return _children(_children(pid)[0])


def _anonymous_pss(pid: int) -> int:
    """Return a process's share of memory without files: others that run may share a library, too."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss_Anon:"))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_does_not_fit_beside_the_old_version_is_refused(server: Server) -> None:
    """Availability comes first: the old one goes on serving, the reason has the numbers and what to change."""
    put(server, "m", "1", Doubler(1), peak=MIB)
    server.desire(("m", "1"))
    server.start(memory_limit=1000 * MIB)
    server.wait_for("m", "ready")
    put(server, "m", "2", Doubler(2), peak=900 * MIB)
    server.desire(("m", "2"))
    state = server.wait_for("m", "failed")
    assert "needs 980 MiB of memory beside the version that goes on serving" in state["reason"]
    assert "of 1,000 MiB are free" in state["reason"]
    assert "PANTRY_PREFER=resources" in state["reason"]
    assert (state["serving"], answer(server)) == ("1", 1.0)
    put(server, "m", "3", Doubler(3), peak=100 * MIB)
    server.desire(("m", "3"))
    server.wait_for("m", "ready", "3")


def test_with_resources_first_the_old_version_makes_room(server: Server) -> None:
    """It drains before the new one is loaded; between the two, requests are answered with the phase."""
    put(server, "m", "1", ballast(1, 200 * MIB), peak=MIB)
    server.desire(("m", "1"))
    server.start(memory_limit=450 * MIB, prefer="resources")
    server.wait_for("m", "ready")
    put(server, "m", "2", ballast(2, 200 * MIB, SlowToLoad), peak=200 * MIB)
    server.desire(("m", "2"))
    wait_until(lambda: server.model("m")["serving"] is None, "the old version to make room")
    refused = server.post("/predict", json={"instance": 1})
    assert refused.status_code == 503
    assert "model m version 2 is loading" in refused.json()["error"]
    server.wait_for("m", "ready", "2")
    assert answer(server) == 2.0
    put(server, "m", "3", b"no pickle", peak=200 * MIB)
    server.desire(("m", "3"))
    assert "cannot be loaded" in server.wait_for("m", "failed", "3")["reason"]
    wait_until(lambda: server.model("m")["serving"] == "2", "version 2 to be back")
    assert answer(server) == 2.0


def test_a_first_version_that_cannot_fit_is_refused_only_where_it_was_measured(server: Server) -> None:
    """A measured need is believed, and the models beside it are served; a guess by the size is tried."""
    put(server, "measured", "1", Doubler(1), peak=900 * MIB)
    put(server, "small", "1", Doubler(3), peak=MIB)
    server.desire(("measured", "1"), ("small", "1"))
    server.start(memory_limit=500 * MIB)
    reason = server.wait_for("measured", "failed")["reason"]
    assert "needs 980 MiB of memory: " in reason
    assert "PREFER" not in reason
    server.wait_for("small", "ready")
    server.stop()
    put(server, "guessed", "1", ballast(4, 60 * MIB))
    server.desire(("guessed", "1"))
    server.start(memory_limit=130 * MIB)
    server.wait_for("guessed", "ready")


def test_a_dead_worker_is_replaced_by_a_fork_of_the_loaded_master(server: Server, tmp_path: Path) -> None:
    """Nothing is loaded again, and the golden requests are asked again before the new worker answers."""
    witness = tmp_path / "witness"
    code = (
        "def note(what):\n"
        f"    with open({str(witness)!r}, 'a') as file:\n"
        "        file.write(what + ' ')\n"
        "class Predictor:\n"
        "    def load(self, bundle):\n"
        "        note('load')\n"
        "    def predict(self, inputs):\n"
        "        note('predict')\n"
        "        return {'y': inputs['x']}\n"
    )
    golden = json.dumps([{"inputs": {"x": [[1, 2]]}, "outputs": {"y": [[1, 2]]}}])
    put(server, "m", "1", Doubler(), PREDICTOR + "golden: golden.json\n", predictor__py=code, golden__json=golden)
    server.desire(("m", "1"))
    server.start()
    server.wait_for("m", "ready")
    (worker,) = workers_of(server)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: server.admin("/status").json()["lostWorkers"] == 1, "the loss to be told")
    assert answer(server) == 1.0
    assert witness.read_text().split() == ["load", "predict", "predict", "predict"]


def test_a_model_that_kills_its_workers_fails_and_the_others_go_on(server: Server) -> None:
    """Five dead workers within a minute are enough; who computed in them is to blame, and nobody else."""
    code = (
        "import os\nclass Predictor:\n    def load(self, bundle): pass\n"
        "    def predict(self, inputs): return os._exit(9) if inputs['x'].any() else inputs['x']\n"
    )
    put(server, "bad", "1", Doubler(), PREDICTOR, predictor__py=code)
    put(server, "good", "1", Doubler(3))
    server.desire(("bad", "1"), ("good", "1"))
    server.start(workers=2)
    server.wait_for("bad", "ready")

    def kill_one() -> bool:
        try:
            server.post("/v1/models/bad:predict", json={"instances": [[1, 2]]})
        except requests.RequestException:
            time.sleep(0.2)
        return bool(server.model("bad")["phase"] == "failed")

    wait_until(kill_one, "the model to fail")
    assert "its workers died 5 times within a minute" in server.model("bad")["reason"]
    wait_until(lambda: server.model("bad")["serving"] is None, "the model to be gone")
    assert server.post("/v1/models/bad:predict", json={"instances": [[1, 2]]}).status_code == 503
    assert answer(server, "good") == 3.0
    assert server.model("good")["phase"] == "ready"


def test_a_worker_that_grows_is_replaced_without_a_failed_request(server: Server) -> None:
    """The new worker is there before the old one goes; the log and the status tell."""
    code = (
        "import numpy as np\n"
        "class Predictor:\n"
        "    def load(self, bundle): self.leak = []\n"
        "    def predict(self, inputs):\n"
        "        self.leak.append(np.ones(1 << 20))\n"
        "        return {'y': inputs['x']}\n"
    )
    put(server, "m", "1", Doubler(), PREDICTOR, predictor__py=code)
    server.desire(("m", "1"))
    server.start(worker_memory=40 * MIB)
    server.wait_for("m", "ready")
    time.sleep(3)  # for the master to see what the worker begins with
    statuses: Counter[int] = Counter()

    def replaced() -> bool:
        statuses[server.post("/predict", json={"x": [1, 2]}).status_code] += 1
        time.sleep(0.1)
        return bool(server.admin("/status").json()["retiredWorkers"])

    wait_until(replaced, "a worker to be replaced", 60)
    assert statuses.keys() == {200}
    assert '"worker-retired"' in server.log.read_text()
    assert server.admin("/status").json()["lostWorkers"] == 0


def test_memory_is_the_same_after_ten_swaps_under_load(server: Server) -> None:
    """No request fails on kept-alive connections, some of them slow, and no generation leaves anything behind."""
    put(server, "m", "1", ballast(1, 50 * MIB))
    server.desire(("m", "1"))
    server.start(workers=2, drain_seconds=6)
    server.wait_for("m", "ready")
    assert server.process is not None
    pid, end, counts = server.process.pid, threading.Event(), Counter[str]()

    def client(pause: float) -> None:
        with requests.Session() as session:
            while not end.is_set():
                try:
                    status = session.post(f"{server.url}/predict", json={"instance": 1}, timeout=20).status_code
                    counts[str(status)] += 1
                except requests.RequestException as error:
                    counts[repr(error)] += 1
                time.sleep(pause)

    def settled() -> int:
        wait_until(lambda: len(_children(pid)) == 1, "one generation to be left", 30)
        with ThreadPoolExecutor(10) as pool:  # so that every worker has answered
            assert set(pool.map(lambda _: answer(server), range(60))) == {float(server.model("m")["version"])}
        return sum(map(_anonymous_pss, descendants(pid)))

    threads = [threading.Thread(target=client, args=(pause,)) for pause in (0.05, 0.3, 1.0)]
    for thread in threads:
        thread.start()
    sizes = []
    for version in range(2, 13):
        model = ballast(version, 50 * MIB)
        model.seconds = 0.05
        put(server, "m", str(version), model)
        server.desire(("m", str(version)))
        server.wait_for("m", "ready", str(version))
        if version in (2, 12):
            sizes.append(settled())
    end.set()
    for thread in threads:
        thread.join()
    assert counts.keys() == {"200"}, counts
    print(f"after the first swap {sizes[0] / MIB:.1f} MiB, after ten more {sizes[1] / MIB:.1f} MiB, {counts}")
    assert sizes[1] < sizes[0] * 1.05


def test_sigterm_takes_readiness_away_at_once(server: Server) -> None:
    """Before the request in flight is answered, the load balancer knows; the end is 0, and in time."""
    put(server, "m", "1", Doubler(seconds=2))
    server.desire(("m", "1"))
    server.start()
    server.wait_for("m", "ready")
    assert server.process is not None
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.post, "/predict", json={"instance": 1})
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.admin("/readyz").status_code == 503, "readiness to go", 1)
        assert not slow.done()
        assert slow.result().json() == {"prediction": 2.0}
    began = time.monotonic()
    assert server.process.wait(timeout=20) == 0
    assert time.monotonic() - began < 10


def test_a_lost_generation_comes_back_with_the_version_that_answered(server: Server) -> None:
    """The desired version has failed, so what served before is loaded again: nothing is down for good."""
    put(server, "m", "1", Doubler(1))
    server.desire(("m", "1"))
    server.start()
    server.wait_for("m", "ready")
    put(server, "m", "2", b"no pickle")
    server.desire(("m", "2"))
    server.wait_for("m", "failed", "2")
    assert server.process is not None
    os.kill(_children(server.process.pid)[0], signal.SIGKILL)
    wait_until(lambda: '"generation-lost"' in server.log.read_text(), "the loss to be seen")
    wait_until(lambda: server.model("m")["serving"] == "1", "version 1 to be back")
    assert answer(server) == 1.0


def test_an_on_demand_model_is_loaded_once_and_stays(server: Server) -> None:
    """Many first requests cause one load, the model beside it answers meanwhile, and a swap keeps what was loaded."""
    put(server, "eager", "1", Doubler(1))
    put(server, "lazy", "1", SlowToLoad(5, seconds=2))
    lazy = {"name": "lazy", "version": "1", "storageUri": "gs://b/m", "load": "on-demand"}
    server.desire(("eager", "1"), lazy)
    server.start()
    server.wait_for("eager", "ready")
    assert server.model("lazy")["phase"] == "waiting"
    with ThreadPoolExecutor(10) as pool:
        page = "/v1/models/lazy:predict"
        first = list(pool.map(lambda _: server.post(page, json={"instances": [1]}), range(10)))
    assert {(got.status_code, "Retry-After" in got.headers) for got in first} == {(503, True)}
    server.wait_for("lazy", "loading")
    assert answer(server, "eager") == 1.0
    server.wait_for("lazy", "ready")
    assert answer(server, "lazy") == 5.0
    starts = [line for line in server.log.read_text().splitlines() if '"generation-starting"' in line]
    assert sum("lazy/1" in line for line in starts) == 1
    put(server, "eager", "2", Doubler(2))
    server.desire(("eager", "2"), lazy)
    server.wait_for("eager", "ready", "2")
    assert answer(server, "lazy") == 5.0


def test_reload_follows_a_directory_under_work(server: Server, tmp_path: Path) -> None:
    """A plain directory is served as it is; a saved file is a new generation; a broken one leaves the old answering."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "model.pkl").write_bytes(pickle.dumps(Doubler(2)))
    server.desire({"name": "m", "version": "dev", "storageUri": f"file://{work}"})
    server.start("--reload")
    server.wait_for("m", "ready")
    assert answer(server) == 2.0
    code = "class Predictor:\n    def load(self, bundle): pass\n    def predict(self, inputs): return inputs['x'] * 7\n"
    (work / "predictor.py").write_text(code)
    (work / "model.yaml").write_text(PREDICTOR)
    wait_until(lambda: answer(server) == 7.0, "the predictor to answer")
    (work / "predictor.py").write_text("def broken(:\n")
    assert "predictor.py" in server.wait_for("m", "failed")["reason"]
    assert answer(server) == 7.0
    (work / "predictor.py").write_text(code.replace("7", "8"))
    wait_until(lambda: answer(server) == 8.0, "the mended predictor to answer")
    assert "nothing-is-verified" in server.log.read_text()


def test_steps_of_the_clock_do_no_harm(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day forward, two back, and right again: requests are answered, versions swapped, and no worker is lost."""
    library, step = tmp_path / "stepped_clock.so", tmp_path / "step"
    source = Path(__file__).with_name("stepped_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    step.write_text("0")
    for version in "1234":
        put(server, "m", version, Doubler(int(version)), DECLARED)
    server.desire(("m", "1"))
    monkeypatch.setenv("STEPPED_CLOCK", str(step))
    with monkeypatch.context() as preloading:
        preloading.setenv("LD_PRELOAD", str(library))
        server.start(workers=2, predict_seconds=5)
    server.wait_for("m", "ready")
    for seconds, version in ((86400, "2"), (-172800, "3"), (0, "4")):
        step.write_text(str(seconds))
        time.sleep(0.5)
        server.desire(("m", version))
        server.wait_for("m", "ready", version)
        for _ in range(20):
            asked = server.post("/predict", json={"x": [1, 2]})
            assert asked.json() == {"prediction": [float(version), 2.0 * float(version)]}
        told = parsedate_to_datetime(asked.headers["Date"]).timestamp()
        assert abs(told - time.time() - seconds) < 60
    log = server.log.read_text()
    assert not [event for event in ("worker-lost", "worker-hangs", "generation-failed", "TIMEOUT") if event in log]


def test_the_first_computation_is_made_before_the_first_client_asks(server: Server) -> None:
    """A model that compiles for longer than a predict may take is warmed up by zeros, or by what is golden."""
    code = (
        "import time\nclass Predictor:\n    compiled = False\n    def load(self, bundle): ...\n"
        "    def predict(self, inputs):\n        time.sleep(0 if self.compiled else 2.5)\n"
        "        self.compiled = True\n        return {'y': inputs['x']}\n"
    )
    golden = json.dumps([{"inputs": {"x": [[1, 2]]}, "outputs": {"y": [[1, 2]]}}])
    put(server, "zeros", "1", b"", PREDICTOR, predictor__py=code)
    put(server, "golden", "1", b"", PREDICTOR + "golden: golden.json\n", predictor__py=code, golden__json=golden)
    server.desire(("zeros", "1"), ("golden", "1"))
    server.start(predict_seconds=1, workers=1)
    for name in ("zeros", "golden"):
        server.wait_for(name, "ready")
        answer = server.post(f"/v1/models/{name}:predict", json={"instances": [[1, 2]]})
        assert answer.json() == {"predictions": [[1, 2]]}


def test_a_made_up_row_that_a_model_does_not_take_is_nobodys_failure(server: Server) -> None:
    """A model that raises at zeros serves what it takes, and the log has no failure."""
    code = (
        "class Predictor:\n    def load(self, bundle): ...\n"
        "    def predict(self, inputs):\n        return {'y': [[1 / x for x in row] for row in inputs['x'].tolist()]}\n"
    )
    put(server, "m", "1", b"", PREDICTOR, predictor__py=code)
    server.desire(("m", "1"))
    server.start(workers=1)
    server.wait_for("m", "ready")
    assert server.post("/predict", json={"x": [2, 4]}).json() == {"prediction": [0.5, 0.25]}
    assert "ZeroDivisionError" not in server.log.read_text()
