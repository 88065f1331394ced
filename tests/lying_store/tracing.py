"""Syncs under strace: faults injected into their system calls, and the order of what they made durable."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.lying_store.syncing import Outcome, command, last_word
from tests.sources import ROOT, digits, write_models

OPENS = ("openat", "mkdir")
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "fallocate", "copy_file_range", "sendfile")
FLUSHES = ("fsync", "fdatasync", "syncfs")
NAMES = ("rename", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "symlink")
CALLS = (*OPENS, *WRITES, *FLUSHES, *NAMES)
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed>)(.*)")
_PATHS = re.compile(r'"(/[^"]*)"|<(/[^>]*)>')


class Call(NamedTuple):
    """A system call that begins or ends: an unfinished one does both, with others in between.

    Attributes:
        number: how many of its name this thread has made, with this one.
        paths: what it names, or what its descriptors are.
    """

    thread: str
    name: str
    number: int
    begins: bool
    ends: bool
    paths: tuple[str, ...]
    text: str

    @property
    def failed(self) -> bool:
        return " = -1 " in self.text

    @property
    def injected(self) -> bool:
        return "(INJECTED)" in self.text or "(DELAYED)" in self.text


def traced(models: Path, root: Path, log: Path, inject: str = "", only: Iterable[str] = ()) -> Outcome:
    """Run `pantry sync` under strace, with a fault where one is named, struck on these paths only.

    Names that are drawn at random are drawn in one order, so that a path of one run is one of the next.
    """
    code = (
        "import uuid; numbers = iter(range(1, 10**6)); uuid.uuid4 = lambda: uuid.UUID(int=next(numbers) << 96)\n"
        "from tests.lying_store.syncing import STUBBORN, main, waiting\n"
        f"with waiting(STUBBORN): raise SystemExit(main({command(models, root)!r}))"
    )
    trace = ["strace", "-f", "-y", "-q", "-s", "4", "-o", str(log), "-e", f"trace={','.join(CALLS)}"]
    trace += [argument for path in only for argument in ("-P", path)]
    process = subprocess.run(
        [*trace, *(["-e", f"inject={inject}"] if inject else []), sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    errors = [line for line in process.stderr.splitlines() if not line.startswith("strace: ")]
    return Outcome(process.returncode, last_word("\n".join(errors)))


def models_for(root: Path, source: Path, version: str = "1") -> Path:
    return write_models(root.parent / f"{root.name}.yaml", digits(source, version))


def calls_in(log: Path) -> Iterator[Call]:
    """Every call that a log tells of, in its order."""
    counts: Counter[tuple[str, str]] = Counter()
    open_paths: dict[str, tuple[str, ...]] = {}
    for line in log.read_text(errors="replace").splitlines():
        if (found := _LINE.match(line)) is None:
            continue  # signals and exits
        thread, name, _, rest = found.groups()
        begins, ends = found[3] == "(", "<unfinished ...>" not in rest
        counts[thread, name] += begins
        paths = tuple(one or other for one, other in _PATHS.findall(rest)) if begins else open_paths.pop(thread, ())
        if not ends:
            open_paths[thread] = paths
        yield Call(thread, name, counts[thread, name], begins, ends, paths, rest)


def touches(call: Call, root: Path) -> bool:
    return any(path == str(root) or path.startswith(f"{root}/") for path in call.paths)


def paths_on(log: Path, root: Path) -> list[str]:
    """Every path on a volume that a log tells of."""
    return sorted({path for call in calls_in(log) if touches(call, root) for path in call.paths if str(root) in path})


def fault_points(log: Path) -> list[tuple[str, int]]:
    """The calls in a log, as strace counts them: name, and the how many-th of its thread."""
    return sorted({(call.name, call.number) for call in calls_in(log) if call.begins})


def undurable(log: Path, root: Path, final: Path) -> list[str]:
    """What was not on the disk when a bundle got its final name, or its name itself, as sentences.

    A write counts from its end, a flush from its beginning, as calls of several threads overlap.
    """
    dirty: dict[str, str] = {}  # path: what was done to it since its last flush
    wrong: list[str] = []
    renamed = False
    for call in calls_in(log):
        if not touches(call, root) or (call.ends and call.failed):
            continue
        where = call.paths[0] if call.name not in OPENS else call.paths[-1]
        if call.name in FLUSHES and call.begins:
            if call.name == "syncfs":
                dirty.clear()
            dirty.pop(where, None)
        elif not call.ends:
            continue
        elif call.name in WRITES:
            dirty[where] = "written"
        elif call.name == "mkdir" or (call.name == "openat" and "O_CREAT" in call.text):
            created = next(path for path in call.paths if path.startswith(str(root)))
            dirty.setdefault(str(Path(created).parent), "given an entry")
            if call.name == "openat":
                dirty.setdefault(created, "made")
        elif call.name in ("rename", "renameat2", "link", "linkat"):
            old, new = call.paths[-2:]
            if new == str(final):
                renamed = True
                wrong += [
                    f"{path} was {what}, not flushed"
                    for path, what in dirty.items()
                    if f"{path}/".startswith(f"{old}/")
                ]
            moved = {path: what for path, what in dirty.items() if f"{path}/".startswith(f"{old}/")}
            for path, what in moved.items():
                dirty[new + path.removeprefix(old)] = what
                if call.name.startswith("rename"):
                    del dirty[path]
            dirty[str(Path(new).parent)] = "given an entry"
    if not renamed:
        wrong.append(f"nothing was renamed to {final}")
    if str(final.parent) in dirty:
        wrong.append(f"{final.parent} was {dirty[str(final.parent)]}, not flushed")
    return wrong
