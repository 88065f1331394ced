"""The process that packs one pickle, or measures one load. It runs the pickle's code, and may be killed for it.

    python -m loader.packing_worker TASK RESULT

TASK is the JSON of a task; RESULT is a file for the JSON of what came of it. No other file of the bundle is written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import importlib.metadata
import io
import resource
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from loader.bundle import theano_compat
from loader.bundle.errors import PantryError, PickleInvalid
from loader.bundle.manifest import CHUNK_SIZE
from loader.bundle.pack.layout import HEAD
from loader.bundle.pack.proof import Unprovable, digest_object
from loader.bundle.pack.reader import load_pack, read_index
from loader.bundle.pack.record import package_version
from loader.bundle.pack.writer import write_pack
from loader.bundle.pickles import load_pickle
from loader.bundle.verified import VerifiedReader
from loader.packing_process import Result, Task

_PR_SET_PDEATHSIG = 1
_STACKS = 512 * 1024 * 1024  # bytes of address space that threads' stacks and libraries' tables take, mostly untouched
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


def main() -> None:
    """Do the task that the first argument describes, and write the result to the file that the second one names."""
    if sys.platform == "linux":  # nobody waits for what a killed parent asked for
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    task = msgspec.json.decode(sys.argv[1], type=Task)
    result_file = Path(sys.argv[2])
    sys.argv[1:] = []  # a pickle's code may read it
    room = task.memory_limit + _STACKS + (task.source.size if task.is_pack else 0)
    with contextlib.suppress(ValueError, OSError):  # a lower limit than this was set outside
        resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    gc.disable()
    theano_compat.prepare()
    try:
        result = _pack(task) if task.target is not None else _measure(task)
    except MemoryError:
        result = Result(failed="needs more memory than there is for it")
    except PickleInvalid as error:
        starved = isinstance(error.__cause__, MemoryError)
        result = Result(failed="needs more memory than there is for it") if starved else Result(invalid=error.message)
    except PantryError as error:
        result = Result(failed=f"cannot be read: {error.message}")
    except OSError as error:
        result = Result(failed=f"cannot be packed: {error}")
    result_file.write_bytes(msgspec.json.encode(result))


def _pack(task: Task) -> Result:
    assert task.target is not None
    target = Path(task.target)
    value = _load(task)
    try:
        write_pack(value, target)
        with target.open("rb") as file:
            foot, index = read_index(file, target)
        digest = digest_object(value)
    except MemoryError:
        raise
    except Unprovable as error:
        return Result(invalid=f"it cannot be proved equal: {error}")
    except Exception as error:  # whatever the object's own code raises
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise
        text = (str(error).strip().splitlines() or ["no message"])[0][:200]
        return Result(invalid=f"it cannot be pickled again: {type(error).__name__}: {text}")
    return Result(
        digest=digest,
        modules=index.modules,
        packages=_packages(index.modules),
        mapped_bytes=foot.data_end - HEAD.size,
        columns=len(index.columns),
    )


def _measure(task: Task) -> Result:
    for module in task.modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    _forget_peak()
    before, _ = _resident()
    began, cpu_began = time.perf_counter(), time.process_time()
    value = _load(task)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    after, peak = _resident()
    return Result(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_bytes=max(0, peak - before),
        resident_bytes=max(0, after - before),
        digest=digest_object(value) if task.is_pack else "",
    )


def _load(task: Task) -> object:
    path = Path(task.directory, task.source.path)
    with io.BufferedReader(VerifiedReader(path, task.source, CHUNK_SIZE), 256 * 1024) as stream:
        verified = cast("BinaryIO", stream)
        return load_pack(verified, path, task.where) if task.is_pack else load_pickle(verified, task.where)


def _packages(modules: list[str]) -> dict[str, str]:
    """Return the versions of the installed packages that modules are in."""
    by_module = importlib.metadata.packages_distributions()
    names = {name for module in modules for name in by_module.get(module.partition(".")[0], [])}
    return {name: package_version(name) for name in sorted(names)}


def _resident() -> tuple[int, int]:
    """Return the bytes resident now, and at most so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak
    sizes = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
    }
    return sizes["VmRSS"], sizes["VmHWM"]


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
