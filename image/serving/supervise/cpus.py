"""How many processors the container may use, and how many threads each worker's libraries should start.

A library that counts the machine's processors starts 64 threads in a container that may use two; they take turns, and
every call waits for the slowest. And some keep a processor busy while they wait for their next call, which those who
read requests and write answers need.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from serving.supervise.cgroups import CGROUPS, PROC, groups

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
RESTING = {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def set_library_threads(environ: MutableMapping[str, str], workers: int) -> None:
    """Divide the processors among the workers' libraries, and let their threads rest when they have nothing to do.

    Libraries read it when they are imported. What is set already stays.

    Args:
        environ: of the process that will import them, or of its parent.
        workers: processes that compute at the same time.
    """
    threads = str(max(1, int(processors() / workers)))
    for name in VARIABLES:
        environ.setdefault(name, threads)
    for name, value in RESTING.items():
        environ.setdefault(name, value)


def processors(cgroups: Path = CGROUPS, proc: Path = PROC) -> float:
    """Return how many processors this process may use: the machine's, or less where a control group says so."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (_quota(version, folder) for version, folder in groups("cpu", cgroups, proc))
    return min([float(affinity), *(quota for quota in quotas if quota)])


def _quota(version: int, folder: Path) -> float | None:
    """Return how many processors a control group may use, None where it sets no limit."""
    if version == 2:
        words = _words(folder / "cpu.max")
    else:
        words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
    if len(words) == 2 and all(map(str.isdigit, words)) and int(words[1]):  # else "max", or -1
        return int(words[0]) / int(words[1])
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
