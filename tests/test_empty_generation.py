"""The generation without models, where it does not start: it is tried later and later, and holds nothing up."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.model_kinds import Doubler, SlowToLoad
from tests.serve import Server, wait_until
from tests.test_generations import MIB, answer, ballast, put

# Every Python process runs it as it starts: it hits the generation without models alone, while the file is there.
SABOTAGE = """
import os, signal, sys
from pathlib import Path
{retry}
trouble = Path({trouble!r})
if "serving.generation" in sys.orig_argv and '"bundles":[]' in sys.orig_argv[-1] and trouble.exists():
    if trouble.read_text() == "workers":
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGKILL))
    else:
        os._exit(1)
"""


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file; as long as there is one, the generation without models dies at once, or its "workers" do."""
    _sabotage(tmp_path, monkeypatch)
    return tmp_path / "trouble"


@pytest.fixture
def soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Path) -> Path:
    """The same, and what failed is tried again after two seconds, then four, and so on."""
    _sabotage(tmp_path, monkeypatch, "from serving.supervise import rules\nrules.FIRST_RETRY_SECONDS = 2.0")
    return trouble


def _sabotage(home: Path, monkeypatch: pytest.MonkeyPatch, retry: str = "") -> None:
    code = home / "code"
    code.mkdir(exist_ok=True)
    (code / "sitecustomize.py").write_text(SABOTAGE.format(trouble=str(home / "trouble"), retry=retry))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH")))))


