"""/metrics and /status: what is counted, by whom, and that it neither goes back nor grows."""

# prometheus_client has types in part.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from serving.state import ModelState, Phase, ServerState
from serving.supervise.admin import prefers_text, table
from serving.supervise.exposition import RETAINED_VERSIONS, Exposition, tidy
from serving.supervise.processes import Process, copies
from tests.model_kinds import Doubler
from tests.serve import Server, wait_until
from tests.test_server import DECLARED, children_of, put, serve

ROOT = Path(__file__).resolve().parents[1]
Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


def parse(text: str) -> Samples:
    """Every sample of an exposition; none may come twice."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, key
            samples[key] = sample.value
    return samples


def scrape(server: Server) -> Samples:
    answer = server.admin("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return parse(answer.text)


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of what has these labels."""
    return sum(value for (own, of), value in samples.items() if own == name and labels.items() <= dict(of).items())


def test_requests_are_counted_by_model_version_code_and_route(server: Server) -> None:
    """Each answer counts once, with its time, its wait and its batch."""
    serve(server, Doubler(seconds=0.02), DECLARED)
    before = scrape(server)  # of golden requests there are none
    for _ in range(3):
        assert server.post("/predict", json={"x": [1, 2]}).status_code == 200
    assert server.post("/v1/models/m:predict", json={"instances": [[1, 2], [3, 4]]}).status_code == 200
    assert server.post("/v1/models/m:predict", json={"instances": [[1]]}).status_code == 400
    requests.get(f"{server.url}/healthz", timeout=20)
    after = scrape(server)

    def more(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert more("pantry_requests_total", model="m", version="1", code="200", route="short") == 3
    assert more("pantry_requests_total", model="m", version="1", code="200", route="v1") == 1
    assert more("pantry_requests_total", model="m", version="1", code="400", route="v1") == 1
    assert more("pantry_requests_total", route="health") == 1
    assert more("pantry_request_seconds_count", model="m") == 5
    assert 0.08 <= more("pantry_request_seconds_sum", model="m") < 5
    assert more("pantry_predict_seconds_count", model="m") == 4
    assert 0.08 <= more("pantry_predict_seconds_sum", model="m") < 5
    assert more("pantry_queue_seconds_count", model="m") == 4
    assert more("pantry_batch_rows_sum", model="m") == 5
    assert total(after, "pantry_requests_in_flight") == 0


def test_what_the_supervisor_knows_is_told(server: Server) -> None:
    """Phases, bytes, versions, generations, swaps, failures, workers, memory; in both text formats."""
    serve(server, Doubler(), DECLARED)
    server.post("/predict", json={"x": [1, 2]})
    put(server, "broken", "7", b"no pickle")
    server.desire(("m", "1"), ("broken", "7"))
    server.wait_for("broken", "failed")
    samples = scrape(server)
    phases = {
        (dict(labels)["model"], dict(labels)["phase"])
        for (name, labels), value in samples.items()
        if name == "pantry_model_phase" and value
    }
    assert phases == {("m", "ready"), ("broken", "failed")}
    assert total(samples, "pantry_model_serving", model="m", version="1") == 1
    assert total(samples, "pantry_model_bytes", model="m") > 0
    assert total(samples, "pantry_load_seconds", model="m", version="1") > 0
    assert total(samples, "pantry_swaps_total", result="done") == 1
    assert total(samples, "pantry_swaps_total", result="failed") == 1
    assert total(samples, "pantry_swap_seconds") > 0
    assert total(samples, "pantry_failures_total", event="phase-failed", model="broken") == 1
    assert total(samples, "pantry_generation") == server.admin("/status").json()["generation"]
    assert total(samples, "pantry_ready") == 1
    assert total(samples, "pantry_models_file_invalid") == 0
    assert total(samples, "pantry_process_pss_bytes", role="supervisor") > 10_000_000
    text = requests.get(
        f"http://127.0.0.1:{server.admin_port}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
        timeout=5,
    ).text
    names = {family.name for family in openmetrics_families(text)}
    assert {"pantry_requests", "pantry_request_seconds", "pantry_model_phase", "pantry_swaps"} <= names


def test_workers_share_one_copy_and_it_shows(server: Server) -> None:
    """Two workers of a model of 64 MB take about what one process would."""
    put(server, "m", "1", Doubler(factor=bytes(64_000_000)))  # type: ignore[arg-type] # it is only carried
    server.desire(("m", "1"))
    server.start(workers=2)
    server.wait_for("m", "ready")

    def told() -> Samples | None:
        samples = scrape(server)
        return samples if total(samples, "pantry_workers") == 2 else None

    samples = wait_until(told, "both workers to be told", 20)
    assert 0.8 < total(samples, "pantry_model_copies") < 1.6
    assert total(samples, "pantry_process_pss_bytes", role="serving") > 64_000_000
    assert total(samples, "pantry_process_pss_bytes", role="serving", process="worker-2") > 0


def test_hostile_names_do_not_grow_the_output(server: Server) -> None:
    """Models, versions, methods and paths that clients invent are counted under no name."""
    serve(server, Doubler(), DECLARED)
    page = f"{server.url}/v1/models/m:predict"

    def ask(name: str, method: str) -> None:
        for path in (f"/v1/models/{name}:predict", f"/v2/models/{name}/infer", f"/v2/models/m/versions/{name}/infer"):
            server.post(path, json={"instances": [[1, 2]]})
        requests.get(f"{server.url}/{name}", timeout=20)
        requests.request(method, page, timeout=20)

    ask("first", "FIRST")
    before = scrape(server)
    for number in range(20):
        ask(f"evil{number}", f"EVIL{number}")
    after = scrape(server)
    assert before.keys() == after.keys()
    assert "evil" not in server.admin("/metrics").text.lower()
    assert total(after, "pantry_requests_total", model="", code="404") >= 60


def test_counts_survive_killed_workers_and_swaps(server: Server) -> None:
    """Scrapes go on all the time, in parallel; every one succeeds, nothing goes back, nothing is lost, files go."""
    serve(server, Doubler(), DECLARED)
    assert server.process is not None
    end, wrong, scrapes = threading.Event(), [], [0]

    def watch() -> None:
        highest: dict[tuple[str, Labels], float] = {}
        while not end.is_set():
            answer = server.admin("/metrics")
            if answer.status_code != 200:
                wrong.append(answer.text)
                return
            scrapes[0] += 1
            for key, value in parse(answer.text).items():
                if key[0].endswith(("_total", "_count", "_bucket")):
                    if value < highest.get(key, 0.0):
                        wrong.append(f"{key}: {highest[key]}, then {value}")
                    highest[key] = value
            if missing := [
                key for key in highest if key[0] == "pantry_requests_total" and key not in parse(answer.text)
            ]:
                wrong.append(f"gone: {missing}")
            time.sleep(0.05)

    threads = [threading.Thread(target=watch) for _ in range(3)]
    for thread in threads:
        thread.start()
    answered = 0
    for version in ("2", "3", "4"):
        for _ in range(5):
            assert server.post("/predict", json={"x": [1, 2]}).status_code == 200
            answered += 1
        put(server, "m", version, Doubler(), DECLARED)
        server.desire(("m", version))
        server.wait_for("m", "ready", version)
    wait_until(lambda: len(children_of(server.process.pid)) == 1, "one generation to be left", 20)  # type: ignore[union-attr]
    for _ in range(5):
        server.post("/predict", json={"x": [1, 2]})
        answered += 1
    (worker,) = children_of(children_of(server.process.pid)[0])
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker to be gone")
    wait_until(answering(server), "an answer again")
    answered += 1
    end.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert scrapes[0] > 20
    samples = scrape(server)
    assert total(samples, "pantry_requests_total", code="200", route="short") == answered
    assert total(samples, "pantry_request_seconds_count", model="m") == answered
    assert total(samples, "pantry_swaps_total", result="done") == 4
    directory = Path(environment_of(children_of(server.process.pid)[0])["PROMETHEUS_MULTIPROC_DIR"])
    masters = children_of(server.process.pid)
    living = {0, *masters, *(worker for master in masters for worker in children_of(master))}
    assert {int(path.stem.rpartition("_")[2]) for path in directory.glob("*.db")} <= living
    server.stop()
    assert not directory.exists()


def answering(server: Server) -> Callable[[], bool]:
    def asked() -> bool:
        try:
            return server.post("/predict", json={"x": [1, 2]}).status_code == 200
        except requests.RequestException:
            return False

    return asked


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.partition("=")[::2] for pair in pairs)


