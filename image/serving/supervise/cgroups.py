"""Where the kernel tells what a container may use: the files of its control group and of every group above it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS, PROC = Path("/sys/fs/cgroup"), Path("/proc")


def groups(controller: str, cgroups: Path = CGROUPS, proc: Path = PROC) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of this process's group, and of every group above it.

    Args:
        controller: memory or cpu.
        cgroups: where control groups are mounted.
        proc: where the kernel tells of processes.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            version, mounts = 2, [cgroups]
        elif controller in controllers.split(","):
            version, mounts = 1, [cgroups / name for name in dict.fromkeys((controllers, controller))]
        else:
            continue
        # In a container the path may be the host's, and then only the mount itself is ours.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                yield version, mount.joinpath(*parts[:depth])