def events(server: Server, *names: str) -> list[dict[str, Any]]:
    """Return the lines of log that have an event of these names."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] in names]


def tries(server: Server) -> int:
    """Return how many generations without models have failed."""
    return len(events(server, "generation-failed"))


def kill_generation(server: Server, number: int) -> None:
    """Kill the generation that answers, once it does."""
    wait_until(lambda: server.admin("/status").json()["generation"] == number, f"generation {number}")
    assert server.process is not None
    pid = server.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.usefixtures("soon")
def test_it_is_tried_later_and_later_and_comes_right_by_itself(server: Server, tmp_path: Path) -> None:
    """A file of secrets that breaks: one line of log a try, and the admin port says why all the time."""
    secret, tokens = "t" * 40, tmp_path / "tokens"
    tokens.write_text(secret)
    server.desire({"name": "m", "version": "1", "storageUri": "gs://b/m", "load": "on-demand"})
    server.start(access="tokens", tokens_file=str(tokens))
    wait_until(lambda: server.admin("/readyz").status_code == 200, "readiness")
    wait_until(lambda: server.admin("/status").json()["generation"] == 1, "the serving port")
    tokens.unlink()
    kill_generation(server, 1)
    wait_until(lambda: tries(server) == 1, "the first try")
    first = time.monotonic()
    while tries(server) < 3 and time.monotonic() < first + 30:
        live, ready, status = map(server.admin, ("/livez", "/readyz", "/status"))
        assert (live.status_code, ready.status_code, status.status_code) == (200, 503, 200)
        for told in (ready, status):
            assert "without models does not start: PANTRY_TOKENS_FILE: " in told.json()["problem"]
        time.sleep(0.2)
    assert time.monotonic() - first > 2 + 4
    time.sleep(3)
    assert tries(server) == 3  # the next one comes after eight seconds
    numbers = [line["generation"] for line in events(server, "generation-starting", "generation-failed")]
    assert numbers == [1, 2, 2, 3, 4]  # of the tries that repeat one, only the end is told
    assert "pantry_models_file_invalid 0.0" in server.admin("/metrics").text
    assert "\nthe generation without models does not start: " in _table(server)
    tokens.write_text(secret)
    asked = wait_until(
        lambda: server.post("/predict", json={"instance": 1}, headers={"Authorization": f"Bearer {secret}"}), "it", 20
    )
    assert (asked.status_code, asked.headers["Retry-After"]) == (503, "5")
    wait_until(lambda: server.admin("/status").json()["problem"] == "", "the problem to be gone")
    assert server.admin("/readyz").status_code == 200
    assert tries(server) == 3


def test_a_model_that_arrives_does_not_wait_for_it(server: Server, trouble: Path) -> None:
    """The next try would come after a minute; the model is there before."""
    trouble.touch()
    server.desire(("m", "1"))
    server.start()
    problem = wait_until(lambda: server.admin("/status").json()["problem"], "the problem to be told")
    assert "ended with status 1" in problem
    put(server, "m", "1", Doubler(3))
    server.wait_for("m", "ready", seconds=20)
    assert answer(server) == 3.0
    assert (server.admin("/readyz").status_code, server.admin("/status").json()["problem"]) == (200, "")
    assert tries(server) == 1


def test_a_model_that_loads_longer_than_its_pause_is_not_ended_for_it(server: Server, soon: Path) -> None:
    """Otherwise a large model would never be there."""
    soon.touch()
    server.desire(("m", "1"))
    server.start()
    wait_until(lambda: tries(server) == 1, "the first try")
    put(server, "m", "1", SlowToLoad(3, seconds=5))
    server.wait_for("m", "ready", seconds=20)
    assert answer(server) == 3.0
    assert (tries(server), events(server, "generation-superseded")) == (1, [])


def test_nothing_is_taken_away_for_room_that_it_cannot_bridge(server: Server, soon: Path) -> None:
    """The old version goes on, a new one that fits comes at once, and the one that does not says why it waits."""
    put(server, "m", "1", ballast(1, 200 * MIB), peak=MIB)
    server.desire(("m", "1"))
    server.start(memory_limit=450 * MIB, prefer="resources")
    server.wait_for("m", "ready")
    soon.touch()
    put(server, "m", "2", ballast(2, 200 * MIB), peak=200 * MIB)
    server.desire(("m", "2"))
    assert "without models does not start: the process ended" in server.wait_for("m", "failed", "2")["reason"]
    assert (server.model("m")["serving"], answer(server)) == ("1", 1.0)
    assert server.admin("/readyz").status_code == 200
    wait_until(lambda: tries(server) == 2, "the second try")
    assert answer(server) == 1.0
    server.desire(("m", "1"))
    server.wait_for("m", "ready", "1")
    wait_until(lambda: server.admin("/status").json()["problem"] == "", "the problem to be gone")
    server.desire(("m", "2"))
    server.wait_for("m", "failed", "2")
    put(server, "m", "3", ballast(3, 240 * MIB), peak=MIB)  # version 2 does not fit beside it
    server.desire(("m", "3"))
    server.wait_for("m", "ready", "3")
    assert answer(server) == 3.0
    server.desire(("m", "2"))
    server.wait_for("m", "failed", "2")
    soon.unlink()
    server.wait_for("m", "ready", "2", seconds=20)
    assert answer(server) == 2.0


def test_one_that_is_lost_again_and_again_waits_too(server: Server) -> None:
    """Five ends within a minute are enough; a model that arrives is served."""
    server.desire(("m", "1"))
    server.start()
    for number in range(1, 6):
        kill_generation(server, number)
    problem = wait_until(lambda: server.admin("/status").json()["problem"], "the problem to be told")
    assert "it was lost 5 times within a minute" in problem
    time.sleep(2)
    assert len(events(server, "generation-starting")) == 5
    put(server, "m", "1", Doubler(3))
    server.wait_for("m", "ready", seconds=20)
    assert answer(server) == 3.0


def test_one_whose_workers_die_is_given_up(server: Server, trouble: Path) -> None:
    """Its master would fork new ones for ever."""
    trouble.write_text("workers")
    server.desire(("m", "1"))
    server.start()
    problem = wait_until(lambda: server.admin("/status").json()["problem"], "the problem to be told")
    assert "its workers died 5 times before they answered" in problem
    lost = len(events(server, "worker-lost"))
    time.sleep(2)
    assert (tries(server), len(events(server, "worker-lost"))) == (1, lost)


def _table(server: Server) -> str:
    page = f"http://127.0.0.1:{server.admin_port}/status"
    return requests.get(page, headers={"Accept": "text/plain"}, timeout=20).text
