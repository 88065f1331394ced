"""Ask the real server over loopback, with few and many clients, beside other servers of the same pickled models.

One process plays all clients on kept-alive connections, on the same cores: a client sends its next request when it has
its answer. "bare model" is predict in a loop over batches of as many rows as there are clients, with no server.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Failed, show, verdict
from benchmarks.serving_client import Answers, ask
from benchmarks.serving_models import models
from benchmarks.serving_servers import CONTESTANTS, OURS, Contestant, cpu_seconds, packages, running

CLIENTS = (1, 16, 64)
PROMISED_FROM = 16  # clients: fewer have nothing to put together
TARGET = 2.0  # times the requests per second of the best peer
ROWS = 64  # that differ, so that an answer that went to another client is seen
_WARM_SECONDS = 1.0  # at most, before each figure: batchers learn while they work


@dataclass(frozen=True)
class Figure:
    """What one server did for one number of clients; times in milliseconds, CPU for each request."""

    rate: float
    median: float
    p99: float
    cpu: float


Figures = dict[int, list[Figure]]  # by the number of clients: the rounds
Results = dict[str, Figures | str]  # by contestant: its figures, or why there are none


def main() -> int:
    """Print a table for each model, and what they say about the targets.

    Returns:
        1 if ours failed.
    """
    options = _arguments()
    contestants = [it for it in CONTESTANTS if not it.peer or not options.peers or it.peer in options.peers.split(",")]
    _introduce(contestants)
    verdicts: list[tuple[str, ...]] = [
        ("model", "clients", "best peer", "ours / it", "target", "", "p99 ms", "least p99 of peers", "target", "")
    ]
    measured: dict[str, Results] = {}
    for name, (model, columns) in models().items():
        if options.only not in name:
            continue
        results = measured[name] = _race(contestants, model, columns, options.repeats, options.seconds)
        loops = {clients: _loop(model, columns, clients) for clients in CLIENTS}
        _table(name, contestants, results, loops)
        verdicts += _verdicts(name, contestants, results)
    show("The targets", verdicts)
    if options.out:
        options.out.write_text(json.dumps(measured, default=astuple))
    return any(isinstance(results[OURS.name], str) for results in measured.values())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works, not how fast")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=4, metavar="S", help="of each figure (default 4)")
    parser.add_argument("--only", default="", metavar="NAME", help="part of a model's name")
    names = ",".join(it.peer for it in CONTESTANTS if it.peer)
    parser.add_argument("--peers", default="", metavar="A,B", help=f"only these (default {names})")
    parser.add_argument("--out", type=Path, metavar="FILE", help="every figure of every round, as JSON")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.seconds = 1, min(options.seconds, 1)
    unknown = {*filter(None, options.peers.split(","))} - {*names.split(",")}
    if unknown:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}; there are {names}")
    return options


def _introduce(contestants: Sequence[Contestant]) -> None:
    """Say which peers' models are made of other versions than ours."""
    import sklearn

    ours = {"numpy": np.__version__, "scikit-learn": sklearn.__version__}
    for contestant in contestants:
        theirs = packages(contestant) if contestant.peer and contestant.installed else {}
        for name, version in theirs.items():
            if version != ours[name]:
                print(f"{contestant.name} has {name} {version}; ours is {ours[name]}.")


def _race(contestants: Sequence[Contestant], model: Any, columns: int, repeats: int, seconds: float) -> Results:
    """Run every server in turns; each round begins with another one, and one that fails is not run again."""
    results: Results = {it.name: {} if it.installed else "not installed" for it in contestants}
    rows = np.random.default_rng(2).random((ROWS, columns)).round(3)
    expected = model.predict(rows)
    for turn in range(repeats):
        for contestant in [*contestants[turn % len(contestants) :], *contestants[: turn % len(contestants)]]:
            figures = results[contestant.name]
            if isinstance(figures, str):
                continue
            requests = [contestant.request(row) for row in rows.tolist()]
            try:
                with running(contestant, model, columns, requests[0]) as (port, process):
                    for clients in CLIENTS:
                        _check(contestant, ask(port, requests, clients, min(_WARM_SECONDS, seconds)), expected)
                        before = cpu_seconds(process)
                        answers = ask(port, requests, clients, seconds)
                        cpu = cpu_seconds(process) - before
                        _check(contestant, answers, expected)
                        figures.setdefault(clients, []).append(_figure(answers, seconds, cpu))
            except (Failed, OSError, AssertionError) as error:
                results[contestant.name] = f"failed: {error}"
    return results


