"""What /metrics tells: the counts of all workers, living and dead, and what the supervisor knows itself."""

# prometheus_client has types in part.
# mypy: allow-untyped-calls

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serving.sight import logs
from serving.state import Phase, ServerState
from serving.supervise.processes import Process, copies, is_alive, read_processes

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
DIRECTORY = "metrics"
# The kernel walks every page of a process to add them up: a tenth of a second for 1 GB.
READ_PROCESSES_EVERY_SECONDS, READ_PROCESSES_SHARE = 10.0, 0.01
TIDY_EVERY_SECONDS = 10.0
RETAINED_VERSIONS = 10  # of each model, of those that no living worker counts for
DEAD = 0  # stands for all processes that have ended; none has this id

_FILE = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_(\d+)\.db")
_SWAPS = {
    "generation-serving": "done",
    "generation-failed": "failed",
    "generation-superseded": "superseded",
    "generation-refused": "refused",
}
_FAILURES = ("-failed", "-lost", "-invalid", "-refused")
_events: collections.Counter[tuple[str, str]] = collections.Counter()
_swap_seconds: collections.deque[float] = collections.deque(maxlen=1)  # of the last one


def tell(event: str, **fields: object) -> None:
    """Log an event of the supervisor, and count it.

    Args:
        event: its name, with dashes.
        fields: of the line; `model`, a name of models.yaml, is a label of the count too.
    """
    logs.write_event(event, **fields)
    if event == "phase" and fields.get("phase") == Phase.FAILED:
        event = "phase-failed"
    if event == "generation-serving":
        if not fields.get("bundles"):
            return  # the first generation, without models, is no swap
        _swap_seconds.append(float(str(fields.get("seconds", 0))))
    _events[event, str(fields.get("model", ""))] += 1