def test_a_killed_worker_leaves_nothing_in_flight(server: Server) -> None:
    """Requests that died with their worker are not told as being answered for ever."""
    serve(server, Doubler(seconds=3), DECLARED)
    assert server.process is not None
    wait_until(lambda: len(children_of(server.process.pid)) == 1, "one generation to be left", 20)  # type: ignore[union-attr]
    (worker,) = children_of(children_of(server.process.pid)[0])
    thread = threading.Thread(target=answering(server))
    thread.start()
    wait_until(lambda: total(scrape(server), "pantry_requests_in_flight") == 1, "the request to be told", 10)
    os.kill(worker, signal.SIGKILL)
    thread.join()
    wait_until(lambda: total(scrape(server), "pantry_requests_in_flight") == 0, "it to be forgotten", 10)


GENERATIONS = """
import os, sys
sys.path[:0] = ["image", "."]
from serving.sight import metrics
for number in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        metrics.request_began()
        metrics.count_request("m", str(number), 200, "v1", 0.01)
        metrics.observe_batch("m", 2, [0.0, 0.0], 0.01)
        metrics.observe_load("m", str(number), 1.0)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_files_and_lines_are_bounded_over_hundreds_of_swaps(tmp_path: Path) -> None:
    """What 300 dead workers counted is in two files; sums are whole; old versions' own lines go."""
    exposition = Exposition(tmp_path)
    environment = {**os.environ, **exposition.environment}
    (directory,) = tmp_path.iterdir()
    sizes = []
    for _ in range(2):
        command = [sys.executable, "-c", GENERATIONS, "150"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=60)
        assert len(list(directory.iterdir())) > 300
        tidy(directory)
        assert {path.name for path in directory.glob("*")} == {"counter_0.db", "histogram_0.db"}
        sizes.append(sum(path.stat().st_size for path in directory.iterdir()))
    assert sizes[0] == sizes[1]
    samples = parse(exposition.render("")[0].decode())
    assert total(samples, "pantry_request_seconds_count", model="m") == 300
    assert total(samples, "pantry_batch_rows_sum", model="m") == 600
    assert total(samples, "pantry_queue_seconds_count", model="m") == 600
    versions = {dict(labels)["version"] for name, labels in samples if name == "pantry_requests_total"}
    assert versions == {str(number) for number in range(150 - RETAINED_VERSIONS, 150)}
    assert total(samples, "pantry_requests_in_flight") == 0
    assert total(samples, "pantry_requests_total", version="149") == 2


