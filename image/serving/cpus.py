"""How many processors the container may use, and how many threads each worker's libraries should start.

A library that counts the machine's processors starts 64 threads in a container that may use two; they take turns, and
every call waits for the slowest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

CGROUPS, PROC = Path("/sys/fs/cgroup"), Path("/proc")
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def set_library_threads(environ: MutableMapping[str, str], workers: int) -> None:
    """Divide the processors among the workers' libraries, before these are imported. What is set already stays.

    Args:
        environ: of the process that will import them, or of its parent.
        workers: processes that compute at the same time.
    """
    threads = str(max(1, int(processors() / workers)))
    for name in VARIABLES:
        environ.setdefault(name, threads)


def processors(cgroups: Path = CGROUPS, proc: Path = PROC) -> float:
    """Return how many processors this process may use: the machine's, or less where a control group says so."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(affinity), *_quotas(cgroups, proc)])


def _quotas(cgroups: Path, proc: Path) -> Iterator[float]:
    """Yield the limits of this process's control group and of every group above it."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be that of the host, while its own group is what is mounted.
        parts = Path(path.lstrip("/"))
        for group in (parts, *parts.parents):
            if controllers:
                yield from _quota_v1(cgroups / controllers / group)
                yield from _quota_v1(cgroups / "cpu" / group)
            else:
                yield from _quota_v2(cgroups / group)


def _quota_v2(group: Path) -> Iterator[float]:
    words = _words(group / "cpu.max")
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
        yield int(words[0]) / int(words[1])


def _quota_v1(group: Path) -> Iterator[float]:
    quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
    if len(quota) == len(period) == 1 and quota[0].isdigit() and period[0].isdigit() and int(period[0]):
        yield int(quota[0]) / int(period[0])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
