"""The processes of the server and the memory of each, from /proc.

PSS, the proportional set size, counts a page that several processes share in parts, so a generation's sum is what it
takes as a whole. Compared with the largest of its processes, it tells how many copies of the models there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from serving.supervise.cgroups import PROC
from serving.supervise.memory import descendants, resident


class Process(msgspec.Struct, frozen=True):
    """One process.

    Attributes:
        role: supervisor, or of its generation: serving, starting or draining.
        name: supervisor, master, worker-1, worker-2, …
        pss: bytes that it takes, shared pages in parts.
        rss: bytes that it uses, shared pages in whole.
    """

    role: str
    name: str
    pss: int
    rss: int


def read_processes(masters: Iterable[tuple[str, int]]) -> list[Process]:
    """Return the supervisor and every process of its generations that can be read.

    Args:
        masters: role and process id of every generation's master.
    """
    found = [_read("supervisor", "supervisor", os.getpid())]
    for role, master in masters:
        found.append(_read(role, "master", master))
        workers = sorted(pid for pid in descendants(master) if pid != master)
        found += [_read(role, f"worker-{number}", pid) for number, pid in enumerate(workers, 1)]
    return [process for process in found if process is not None]


def copies(processes: Iterable[Process]) -> float:
    """Return how many copies of its largest process a group of processes takes; 0 where there is none."""
    group = list(processes)
    largest = max((process.rss for process in group), default=0)
    return sum(process.pss for process in group) / largest if largest else 0.0


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process."""
    return (PROC / str(pid)).exists()


def _read(role: str, name: str, pid: int) -> Process | None:
    found = resident(pid)
    return Process(role, name, found["Pss"], found["Rss"]) if found else None
