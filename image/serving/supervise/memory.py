"""How much memory there is, how much of it is in use, and by which process.

The limit is the container's: the control group of this process and every group above it may set one, in the files of
cgroup v2 (memory.max, memory.current) or v1 (memory.limit_in_bytes, memory.usage_in_bytes). The machine's own memory
is a limit too. The tightest counts. Pages of files that nobody maps are no use of memory: the system takes them back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from serving.supervise.cgroups import CGROUPS, PROC, groups

_FILES = {  # per version of cgroups: limit, usage
    2: ("memory.max", "memory.current"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}


class Memory(msgspec.Struct, frozen=True):
    """Memory that may be used, and memory that is, in bytes."""

    limit: int
    used: int

    @property
    def free(self) -> int:
        """What is left."""
        return max(0, self.limit - self.used)


def read_memory(limit: int = 0, root: int | None = None, cgroups: Path = CGROUPS, proc: Path = PROC) -> Memory:
    """Return the tightest limit with what is in use under it.

    Args:
        limit: in bytes, instead of the container's and the machine's; then only the processes of `root` count as use.
            0 looks for the real ones.
        root: the process whose descendants, itself included, are this server.
        cgroups: where control groups are mounted.
        proc: where the kernel tells of processes.
    """
    if limit:
        return Memory(limit, sum(map(pss_bytes, descendants(root))) if root else 0)
    candidates = [_machine(proc), *_cgroup_limits(cgroups, proc)]
    return min(candidates, key=lambda memory: memory.free)


def _machine(proc: Path) -> Memory:
    table = _table(proc / "meminfo", 1024)
    return Memory(table.get("MemTotal", 0), table.get("MemTotal", 0) - table.get("MemAvailable", 0))


def _cgroup_limits(cgroups: Path, proc: Path) -> Iterator[Memory]:
    for version, folder in groups("memory", cgroups, proc):
        limit_name, usage_name = _FILES[version]
        try:
            limit, usage = (folder / limit_name).read_text(), (folder / usage_name).read_text()
        except OSError:
            continue  # the root of the hierarchy has no such files
        if limit.strip().isdigit():  # else "max"; v1 says "none" by a number beyond any machine's memory
            yield Memory(int(limit), max(0, int(usage) - _reclaimable(_table(folder / "memory.stat"))))


def _reclaimable(stat: dict[str, int]) -> int:
    """Return the bytes of a group that the system can take back without slowing anyone down."""
    prefix = "total_" if "total_inactive_file" in stat else ""  # v1 counts the groups below apart
    files = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    mapped = stat.get("file_mapped", stat.get("total_mapped_file", 0))
    return max(0, files - mapped) + stat.get("slab_reclaimable", 0)


def descendants(pid: int, proc: Path = PROC) -> list[int]:
    """Return a process and all that it and its children started and that still live."""
    try:
        tasks = list((proc / str(pid) / "task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (OSError, ValueError):  # it has gone meanwhile
        children = []
    return [pid, *(below for child in children for below in descendants(child, proc))]


def resident(pid: int) -> dict[str, int]:
    """Return a process's memory in bytes: Rss, and Pss, where pages that several share count in parts."""
    return _table(PROC / str(pid) / "smaps_rollup", 1024)


def pss_bytes(pid: int) -> int:
    """Return a process's proportional set size: its own pages, and its share of the pages that it shares."""
    return resident(pid).get("Pss", 0)


def anonymous_bytes(pid: int) -> int:
    """Return the size of a process's pages that are no file's.

    What a fork inherits counts from the start, so a copy that a write makes of such a page is no growth. It is cheap:
    the kernel keeps this number.
    """
    return _table(PROC / str(pid) / "status", 1024).get("RssAnon", 0)


def _table(path: Path, unit: int = 1) -> dict[str, int]:
    """Read lines of a name and a number; nothing where the file cannot be read, as of a process that has ended."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {name: int(number) * unit for name, number in re.findall(r"^(\w+):?\s+(\d+)", text, re.MULTILINE)}
