"""Requests that wait become one predict: each gets its own rows, or its own error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from serving.errors import Overloaded, PredictFailed, PredictTimeout, ServingError
from serving.models.batching import Batcher
from serving.models.returning import Returning
from serving.models.ticket import Arrays
from serving.supervise.cpus import RESTING, VARIABLES, processors, set_library_threads
from tests.model_kinds import Doubler
from tests.serve import Server
from tests.test_server import DECLARED, put

ASK = {"instances": [[1, 2]]}


class Gate:
    """A model that doubles, and computes the first request only when it is told to, so that others queue behind it."""

    def __init__(self, seconds: float = 0) -> None:
        self.runs: list[int] = []
        self.seconds = seconds
        self.computing, self.opened = threading.Event(), threading.Event()

    def __call__(self, inputs: Arrays) -> Arrays:
        """Return x * 2; refuse rows that have a negative number."""
        x = inputs["x"]
        self.runs.append(len(x))
        self.computing.set()
        assert self.opened.wait(10)
        time.sleep(self.seconds)
        if (x < 0).any():
            raise PredictFailed("negative")
        return {"y": x * 2}


def batcher(run: Callable[[Arrays], Arrays], rows: int = 64, seconds: float = 20, queue: int = 100) -> Batcher:
    """Make a batcher that nobody observes."""
    return Batcher("m", run, rows, seconds, queue, lambda _rows, _waits, _seconds: None)


def rows(*values: float) -> Arrays:
    """Make an input of as many rows."""
    return {"x": np.asarray(values, dtype=np.float64).reshape(-1, 1)}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads of clients."""
    with ThreadPoolExecutor(64) as threads:
        yield threads


def queued(pool: ThreadPoolExecutor, batcher: Batcher, gate: Gate, *inputs: Arrays) -> list[Future[Arrays]]:
    """Ask the first while the gate is shut, the others behind it, one after the other; then open the gate."""
    futures = [pool.submit(batcher.predict, inputs[0])]
    assert gate.computing.wait(10)
    for more in inputs[1:]:
        futures.append(pool.submit(batcher.predict, more))
        time.sleep(0.02)
    gate.opened.set()
    return futures


def test_what_has_queued_becomes_one_predict(pool: ThreadPoolExecutor) -> None:
    """A lone request runs at once; all that came meanwhile run together; each gets its rows."""
    gate = Gate()
    futures = queued(pool, batcher(gate), gate, *(rows(*range(n, 2 * n)) for n in range(1, 6)))
    for number, future in enumerate(futures, 1):
        assert future.result(10)["y"].ravel().tolist() == [2.0 * value for value in range(number, 2 * number)]
    assert gate.runs == [1, 2 + 3 + 4 + 5]


def test_batches_have_at_most_so_many_rows(pool: ThreadPoolExecutor) -> None:
    """A batch is filled up to its limit; a request that is larger by itself runs alone, undivided."""
    gate = Gate()
    queued(pool, batcher(gate, 4), gate, *(rows(*[1.0] * count) for count in (1, 3, 9, 1, 2)))
    pool.shutdown()
    assert gate.runs == [1, 4, 9, 2]


def test_only_like_is_joined_with_like(pool: ThreadPoolExecutor) -> None:
    """Another dtype or another size of row is another batch; arrays without rows run alone."""
    gate = Gate()
    inputs = [rows(1), {"x": np.ones((1, 1), dtype=np.float32)}, rows(2), {"x": np.ones((1, 2))}, rows(3)]
    futures = queued(pool, batcher(gate), gate, *inputs)
    assert [future.result(10)["y"].dtype.itemsize for future in futures] == [8, 4, 8, 8, 8]
    assert gate.runs == [1, 1, 2, 1]


def test_one_bad_request_does_not_spoil_its_neighbours(pool: ThreadPoolExecutor) -> None:
    """Where a batch raises, each of its requests is tried alone, and only the bad one fails."""
    gate = Gate()
    good, *others = queued(pool, batcher(gate), gate, rows(1), rows(2), rows(-3), rows(4))
    assert good.result(10)["y"].tolist() == [[2.0]]
    assert [future.exception(10) is None for future in others] == [True, False, True]
    assert others[2].result()["y"].tolist() == [[8.0]]
    assert gate.runs == [1, 3, 1, 1, 1]


