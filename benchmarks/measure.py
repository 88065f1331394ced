"""Run commands side by side and say what each took: wall and CPU seconds, memory, and the ratio of ours to theirs."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
_SAMPLE_EVERY_SECONDS = 0.02
_PATIENCE_SECONDS = 900


class Failed(Exception):
    """A command that ended badly, or left something else than it should have; the message is its last words."""


@dataclass(frozen=True)
class Usage:
    """What one run took: seconds on the clock, seconds of CPU, and the most bytes resident, of the whole process tree.

    Pages that processes share count once for each of them.
    """

    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Client:
    """One way of doing the job.

    Attributes:
        name: in the table.
        command: makes the command line for a fresh directory.
        environment: added to this process's own.
        folder: where in that directory the files come to lie.
        installed: whether it can be run here.
        target: ours is to take at most this many times what it takes; None where nothing is promised.
    """

    name: str
    command: Callable[[Path], Sequence[str | Path]]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    installed: bool = True
    target: float | None = None


Results = dict[str, list[Usage] | str]  # by client: its runs, or why there are none


def run(command: Sequence[str | Path], environment: Mapping[str, str], directory: Path) -> Usage:
    """Run a command to its end and measure it together with all processes that it starts.

    Raises:
        Failed: it exits with another status than 0, or does not end.
    """
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            list(map(str, command)),
            cwd=directory,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        began = time.perf_counter()
        peaks, done = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, done))
        watcher.start()
        killer = threading.Timer(_PATIENCE_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        killer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            wall = time.perf_counter() - began
            killer.cancel()
            done.set()
            watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            words = output.read().decode(errors="replace").strip()[-2000:]
            raise Failed(f"{Path(command[0]).name} ended with status {process.returncode}: {words}")
    return Usage(wall, used.ru_utime + used.ru_stime, peaks[0])


def race(
    clients: Sequence[Client], directory: Path, repeats: int, check: Callable[[Path], None] = lambda folder: None
) -> Results:
    """Run every client `repeats` times in turns, each time into a fresh directory that is removed afterwards.

    Args:
        clients: who takes part; one that fails is not run again.
        directory: on the disk that all write to.
        repeats: rounds; each begins with another client.
        check: raises Failed if a folder does not hold what it must after a run.
    """
    results: Results = {client.name: [] if client.installed else "not installed" for client in clients}
    for turn in range(repeats):
        for client in [*clients[turn % len(clients) :], *clients[: turn % len(clients)]]:
            runs = results[client.name]
            if isinstance(runs, str):
                continue
            destination = directory / "destination"
            destination.mkdir()
            os.sync()  # what the one before has left to write is not this one's to wait for
            try:
                runs.append(run(client.command(destination), client.environment, ROOT))
                check(destination / client.folder)
            except Failed as error:
                results[client.name] = f"failed: {error}"
            finally:
                shutil.rmtree(destination)
    return results


def table(title: str, clients: Sequence[Client], results: Results, *, most_memory: int | None = None) -> bool:
    """Print what was measured; the first client is ours, and every ratio is ours to the other's medians.

    Args:
        title: of the table.
        clients: in the order of the rows.
        results: from `race`.
        most_memory: bytes that ours may hold at most.

    Returns:
        True if ours did the job, however long it took.
    """
    ours = results[clients[0].name]
    rows: list[tuple[str, ...]] = [
        ("client", "wall s, median", "min", "CPU s", "peak MiB", "ours / it", "of minima", "target", "")
    ]
    notes = []
    for client in clients:
        runs = results[client.name]
        if isinstance(runs, str):
            status, _, words = runs.partition(":")
            rows.append((client.name, status, *[""] * 7))
            notes += [f"{client.name}: {words.strip()}"] if words else []
            continue
        wall, least = statistics.median(use.wall for use in runs), min(use.wall for use in runs)
        cpu, peak = statistics.median(use.cpu for use in runs), max(use.peak for use in runs)
        ratios, word = ("", "", ""), ""
        if client is clients[0]:
            if most_memory:
                ratios = ("", "", f"< {most_memory // MIB} MiB")
                word = verdict(peak < most_memory)
        elif not isinstance(ours, str):
            ratio = statistics.median(use.wall for use in ours) / wall
            best = min(use.wall for use in ours) / least
            ratios = (f"{ratio:.2f}", f"{best:.2f}", f"<= {client.target:.2f}" if client.target else "")
            word = verdict(ratio <= client.target) if client.target else ""
        rows.append((client.name, f"{wall:.2f}", f"{least:.2f}", f"{cpu:.2f}", f"{peak / MIB:.0f}", *ratios, word))
    show(title, rows, notes)
    return not isinstance(ours, str)


def show(title: str, rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Print a table, whose first row is its head, and what there is to say below it."""
    print(f"\n{title}\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")
        if number == 0:
            print(f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    print("".join(f"\n{note}\n" for note in notes), flush=True)


def verdict(kept: bool) -> str:
    """Say whether a promise is kept."""
    return "PASS" if kept else "MISS"


def arguments(description: str, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all of these benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a smaller job, twice: shows that it works, not how fast")
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=f"rounds (default {repeats})")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where to work; the disk that is measured (default: TMPDIR)"
    )
    return parser


@contextlib.contextmanager
def workplace(options: argparse.Namespace) -> Iterator[Path]:
    """Give a directory that is gone afterwards, however this ends, and make `--quick` mean two rounds."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if options.quick:
        options.repeats = min(options.repeats, 2)
    with tempfile.TemporaryDirectory(prefix="pantry-bench-", dir=options.directory) as directory:
        yield Path(directory)


def tree(pid: int) -> Iterator[int]:
    """Give a process and all its descendants."""
    yield pid
    with contextlib.suppress(OSError):  # a process may end at any time
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                yield from tree(int(child))


def _watch(pid: int, peaks: list[int], done: threading.Event) -> None:
    while not done.wait(_SAMPLE_EVERY_SECONDS):
        now, most = zip(*map(_resident, tree(pid)), strict=True)
        peaks[0] = max(peaks[0], sum(now), *most)


def _resident(pid: int) -> tuple[int, int]:
    """Return the bytes that a process holds, and the most that it has held: a peak between two samples shows there."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
        return sizes.get("VmRSS:", 0), sizes.get("VmHWM:", 0)
    return 0, 0
