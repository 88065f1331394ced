"""Crashes: syncs that are killed at any moment, system calls that fail, volumes that give up, locks that lie.

A directory under its final name is whole, always; and a plain run afterwards ends right.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loader.bundle.bundle import Bundle
from loader.bundle.manifest import MANIFEST_NAME
from tests.lying_store import lies
from tests.lying_store.store import EVER, LyingStore, running
from tests.lying_store.syncing import (
    assert_refused,
    assert_synced,
    ended,
    final,
    held,
    leftovers,
    start_sync,
    sync_here,
)
from tests.lying_store.tracing import calls_in, fault_points, models_for, paths_on, traced, undurable
from tests.sources import published, read_files, write_files

MIB = 1024 * 1024
CHUNK = 4 * MIB
LARGE = {
    "model.pkl": random.Random(1).randbytes(72 * MIB + 5),
    "a/table.npy": random.Random(2).randbytes(23 * MIB),
    **{f"small/{number}": bytes([number]) for number in range(20)},
}
MEDIUM = {"model.pkl": random.Random(3).randbytes(20_000_000), "a/b": b"x" * 1000, "empty": b""}
NO_LOCKS = "import fcntl; fcntl.flock = lambda *_: None"
BOTH = pytest.mark.parametrize("plain", [True, False], ids=["plain", "published"])

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not there")
pytestmark = pytest.mark.timeout(280)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingStore]:
    with running(LyingStore()) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "volume"


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


@BOTH
def test_killed_again_and_again(store: LyingStore, root: Path, plain: bool) -> None:
    """A sync that is killed at random moments fetches again only what was under way: less than 64 MiB each time."""
    store.put(LARGE if plain else published(LARGE, CHUNK))
    store.rate = 4 * MIB
    dice, size = random.Random(4), sum(map(len, LARGE.values()))
    again: list[int] = []
    kills = begun = rounds = 0
    while kills < 8:
        whole, first, before = delivered(store, begun), len(store.asks), store.moved
        with start_sync(root) as process:
            wait_until(lambda now=before: store.moved > now, process)  # type: ignore[misc]
            time.sleep(dice.uniform(0.0, 1.5))
            process.kill()
        again.append(overlap(whole, store, first))
        if process.returncode == 0:  # quicker than the dice: begin anew
            assert held(root) == LARGE
            shutil.rmtree(final(root))
            begun, rounds = len(store.asks), rounds + 1
            continue
        assert process.returncode == -signal.SIGKILL
        assert held(root) is None
        assert len(leftovers(root)) <= 1
        time.sleep(0.2)  # for what the server still hands to a socket that nobody reads
        kills += 1
    whole, first = delivered(store, begun), len(store.asks)
    store.rate = 0
    assert_synced(ended(start_sync(root)), root, LARGE)
    again.append(overlap(whole, store, first))
    print(
        f"{kills} kills, {store.moved / size / (rounds + 1):.2f} times the size served; again, in MiB:",
        [n // MIB for n in again],
    )
    assert max(again) < 64 * MIB
    assert store.moved <= size * (rounds + 1) + kills * 64 * MIB


def delivered(store: LyingStore, begun: int = 0) -> dict[str, set[int]]:
    """The whole blocks of 1 MiB of every object that have been handed out since a certain request."""
    blocks: dict[str, set[int]] = {}
    for ask in [ask for ask in store.asks[begun:] if ask.kind == "media"]:
        first, last = -(-ask.start // MIB), (ask.start + ask.sent) // MIB
        blocks.setdefault(ask.name, set()).update(range(first, last))
    return blocks


def overlap(before: dict[str, set[int]], store: LyingStore, first: int) -> int:
    """Bytes of blocks that were handed out before, and were handed out again from a certain request on."""
    total = 0
    for ask in store.asks[first:]:
        if ask.kind == "media" and ask.name in before:
            blocks = range(-(-ask.start // MIB), (ask.start + ask.sent) // MIB)
            total += MIB * len(before[ask.name].intersection(blocks))
    return total


@BOTH
def test_killed_when_nearly_done(store: LyingStore, root: Path, plain: bool) -> None:
    """After nine tenths have arrived and been killed, a restart moves the missing tenth and what was under way."""
    store.put(LARGE if plain else published(LARGE, CHUNK))
    store.rate, size = 20 * MIB, sum(map(len, LARGE.values()))
    with start_sync(root) as process:
        wait_until(lambda: store.moved > 0.9 * size, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    time.sleep(0.2)
    before, store.rate = store.moved, 0
    assert_synced(ended(start_sync(root)), root, LARGE)
    print(f"killed at {before / size:.2f} of {size // MIB} MiB, then {(store.moved - before) / MIB:.1f} MiB moved")
    assert store.moved - before < 64 * MIB


@pytest.mark.parametrize("damage", ["zeroed", "truncated", "extended", "swapped", "emptied", "removed"])
@pytest.mark.parametrize("victims", ["files", "records", "both"])
@BOTH
def test_what_lies_in_staging_is_not_believed(
    store: LyingStore, root: Path, damage: str, victims: str, plain: bool
) -> None:
    """Whatever became of the files of a killed run, as after a power loss: the bundle that comes of it is right."""
    store.put(MEDIUM if plain else published(MEDIUM, MIB))
    store.lies(lies.status(403), name="model.pkl", skip=3, times=EVER)
    store.rate = 40 * MIB
    assert_refused(sync_here(root), root)
    store.behave()
    for path in (root / "digits" / ".staging").rglob("*"):
        if path.is_file() and victims in ("both", "files" if path.name in ("model.pkl", "b", "empty") else "records"):
            data = path.read_bytes()
            changed = {
                "zeroed": bytes(len(data)),
                "truncated": data[: len(data) // 2],
                "extended": data + b"more",
                "swapped": data[::-1],
                "emptied": b"",
            }
            path.unlink() if damage == "removed" else path.write_bytes(changed[damage])
    assert_synced(sync_here(root), root, MEDIUM)


@pytest.fixture(name="sweep", scope="module")
def swept_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small published bundle `source`, and a volume `template` where an older one shares a file."""
    home, dice = tmp_path_factory.mktemp("sweep"), random.Random(5)
    files = {"model.pkl": dice.randbytes(9000), "a/b": b"x" * 100, "empty": b"", "shared": dice.randbytes(5000)}
    write_files(home / "source", published(files, 4000))
    write_files(home / "older", published({"shared": files["shared"], "x": b"older"}, 4000))
    write_files(home / "oldest", published({"x": b"oldest"}, 4000))
    for version, name in (("01", "oldest"), ("02", "older")):
        template = home / "template"
        assert traced(models_for(template, home / name, version), template, home / "log").status == 0
    return home