@pytest.mark.parametrize("error", [SystemExit, KeyError, MemoryError])
def test_whatever_a_model_raises_nobody_waits_for_ever(pool: ThreadPoolExecutor, error: type[BaseException]) -> None:
    """Even an error that is no Exception ends one request, and the next one is answered."""

    def run(inputs: Arrays) -> Arrays:
        if (inputs["x"] < 0).any():
            raise error
        return inputs

    waits = batcher(run)
    futures = [pool.submit(waits.predict, rows(value)) for value in [-1.0, 1.0] * 20]
    for number, future in enumerate(futures):
        assert (future.exception(10) is None) == bool(number % 2)


def test_a_model_that_mixes_rows_is_found_out(pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """Where rows do not add up, the requests run one by one, now and from then on, and the log has one line."""
    gate = Gate()

    def summing(inputs: Arrays) -> Arrays:
        return {"y": gate(inputs)["y"].sum(axis=0)[:, None] if len(inputs["x"]) > 1 else gate(inputs)["y"]}

    mixing = batcher(summing)
    futures = queued(pool, mixing, gate, rows(1), rows(2), rows(3))
    assert [future.result(10)["y"].tolist() for future in futures] == [[[2.0]], [[4.0]], [[6.0]]]
    gate.opened.clear()
    gate.computing.clear()
    queued(pool, mixing, gate, rows(1), rows(2), rows(3))
    pool.shutdown()
    assert gate.runs == [1, 2, 1, 1, 1, 1, 1]
    assert len([record for record in caplog.records if "one by one" in record.message]) == 1


def test_a_full_queue_refuses_at_once(pool: ThreadPoolExecutor) -> None:
    """Whoever comes when the queue is full is told when to come again; who waits is answered."""
    gate = Gate()
    full = batcher(gate, queue=2)
    first = pool.submit(full.predict, rows(0))
    assert gate.computing.wait(10)
    waiting = [pool.submit(full.predict, rows(value)) for value in (1, 2)]
    time.sleep(0.1)
    with pytest.raises(Overloaded, match="m is busy: 2 requests wait") as refused:
        full.predict(rows(3))
    assert refused.value.retry_after == 1
    gate.opened.set()
    assert [future.result(10)["y"].item() for future in (first, *waiting)] == [0.0, 2.0, 4.0]


def test_large_requests_do_not_make_small_ones_seem_late(pool: ThreadPoolExecutor) -> None:
    """What a request of a hundred batches took is not what each of the next one's hundred will take."""

    def run(inputs: Arrays) -> Arrays:
        time.sleep(len(inputs["x"]) / 1000)
        return {"y": inputs["x"]}

    busy, large = batcher(run, rows=4, seconds=5), rows(*[1.0] * 400)
    busy.predict(large)
    others = [pool.submit(busy.predict, large) for _ in range(2)]
    time.sleep(0.1)  # one runs, one waits
    assert busy.predict(rows(7))["y"].item() == 7.0
    assert [len(future.result(10)["y"]) for future in others] == [400, 400]


def test_who_would_wait_past_the_deadline_is_refused_at_once(pool: ThreadPoolExecutor) -> None:
    """From what runs took so far it is known that the queue is too long, long before it is full."""
    gate = Gate(seconds=0.2)
    gate.opened.set()
    slow = batcher(gate, rows=1, seconds=1)
    slow.predict(rows(0))
    began = time.monotonic()
    futures = [pool.submit(slow.predict, rows(value)) for value in range(20)]
    refused = [future for future in futures if isinstance(future.exception(10), Overloaded)]
    assert 12 <= len(refused) <= 18
    assert time.monotonic() - began < 1.5
    assert all(error.retry_after == 1 for error in map(Future.exception, refused) if isinstance(error, ServingError))


def test_who_has_waited_too_long_is_not_run(pool: ThreadPoolExecutor) -> None:
    """A model hangs: who is in its batch is told that it did not answer, those behind that it is busy; none is run."""
    gate = Gate()
    hanging = batcher(gate, seconds=0.4)
    first = pool.submit(hanging.predict, rows(1))
    assert gate.computing.wait(10)
    time.sleep(0.1)
    began = time.monotonic()
    waiting = [pool.submit(hanging.predict, rows(value)) for value in range(3)]
    assert [type(future.exception(10)) for future in waiting] == [Overloaded] * 3
    assert time.monotonic() - began < 2
    with pytest.raises(Overloaded):
        hanging.predict(rows(5))
    assert isinstance(first.exception(10), PredictTimeout)
    assert hanging.running_since() is not None
    gate.opened.set()
    while hanging.running_since() is not None:
        time.sleep(0.01)
    assert gate.runs == [1]
    assert hanging.predict(rows(6))["y"].item() == 12.0


def test_a_batch_that_hangs_ends_for_all_in_it(pool: ThreadPoolExecutor) -> None:
    """Those that were joined with what hangs get PredictTimeout in time."""
    gate = Gate()
    hanging = batcher(gate, seconds=1)
    first, *others = queued(pool, hanging, gate, rows(1))
    first.result(10)
    gate.opened.clear()
    gate.computing.clear()
    running = pool.submit(hanging.predict, rows(1))
    assert gate.computing.wait(10)
    others = [pool.submit(hanging.predict, rows(value)) for value in (2, 3)]
    time.sleep(0.1)
    gate.seconds = 2
    gate.opened.set()
    errors = [future.exception(10) for future in (*others, running)]
    assert {type(error) for error in errors} <= {PredictTimeout, Overloaded, type(None)}
    assert any(isinstance(error, PredictTimeout | Overloaded) for error in errors)


def test_clients_that_come_back_are_waited_for(pool: ThreadPoolExecutor) -> None:
    """Eight who think for a moment after each answer stay in one run."""
    gate = Gate(seconds=0.2)
    gate.opened.set()
    waiting = batcher(gate)

    def ask(times: int, pause: float) -> None:
        for _ in range(times):
            waiting.predict(rows(1))
            time.sleep(pause)

    for future in [pool.submit(ask, 10, number * 0.001) for number in range(8)]:
        future.result(30)
    assert sum(gate.runs) == 80
    assert len(gate.runs) <= 15


def test_a_lone_client_never_waits() -> None:
    """Who was answered alone is all that can come back: when it is there, there is nothing to wait for."""
    returning = Returning()
    returning.expect(answered=1, waiting=0, seconds=60)
    assert returning.queue == 1


def test_clients_that_do_not_come_back_are_not_waited_for() -> None:
    """Where others ask each time, the runs begin at once, but for a try now and then."""
    returning = Returning()
    waited = 0
    for _ in range(100):
        returning.expect(answered=8, waiting=2, seconds=60)
        if returning.seconds > 0:
            waited += 1
            returning.met(2)
    assert 10 <= waited <= 20
    for _ in range(20):
        returning.expect(answered=8, waiting=2, seconds=60)
        if returning.seconds > 0:
            returning.met(9)
    assert returning.seconds > 0
    assert returning.queue == 10


def test_concurrent_clients_share_predicts_and_get_their_own_answers(server: Server) -> None:
    """Through the whole server: 32 clients, a model that takes 20 ms, answers that are each client's own."""
    put(server, "m", "1", Doubler(seconds=0.02), DECLARED)
    put(server, "apart", "1", Doubler(seconds=0.02), DECLARED + "batching: {maxRows: 1}\n")
    server.desire(("m", "1"), ("apart", "1"))
    server.start()
    server.wait_for("apart", "ready")

    def ask(name: str, client: int) -> None:
        with requests.Session() as session:
            for number in range(5):
                answer = session.post(
                    f"{server.url}/v1/models/{name}:predict", json={"instances": [[client, number]]}, timeout=20
                )
                assert answer.json() == {"predictions": [[2.0 * client, 2.0 * number]]}

    seconds = {}
    for name in ("m", "apart"):
        began = time.monotonic()
        with ThreadPoolExecutor(32) as clients:
            list(clients.map(lambda client, name=name: ask(name, client), range(32)))
        seconds[name] = time.monotonic() - began
    assert seconds["apart"] > 160 * 0.02
    assert seconds["m"] < seconds["apart"] * 0.75


def test_the_cpus_of_the_container_are_divided_among_the_workers(tmp_path: Path) -> None:
    """The tightest quota of a control group and those above it counts; a variable that is set stays."""
    (tmp_path / "self").mkdir()
    proc, groups = tmp_path, tmp_path / "cgroup"

    def limit(place: str, **files: str) -> None:
        (groups / place).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (groups / place / name.replace("__", ".")).write_text(text)

    (proc / "self/cgroup").write_text("0::/pods/this\n")
    machine = processors(groups, tmp_path / "nothing")
    assert processors(groups, proc) == machine >= 1
    limit("pods", cpu__max="50000 100000\n")
    limit("pods/this", cpu__max="max 100000\n")
    assert processors(groups, proc) == 0.5
    (proc / "self/cgroup").write_text("4:cpu,cpuacct:/one\n")
    limit("cpu,cpuacct/one", cpu__cfs_quota_us="25000\n", cpu__cfs_period_us="100000\n")
    assert processors(groups, proc) == 0.25
    environ: dict[str, Any] = {"OMP_NUM_THREADS": "7"}
    set_library_threads(environ, 1000)
    assert environ == {**dict.fromkeys(VARIABLES, "1"), **RESTING, "OMP_NUM_THREADS": "7"}