def _figure(answers: Answers, seconds: float, cpu: float) -> Figure:
    times = answers.seconds
    if len(times) < 2:
        raise Failed(f"{len(times)} answers in {seconds} s")
    cuts = statistics.quantiles(times, n=100)
    return Figure(len(times) / seconds, cuts[49] * 1000, cuts[98] * 1000, cpu / len(answers.bodies) * 1000)


def _check(contestant: Contestant, answers: Answers, expected: Any) -> None:
    """Compare every answer with the model's own; a sum may come out otherwise in the last places."""
    asked = [request for request, _ in answers.bodies]
    try:
        said = [contestant.answer(json.loads(body)) for _, body in answers.bodies]
        right = np.isclose(np.array(said, dtype=float), expected[asked], rtol=1e-9)
    except (ValueError, TypeError, LookupError) as error:
        raise Failed(f"no answer to the question: {answers.bodies[0][1][:300]!r}") from error
    if not right.all():
        raise Failed(f"{np.count_nonzero(~right)} of {len(said)} answers are wrong")


def _middle(rounds: Sequence[Figure]) -> Figure:
    return Figure(*map(statistics.median, zip(*map(astuple, rounds), strict=True)))


def _table(name: str, contestants: Sequence[Contestant], results: Results, loops: dict[int, float]) -> None:
    rows: list[tuple[str, ...]] = [
        ("server", "clients", "requests/s", "p50 ms", "p99 ms", "CPU ms", "ours / it", "p99 ours / its")
    ]
    notes, ours = [], results[OURS.name]
    for clients in CLIENTS:
        rows.append(("bare model", str(clients), f"{loops[clients]:.0f}", *[""] * 5))
        for contestant in contestants:
            figures = results[contestant.name]
            title = f"{contestant.name} {contestant.version(contestant.peer)}".strip()
            if isinstance(figures, str):
                status, _, words = figures.partition(":")
                rows.append((title, str(clients), status, *[""] * 5))
                notes += [f"{title}: {words.strip()}"] if words and clients == CLIENTS[0] else []
                continue
            it, ratios = _middle(figures[clients]), ("", "")
            if contestant is not OURS and not isinstance(ours, str):
                own = _middle(ours[clients])
                ratios = (f"{own.rate / it.rate:.2f}", f"{own.p99 / it.p99:.2f}")
            cells = (f"{it.rate:.0f}", f"{it.median:.1f}", f"{it.p99:.1f}", f"{it.cpu:.2f}")
            rows.append((title, str(clients), *cells, *ratios))
    show(name, rows, notes)


def _verdicts(name: str, contestants: Sequence[Contestant], results: Results) -> list[tuple[str, ...]]:
    """Return rows that hold ours against the peer with the most requests per second, and the one with the least p99."""
    rows: list[tuple[str, ...]] = []
    ours = results[OURS.name]
    peers = {it.name: results[it.name] for it in contestants if it.peer}
    for clients in CLIENTS:
        theirs = {peer: _middle(them[clients]) for peer, them in peers.items() if not isinstance(them, str)}
        if isinstance(ours, str) or not theirs:
            rows.append((name, str(clients), "-", *[""] * 7))
            continue
        own, best = _middle(ours[clients]), max(theirs, key=lambda peer: theirs[peer].rate)
        ratio, least = own.rate / theirs[best].rate, min(it.p99 for it in theirs.values())
        promised = clients >= PROMISED_FROM
        target = (f">= {TARGET:.2f}", verdict(ratio >= TARGET)) if promised else ("", "")
        tail = ("<= least", verdict(own.p99 <= least)) if promised else ("", "")
        rows.append(
            (name, str(clients), best, f"{ratio:.2f}", *target, f"{own.p99:.1f}", f"{least:.1f}", *tail),
        )
    return rows


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


if __name__ == "__main__":
    raise SystemExit(main())