class Exposition(Collector):
    """Adds up what there is to tell.

    Args:
        runtime: the directory that the supervisor shares with its generations.

    Attributes:
        state: what the supervisor said last.
        masters: role and process id of every generation's master.
    """

    def __init__(self, runtime: Path) -> None:
        self.state = ServerState(ready=False, models=())
        self.masters: tuple[tuple[str, int], ...] = ()
        self._directory = runtime / DIRECTORY
        self._directory.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._tidied, self._read_again_at = -TIDY_EVERY_SECONDS, 0.0
        self._processes: list[Process] = []

    @property
    def environment(self) -> dict[str, str]:
        """What generations need in their environment, so that their numbers come here."""
        return {DIRECTORY_VARIABLE: str(self._directory)}

    def update(self, state: ServerState, masters: tuple[tuple[str, int], ...]) -> None:
        """Take in what is so now; now and then, put the files of dead processes together.

        Args:
            state: of the server.
            masters: role and process id of every generation's master.
        """
        self.state, self.masters = state, masters
        if time.monotonic() - self._tidied >= TIDY_EVERY_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._tidied = time.monotonic()
                tidy(self._directory)
            finally:
                self._lock.release()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, and their content type.

        Args:
            accept: the header of the request; it may ask for OpenMetrics.
        """
        encode, content_type = choose_encoder(accept)
        with self._lock:
            tidy(self._directory)  # so that no gauge of a dead process is told
            return encode(self), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        files = [path for path, _, _ in _files(self._directory) if _values(path) is not None]
        yield from MultiProcessCollector.merge(map(str, files))
        yield from self._of_models()
        yield from self._of_generations()
        yield from self._of_processes()

    def _of_models(self) -> Iterator[Metric]:
        phase = GaugeMetricFamily(
            "pantry_model_phase", "1 for the phase of a desired version.", labels=("model", "version", "phase")
        )
        done = GaugeMetricFamily(
            "pantry_model_phase_bytes", "Bytes done in the phase, of a sync or a load.", labels=("model", "version")
        )
        size = GaugeMetricFamily(
            "pantry_model_bytes", "Bytes of a desired version, where known.", labels=("model", "version")
        )
        serving = GaugeMetricFamily(
            "pantry_model_serving", "1 for a version that answers.", labels=("model", "version")
        )
        for model in self.state.models:
            for name in Phase:
                phase.add_metric((model.name, model.version, name), float(model.phase is name))
            done.add_metric((model.name, model.version), model.bytes)
            size.add_metric((model.name, model.version), model.total_bytes)
            if model.serving:
                serving.add_metric((model.name, model.serving), 1.0)
        yield from (phase, done, size, serving)

    def _of_generations(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("pantry_ready", "1 when requests can be answered.", float(self.state.ready))
        yield GaugeMetricFamily("pantry_generation", "Number of the generation that answers.", self.state.generation)
        yield GaugeMetricFamily("pantry_uptime_seconds", "Of the supervisor.", self.state.uptime_seconds)
        yield GaugeMetricFamily(
            "pantry_models_file_invalid",
            "1 while models.yaml cannot be followed.",
            float(bool(self.state.models_problem)),
        )
        swaps = CounterMetricFamily("pantry_swaps", "Generations with models, by how they began.", labels=("result",))
        for event, result in _SWAPS.items():
            swaps.add_metric((result,), sum(count for (name, _), count in _counted() if name == event))
        seconds = GaugeMetricFamily("pantry_swap_seconds", "From the start of the last new generation to its service.")
        for last in _swap_seconds:
            seconds.add_metric((), last)
        failures = CounterMetricFamily("pantry_failures", "Events that are failures.", labels=("event", "model"))
        for (event, model), count in _counted():
            if event.endswith(_FAILURES):
                failures.add_metric((event, model), count)
        yield from (swaps, seconds, failures)

    def _of_processes(self) -> Iterator[Metric]:
        if (began := time.monotonic()) >= self._read_again_at:
            self._processes = read_processes(self.masters)
            ended = time.monotonic()
            self._read_again_at = ended + max(READ_PROCESSES_EVERY_SECONDS, (ended - began) / READ_PROCESSES_SHARE)
        pss = GaugeMetricFamily(
            "pantry_process_pss_bytes", "Memory of a process, shared pages in parts.", labels=("role", "process")
        )
        for (role, name), bytes_ in _summed(self._processes).items():
            pss.add_metric((role, name), bytes_)
        serving = [process for process in self._processes if process.role == "serving"]
        yield pss
        yield GaugeMetricFamily("pantry_workers", "Workers that answer.", sum(p.name != "master" for p in serving))
        yield GaugeMetricFamily(
            "pantry_model_copies",
            "Memory of the serving generation, over that of its largest process.",
            copies(serving),
        )


def tidy(directory: Path) -> None:
    """Put the counts of dead processes into one file, and forget their gauges.

    Counts of old versions go when there are many, so neither files nor lines grow with the number of swaps.

    Args:
        directory: the files of all processes; nobody else may tidy or read them meanwhile.
    """
    dead = [(path, kind) for path, kind, pid in _files(directory) if pid != DEAD and not is_alive(pid)]
    for kind in sorted({kind for _, kind in dead}):
        paths = [path for path, its in dead if its == kind]
        with contextlib.suppress(OSError):  # the disk is full: they are told one by one as before
            if not kind.startswith("gauge"):
                _fold(paths, directory / f"{kind}_{DEAD}.db")
            for path in paths:
                path.unlink(missing_ok=True)


def _fold(paths: list[Path], total: Path) -> None:
    """Add what files hold to a total."""
    sums: dict[str, float] = {}
    for path in (total, *paths):
        for key, value in _values(path) or ():
            sums[key] = sums.pop(key, 0.0) + value  # what was counted last comes last
    keys = _retained(list(sums))
    temporary = total.with_name(f".{total.name}")
    with temporary.open("wb") as file:  # a mapped page that finds no room on the disk would end this process
        os.posix_fallocate(file.fileno(), 0, 4096 + sum(len(key.encode()) + 32 for key in keys))
    mapped = MmapedDict(str(temporary))
    for key in keys:
        mapped.write_value(key, sums[key], 0.0)
    mapped.close()
    temporary.replace(total)


def _retained(keys: list[str]) -> list[str]:
    """Leave out the keys of versions that were counted for long ago."""
    labels = {key: json.loads(key)[2] for key in keys}
    latest: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for key in reversed(keys):
        if "version" in labels[key]:
            latest[labels[key].get("model", "")][labels[key]["version"]] = None
    kept = {model: list(versions)[:RETAINED_VERSIONS] for model, versions in latest.items()}
    return [key for key in keys if (own := labels[key]).get("version") in (None, *kept.get(own.get("model", ""), ()))]


def _values(path: Path) -> list[tuple[str, float]] | None:
    """Return what a process has counted; None where the file is empty still, gone, or damaged."""
    try:
        values = [(key, value) for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path))]
        for key, _ in values:
            _, _, labels, _ = json.loads(key)
            dict(labels)
    except (OSError, ValueError, TypeError, RuntimeError, struct.error):
        return None
    return values


def _files(directory: Path) -> list[tuple[Path, str, int]]:
    """Return each file with its kind and process id, by the time of its last use."""
    found = []
    for path in directory.iterdir():
        match = _FILE.fullmatch(path.name)
        if match:
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path, match[1], int(match[2])))
    return [(path, kind, pid) for _, path, kind, pid in sorted(found)]


def _counted() -> list[tuple[tuple[str, str], int]]:
    return sorted(_events.items())


def _summed(processes: list[Process]) -> dict[tuple[str, str], int]:
    """Return PSS by role and name; of several draining generations as of one."""
    sums: collections.Counter[tuple[str, str]] = collections.Counter()
    for process in processes:
        sums[process.role, process.name] += process.pss
    return dict(sums)