def test_a_full_disk_loses_no_count(tmp_path: Path) -> None:
    """Where the files of the dead cannot be put together, they are told one by one, and their gauges still go."""
    exposition = Exposition(tmp_path)
    (directory,) = tmp_path.iterdir()
    environment = {**os.environ, **exposition.environment}
    subprocess.run([sys.executable, "-c", GENERATIONS, "3"], cwd=ROOT, env=environment, check=True)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))  # as on a full disk, no file can grow
    try:
        samples = parse(exposition.render("")[0].decode())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert total(samples, "pantry_request_seconds_count", model="m") == 3
    assert total(samples, "pantry_requests_in_flight") == 0
    assert len(list(directory.glob("counter_*.db"))) >= 3
    tidy(directory)
    assert (
        parse(exposition.render("")[0].decode()).items()
        >= {key: value for key, value in samples.items() if key[0] == "pantry_requests_total"}.items()
    )
    assert [path.name for path in sorted(directory.iterdir())] == ["counter_0.db", "histogram_0.db"]


def test_what_a_bundles_predictor_counts_is_told(server: Server) -> None:
    """A counter of prometheus_client in predictor.py is on /metrics, as those of Pantry are."""
    code = (
        "from prometheus_client import Counter\n"
        "SEEN = Counter('words_seen', 'Words seen.')\n"
        "class Predictor:\n"
        "    def load(self, bundle): pass\n"
        "    def predict(self, inputs):\n"
        "        SEEN.inc(len(inputs['x']))\n"
        "        return {'y': inputs['x'][:, 0]}\n"
    )
    serve(server, Doubler(), DECLARED + "predictor: predictor.py:Predictor\n", predictor__py=code)
    before = total(scrape(server), "words_seen_total")  # of the workers' made-up rows
    assert server.post("/predict", json={"instances": [[1, 2], [3, 4]]}).status_code == 200
    assert total(scrape(server), "words_seen_total") == before + 2


