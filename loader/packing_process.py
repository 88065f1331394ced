"""Running a packing worker: without credentials, under a memory limit, and surviving whatever becomes of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import msgspec

from loader.bundle.manifest import Asset
from loader.errors import PackFailed

_LOOK_EVERY_SECONDS = 0.02
_MARGIN = 128 * 1024 * 1024  # bytes left to this process and to the system
_UNLIMITED = 1 << 60
_SECRET = re.compile(
    r"^(AWS|GOOGLE|GCLOUD|CLOUDSDK|AZURE|BOTO|S3)_|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.IGNORECASE
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        directory: the bundle's.
        source: the pickle, or for measuring a pack, the pack.
        where: what to call it in an error.
        memory_limit: bytes that this process may have, the mapped pack left out.
        target: the pack to write; none: measure.
        modules: what to import before anything is measured.
        is_pack: whether the source is a pack, and is to be digested.
    """

    directory: str
    source: Asset
    where: str
    memory_limit: int
    target: str | None = None
    modules: list[str] = []
    is_pack: bool = False


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        invalid: why the pickle cannot become an object here, or the object no pack; or "".
        failed: why the task came to no end, or "".
        digest: of the object; "" where the pack holds nothing but its skeleton.
        modules: what the object's classes and functions are from.
        packages: versions of the packages that these are in, by name.
        mapped_bytes: of arrays in the pack.
        columns: how many there are in the pack.
        seconds: that the load took.
        cpu_seconds: of the processor in that, which other processes on the machine change less.
        peak_bytes: at most resident meanwhile, above what was before.
        resident_bytes: resident afterwards, above what was before.
    """

    invalid: str = ""
    failed: str = ""
    digest: str = ""
    modules: list[str] = []
    packages: dict[str, str] = {}
    mapped_bytes: int = 0
    columns: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    resident_bytes: int = 0


def run_worker(task: Task, folder: Path) -> Result:
    """Run one task to its end in a process of its own.

    Args:
        task: what to do.
        folder: takes the worker's files; the caller removes it.

    Raises:
        PackFailed: the worker was killed, crashed, or needed more memory than its limit.
    """
    result, errors = folder / f"{uuid.uuid4().hex}.json", folder / f"{uuid.uuid4().hex}.log"
    command = [sys.executable, "-P", "-m", "loader.packing_worker", msgspec.json.encode(task).decode(), str(result)]
    with errors.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=worker_environment(),
            cwd=folder,
            start_new_session=True,
        )
        try:
            _watch(process, task)
        finally:
            _end(process)
    try:
        done = msgspec.json.decode(result.read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError) as error:
        raise PackFailed(
            f"{task.where}: packing ended early: {_end_of(process.returncode, errors)}", hint=_HINT
        ) from error
    if done.failed:
        raise PackFailed(f"{task.where} {done.failed}", hint=_HINT)
    return done


def worker_environment() -> dict[str, str]:
    """Return the environment of a worker: this one, without what could be a credential."""
    kept = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    path = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
    return {**kept, **_ONE_THREAD, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}  # one order of sets in all workers


def memory_to_spare() -> int:
    """Return how many bytes a worker may take: what the container's limit and the machine leave."""
    limits = [_UNLIMITED]
    for root, maximum, current in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _number(Path(root, maximum)), _number(Path(root, current))
        if limit is not None and used is not None and limit < _UNLIMITED:
            limits.append(limit - used + _inactive_file(Path(root, "memory.stat")))
    available = re.search(r"MemAvailable:\s*(\d+) kB", _text(Path("/proc/meminfo")))
    if available:
        limits.append(int(available[1]) * 1024)
    return max(min(limits) - _MARGIN, _MARGIN)


def _watch(process: subprocess.Popen[bytes], task: Task) -> None:
    """Wait for a worker, and kill it where its own memory (not the files that it has mapped) passes the limit."""
    status = Path(f"/proc/{process.pid}/status")
    while True:
        try:
            process.wait(_LOOK_EVERY_SECONDS)
            return
        except subprocess.TimeoutExpired:
            own = re.search(r"RssAnon:\s*(\d+) kB", _text(status))
            if own and int(own[1]) * 1024 > task.memory_limit:
                room = f"{task.memory_limit >> 20} MiB"
                raise PackFailed(f"{task.where} needs more memory to be packed than {room}", hint=_HINT) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker and every process that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # none of them is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_of(status: int, errors: Path) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"its process was killed by {name}" + (", as for want of memory" if -status == signal.SIGKILL else "")
    last = (_text(errors).strip().splitlines() or ["it said nothing"])[-1][:300]
    return f"its process exited with {status}: {last}"


def _inactive_file(stat: Path) -> int:
    """Return the bytes of files that a cgroup counts as used and gives back when asked."""
    found = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(stat), re.MULTILINE)
    return int(found[1]) if found else 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


_HINT = "Pack where there is more memory, or publish without packing"
