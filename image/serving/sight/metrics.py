"""What the processes of a generation count. The supervisor adds it up and tells it (see `exposition`).

Every process writes to files of its own in the directory that PROMETHEUS_MULTIPROC_DIR names; the supervisor sets it
for its generations. Without it, as in a test of one function, the numbers stay in the process.

No label has a client's own words: a request for a model that is not served is counted under model="".
"""

from __future__ import annotations

import functools
from contextlib import suppress

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_HARMLESS = suppress(OSError)  # the disk is full: numbers may be lost, answers may not
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_REQUESTS = Counter("pantry_requests", "Requests answered.", ("model", "version", "code", "route"))
_REQUEST = Histogram(
    "pantry_request_seconds",
    "Answering a request that has come whole.",
    ("model",),
    buckets=SECONDS,
)
_PREDICT = Histogram("pantry_predict_seconds", "One call of a model, for a batch.", ("model",), buckets=SECONDS)
_QUEUE = Histogram("pantry_queue_seconds", "A request's wait for the model.", ("model",), buckets=SECONDS)
_ROWS = Histogram("pantry_batch_rows", "Rows in one call of a model.", ("model",), buckets=ROWS)
_IN_FLIGHT = Gauge("pantry_requests_in_flight", "Requests being answered now.", multiprocess_mode="livesum")
_LOAD = Gauge(
    "pantry_load_seconds",
    "What loading a served model took.",
    ("model", "version"),
    multiprocess_mode="livemostrecent",
)
_DROPPED = Counter("pantry_log_lines_dropped", "Lines of log that nobody took in time.")

request_began = _IN_FLIGHT.inc  # nobody has answered it yet
request_ended = _IN_FLIGHT.dec


def count_request(model: str, version: str, code: int, route: str, seconds: float) -> None:
    """Count a request that was answered.

    Args:
        model: that was asked, by a name that models.yaml has; "" where there is none.
        version: that answered, or "".
        code: the HTTP status.
        route: the kind of URL, as `exchange` names it.
        seconds: that it took.
    """
    with _HARMLESS:
        _requests(model, version, code, route).inc()
        _request(model).observe(seconds)


def count_refusal(code: int) -> None:
    """Count what was answered without the app: it was no request, came too slowly, or one too many."""
    with _HARMLESS:
        _requests("", "", code, "refused").inc()


def observe_batch(model: str, rows: int, queue_seconds: list[float], predict_seconds: float) -> None:
    """Count one call of a model.

    Args:
        model: that was called.
        rows: in the batch.
        queue_seconds: that each of the batch's requests waited.
        predict_seconds: that the call took.
    """
    with _HARMLESS:
        rows_of, queue, predict = _batch(model)
        rows_of.observe(rows)
        predict.observe(predict_seconds)
        for seconds in queue_seconds:
            queue.observe(seconds)


def observe_load(model: str, version: str, seconds: float) -> None:
    """Note how long a model took to load; it is told as long as this process lives."""
    _LOAD.labels(model, version).set(seconds)


def log_line_dropped() -> None:
    """Count a line of log that was dropped, because nobody reads them."""
    _DROPPED.inc()


# Finding a metric by its labels costs more than counting. The caches are as small as the sets of labels.
_requests = functools.lru_cache(4096)(_REQUESTS.labels)
_request = functools.lru_cache(1024)(_REQUEST.labels)


@functools.lru_cache(1024)
def _batch(model: str) -> tuple[Histogram, Histogram, Histogram]:
    return _ROWS.labels(model), _QUEUE.labels(model), _PREDICT.labels(model)