def test_a_damaged_file_spoils_only_its_own_counts(tmp_path: Path) -> None:
    """A file that is empty, as when its process is about to write it, or is none at all, is passed over."""
    exposition = Exposition(tmp_path)
    (directory,) = tmp_path.iterdir()
    environment = {**os.environ, **exposition.environment}
    subprocess.run([sys.executable, "-c", GENERATIONS, "1"], cwd=ROOT, env=environment, check=True)
    alive = os.getpid()
    (directory / f"counter_{alive}.db").touch()
    (directory / f"histogram_{alive}.db").write_bytes(b"\xff\x00\x00\x00" + b"garbage" * 100)
    (directory / f"gauge_livesum_{alive}.db").write_bytes(b"\x01")
    (directory / "gauge_what.db").write_bytes(b"\x30\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00{no}" + bytes(100))
    samples = parse(exposition.render("")[0].decode())
    assert total(samples, "pantry_requests_total", model="m") == 1


def test_copies_compare_a_group_with_its_largest_process() -> None:
    """Four workers that share everything are about one copy; four that share nothing are four."""
    shared = [Process("serving", f"worker-{number}", pss=25, rss=100) for number in range(4)]
    private = [Process("serving", f"worker-{number}", pss=100, rss=100) for number in range(4)]
    assert (copies(shared), copies(private), copies([])) == (1.0, 4.0, 0.0)


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("text/plain", True),
        ("text/plain;q=0.5, application/json;q=0.9", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/plain;q=x", False),
        (";;,,;q=", False),
    ],
)
def test_a_status_is_text_for_whoever_reads_text(accept: str, text: bool) -> None:
    """Browsers and people get a table; programs, and who does not care, get JSON."""
    assert prefers_text(accept) is text


def test_status_as_a_table(server: Server) -> None:
    """A person who asks with a browser reads each model's phase, and why one failed."""
    put(server, "bad", "2", b"no pickle")
    put(server, "m", "1", Doubler())
    server.desire(("m", "1"), ("bad", "2"))
    server.start()
    server.wait_for("m", "ready")
    server.wait_for("bad", "failed")
    page = f"http://127.0.0.1:{server.admin_port}/status"
    answer = requests.get(page, headers={"Accept": "text/html,*/*;q=0.8"}, timeout=20)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    first, _, head, good, bad, _, reason = answer.text.splitlines()
    assert re.fullmatch(r"ready, generation \d+, up \d+ s", first)
    assert head.split() == ["MODEL", "VERSION", "PHASE", "MIB", "SERVING"]
    assert (good.split()[:3], bad.split()[:3]) == (["m", "1", "ready"], ["bad", "2", "failed"])
    assert reason.startswith("bad 2: bad/2/model.pkl cannot be loaded")
    assert requests.get(page, timeout=20).json()["ready"] is True


def test_the_table_tells_what_is_wrong_with_models_yaml() -> None:
    """The problem has a line of its own, as in the JSON form."""
    state = ServerState(False, (ModelState("m", "1", Phase.WAITING),), "line 3: no name")
    assert table(state).splitlines()[-1] == "line 3: no name"
    assert table(state).startswith("not ready")


def test_the_supervisor_stays_small() -> None:
    """PID 1 loads neither numpy nor Flask nor gunicorn by any way round, and stays under 60 MB."""
    code = (
        "import sys; sys.path[:0] = ['image', '.']; import serving.cli\n"
        "print([name for name in ('numpy', 'flask', 'gunicorn', 'PIL', 'werkzeug') if name in sys.modules])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmRSS')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy, kib = done.stdout.splitlines()
    assert heavy == "[]"
    assert int(kib) < 60_000


def test_the_dashboard_asks_for_metrics_that_exist(server: Server) -> None:
    """Every name in the Grafana dashboard is one that a server tells, and every panel has a question."""
    serve(server, Doubler(), DECLARED)
    server.post("/predict", json={"x": [1, 2]})
    told = {name for name, _ in scrape(server)} | {"pantry_failures_total"}
    dashboard = json.loads((ROOT / "chart/files/dashboard.json").read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] if panel["type"] != "row" for target in panel["targets"]
    ]
    assert len(expressions) > 10
    for expression in expressions:
        assert (asked := set(re.findall(r"pantry_\w+", expression))), expression
        assert asked <= told, asked - told
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