def assert_swept(sweep: Path, root: Path, inject: str, paths: list[str]) -> bool:
    """One sync under a fault, then a plain one: nothing torn has a final name, ever. Tells whether the fault struck."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sweep / "template", root)
    log = root.with_suffix(".log")
    outcome = traced(models_for(root, sweep / "source"), root, log, inject, paths)
    killed = outcome.status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    for version in ("01", "02", "1"):
        check_whole_or_absent(sweep, root, version)
    assert (root / "digits" / "02").is_dir(), f"{inject}: the bundle to roll back to is gone"
    if "signal" not in inject:
        assert outcome.status == 1 or (outcome.status == 0 and held(root)), (inject, outcome)
    assert len(leftovers(root)) <= 2, leftovers(root)  # one staged, one pruned
    assert_synced(sync_here(root, uri=f"file://{sweep / 'source'}"), root, assets_of(sweep / "source"))
    check_whole_or_absent(sweep, root, "02")
    return killed or any(call.injected for call in calls_in(log))


def check_whole_or_absent(sweep: Path, root: Path, version: str) -> None:
    directory = root / "digits" / version
    if os.path.lexists(directory):
        there = {name: data for name, data in read_files(directory).items() if not name.startswith(".")}
        assert there == read_files(sweep / {"01": "oldest", "02": "older", "1": "source"}[version])
        assert Bundle.open(directory).digest


def assets_of(directory: Path) -> dict[str, bytes]:
    return {name: data for name, data in read_files(directory).items() if name != MANIFEST_NAME}


def sweep_points(sweep: Path, root: Path) -> tuple[list[str], list[str]]:
    """Every fault at every call on the volume, as strace names them, and the paths that they are struck on."""
    log, source = root.with_suffix(".log"), sweep / "source"
    paths: list[str] = []
    for _ in range(2):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(sweep / "template", root)
        assert traced(models_for(root, source), root, log, only=paths).status == 0
        paths = paths or paths_on(log, root)
    faults = ("error=ENOSPC:when={}", "error=EIO:when={}", "signal=SIGKILL:when={}", "error=EROFS:when={}+")
    return [f"{name}:{fault.format(number)}" for name, number in fault_points(log) for fault in faults], paths


@needs_strace
def test_every_sort_of_call_fails_somewhere(sweep: Path, root: Path) -> None:
    """System calls on the volume that fail, or at which the sync is killed: nothing torn has a final name."""
    points, paths = sweep_points(sweep, root)
    names = {point.partition(":")[0] for point in points}
    assert {"openat", "mkdir", "rename"} <= names
    assert names & {"write", "pwrite64"}
    assert names & {"fsync", "fdatasync", "syncfs"}
    chosen = random.Random(6).sample(points, min(32, len(points)))
    struck = sum(assert_swept(sweep, root, point, paths) for point in chosen)
    print(f"{len(chosen)} of {len(points)} fault points, {struck} struck")
    assert struck > 0.8 * len(chosen)


@needs_strace
@pytest.mark.big
@pytest.mark.timeout(1800)
def test_every_call_fails_once(sweep: Path, root: Path) -> None:
    """The same for every call and every fault."""
    points, paths = sweep_points(sweep, root)
    torn: list[str] = []
    struck: list[str] = []
    for point in points:
        try:
            struck += [point] * assert_swept(sweep, root, point, paths)
        except AssertionError as error:
            torn.append(f"{point}: {error}")
    print(f"{len(points)} fault points, {len(struck)} struck; not struck: {sorted(set(points) - set(struck))}")
    assert not torn, "\n\n".join(torn)
    assert len(struck) > 0.8 * len(points)


@needs_strace
@BOTH
def test_what_is_durable_when(root: Path, tmp_path: Path, plain: bool) -> None:
    """Every file and directory is flushed before the bundle gets its final name, and the name itself after it."""
    files = {"model.pkl": os.urandom(3_000_000), "a/b/c": b"x" * 5000, "a/d": b"y", "empty": b""}
    log = tmp_path / "log"
    objects = files if plain else published(files, 400_000)
    models = models_for(root, write_files(tmp_path / "source", objects))
    assert traced(models, root, log).status == 0
    assert held(root) == files
    assert undurable(log, root, final(root)) == []


@needs_strace
def test_the_order_check_finds_what_is_missing(root: Path, tmp_path: Path, sweep: Path) -> None:
    """The check above sees a flush that never happened: with none of them, every file is named."""
    log = tmp_path / "log"
    assert traced(models_for(root, sweep / "source"), root, log).status == 0
    text = [line for line in log.read_text().splitlines() if not any(name in line for name in ("sync(", "syncfs("))]
    log.write_text("\n".join(text))
    missing = " ".join(undurable(log, root, final(root)))
    for name in ("model.pkl", "a/b", "empty", "shared", MANIFEST_NAME, str(final(root).parent)):
        assert name in missing


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("kills", [0, 1])
def test_syncs_at_once_where_locks_lie(store: LyingStore, root: Path, count: int, kills: int) -> None:
    """Several syncs of one version where every lock is granted to everyone: the bundle is right, and one brings it."""
    store.put(published(MEDIUM, MIB))
    store.rate = 4 * MIB
    processes = [start_sync(root, before=NO_LOCKS) for _ in range(count)]
    wait_until(lambda: store.moved > 8 * MIB, processes[0])
    for process in processes[:kills]:
        process.kill()
        process.communicate()
        assert held(root) in (None, MEDIUM)
    outcomes = [ended(process) for process in processes[kills:]]
    assert {outcome.status for outcome in outcomes} <= {0, 1}, outcomes
    assert held(root) in (None, MEDIUM)
    if not kills:
        assert 0 in {outcome.status for outcome in outcomes}, outcomes
    assert len(leftovers(root)) <= kills + count
    store.rate = 0
    assert_synced(ended(start_sync(root, before=NO_LOCKS)), root, MEDIUM)


@pytest.mark.parametrize("count", [2, 5])
def test_syncs_at_once_and_one_is_killed(store: LyingStore, root: Path, count: int) -> None:
    """Where locks work, all that live end well, and what the killed one left is gone after the next sync."""
    store.put(published(MEDIUM, MIB))
    store.rate = 4 * MIB
    processes = [start_sync(root) for _ in range(count)]
    wait_until(lambda: store.moved > 8 * MIB, processes[0])
    processes[0].kill()
    processes[0].communicate()
    outcomes = [ended(process) for process in processes[1:]]
    assert {outcome.status for outcome in outcomes} == {0}, outcomes
    assert held(root) == MEDIUM
    assert len(leftovers(root)) <= 1
    store.rate = 0
    assert_synced(ended(start_sync(root)), root, MEDIUM)


@pytest.fixture
def disk(root: Path) -> Iterator[Path]:
    """A volume of its own of 64 MiB, in memory."""
    root.mkdir()
    if os.geteuid() != 0 or not mount(root, "size=64m"):
        pytest.skip("a volume of its own needs root and mount")
    yield root
    while subprocess.run(["umount", "-l", root], check=False, capture_output=True).returncode == 0:
        pass


def mount(directory: Path, options: str) -> bool:
    made = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    return bool(shutil.which("mount")) and subprocess.run(made, check=False, capture_output=True).returncode == 0


def fill(directory: Path) -> None:
    """Take what room there is, to the last byte."""
    with (directory / "filler").open("ab", buffering=0) as file:
        while True:
            try:
                file.write(bytes(MIB))
            except OSError:
                return


@BOTH
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_a_volume_that_fills_up(store: LyingStore, disk: Path, plain: bool, skip: int) -> None:
    """A volume that another fills up in mid-write: a sentence, no half bundle, and on with it when there is room."""
    store.put(MEDIUM if plain else published(MEDIUM, MIB))
    store.rate = 40 * MIB
    store.lies(lies.does(lambda: fill(disk)), name="model.pkl", skip=skip)
    outcome = sync_here(disk)
    if outcome.status == 0 and skip:
        pytest.skip("it asked for the file in fewer pieces")
    (disk / "filler").unlink()
    assert_refused(outcome, disk)
    assert "No space left on device" in outcome.said
    store.behave()
    assert_synced(sync_here(disk), disk, MEDIUM)


@BOTH
def test_a_volume_without_room(store: LyingStore, disk: Path, plain: bool) -> None:
    """A volume without room for the bundle is told before the first byte, with what it needs."""
    store.put(MEDIUM if plain else published(MEDIUM, MIB))
    (disk / "filler").write_bytes(bytes(40 * MIB))
    outcome = sync_here(disk)
    moved = store.moved
    (disk / "filler").unlink()
    assert_refused(outcome, disk)
    assert "bytes free, the bundle needs" in outcome.said
    assert moved == 0
    assert_synced(sync_here(disk), disk, MEDIUM)


@BOTH
def test_a_volume_without_inodes(store: LyingStore, root: Path, disk: Path, plain: bool) -> None:
    """A volume that takes no more files, though it has bytes, is told as one that refuses."""
    subprocess.run(["umount", "-l", disk], check=True)
    assert mount(disk, "size=64m,nr_inodes=20")
    files = {f"{number}": b"x" for number in range(40)}
    store.put(files if plain else published(files, MIB))
    outcome = sync_here(disk)
    assert_refused(outcome, disk)
    subprocess.run(["mount", "-o", "remount,nr_inodes=500", disk], check=True)
    assert_synced(sync_here(disk), disk, files)


def test_a_read_only_volume(store: LyingStore, disk: Path) -> None:
    """A volume that is mounted read-only is told as that, and used once it is writable."""
    store.put(published(MEDIUM, MIB))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    outcome = sync_here(disk)
    assert_refused(outcome, disk)
    assert "Read-only file system" in outcome.said
    assert store.moved == 0
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert_synced(sync_here(disk), disk, MEDIUM)


@BOTH
def test_a_volume_that_goes_away(store: LyingStore, disk: Path, plain: bool) -> None:
    """A volume that is unmounted in mid-write: a sentence, nothing half-done where it was, and on with it later."""
    store.put(MEDIUM if plain else published(MEDIUM, MIB))
    store.rate = 40 * MIB
    gone = lies.does(lambda: subprocess.run(["umount", "-l", disk], check=True))
    store.lies(gone, name="model.pkl")
    outcome = sync_here(disk)
    assert_refused(outcome, disk)
    store.behave()
    shutil.rmtree(disk / "digits", ignore_errors=True)
    assert mount(disk, "size=64m")
    assert_synced(sync_here(disk), disk, MEDIUM)


@pytest.mark.parametrize("name", ["", "digits", "digits/.staging", "digits/.status", "digits/1", "digits/1/"])
def test_something_else_has_the_name(store: LyingStore, root: Path, name: str) -> None:
    """A file where a directory should be, or a directory that is no bundle: a sentence, and on with it afterwards."""
    store.put(published(MEDIUM, MIB))
    place = root / name
    place.mkdir(parents=True) if name.endswith("/") else write_files(
        root.parent, {f"volume/{name}".rstrip("/"): b"mine"}
    )
    outcome = sync_here(root)
    assert outcome.status == 1
    assert "digits" in outcome.said
    assert store.moved == 0
    assert place.is_dir() if name.endswith("/") else place.read_bytes() == b"mine"
    place.rmdir() if name.endswith("/") else place.unlink()
    assert_synced(sync_here(root), root, MEDIUM)
