"""The write side of a volume: staging directories, the rename that publishes, pruning, status files, room."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from loader.bundle.sync_status import SyncStatus, read_sync_status, write_sync_status
from loader.bundle.volume import bundle_directory, staging_directory, status_path
from loader.errors import Immutable, VolumeError
from loader.staging import SPARE_BYTES, begin, commit, existing_bundle, prune, require_space, staged_bytes
from tests.sources import ROOT, assets_on, manifest_of, published, read_files, write_files

FILES = {"model.pkl": b"model", "a/table.npy": b"table"}
MANIFEST = manifest_of(FILES).encode()


def put(root: Path, version: str, files: dict[str, bytes], content: str = "abc") -> None:
    """Stages and commits a bundle of the model `digits`."""
    with begin(root, "digits", version, content) as staging:
        write_files(staging, files)
        commit(root, "digits", version, staging, manifest_of(files).encode())


def staged(root: Path) -> list[str]:
    return sorted(path.name for path in staging_directory(root, "digits").iterdir())


def test_commit(tmp_path: Path) -> None:
    """A committed bundle has its final name, its manifest and its assets, and nothing stays staged."""
    put(tmp_path, "1", FILES)
    directory = bundle_directory(tmp_path, "digits", "1")
    assert directory == tmp_path / "digits" / "1"
    assert read_files(directory) == published(FILES)
    assert staged(tmp_path) == []
    bundle = existing_bundle(tmp_path, "digits", "1")
    assert bundle is not None
    assert bundle.manifest == manifest_of(FILES)


def test_strangers_do_not_come_along(tmp_path: Path) -> None:
    """Files in the staging directory that the manifest does not list are not part of the bundle."""
    with begin(tmp_path, "digits", "1", "abc") as staging:
        write_files(staging, {**FILES, "stray": b"", "a/stray": b"", "manifest.json": b"half"})
        commit(tmp_path, "digits", "1", staging, MANIFEST)
    assert assets_on(tmp_path / "digits" / "1") == FILES


@pytest.mark.parametrize("damage", ["missing", "short", "link", "gone"])
def test_incomplete_staging_is_not_committed(tmp_path: Path, damage: str) -> None:
    """A staging directory that lacks a file, because another run took it, gets no final name."""
    with begin(tmp_path, "digits", "1", "abc") as staging:
        write_files(staging, FILES)
        if damage == "gone":
            shutil.rmtree(staging)
        else:
            (staging / "model.pkl").unlink()
        if damage == "short":
            (staging / "model.pkl").write_bytes(b"mode")
        if damage == "link":
            (staging / "model.pkl").symlink_to(staging / "a" / "table.npy")
        with pytest.raises(VolumeError, match="taken over by another sync"):
            commit(tmp_path, "digits", "1", staging, MANIFEST)
    assert existing_bundle(tmp_path, "digits", "1") is None


def test_lost_race_with_the_same_content(tmp_path: Path) -> None:
    """When another run of the same content was quicker, the bundle stays as it is and the staging goes."""
    with begin(tmp_path, "digits", "1", "abc") as staging:
        write_files(staging, FILES)
        put(tmp_path, "1", FILES)
        before = (tmp_path / "digits" / "1").stat().st_ino
        commit(tmp_path, "digits", "1", staging, MANIFEST)
    assert (tmp_path / "digits" / "1").stat().st_ino == before
    assert staged(tmp_path) == []


def test_lost_race_with_other_content(tmp_path: Path) -> None:
    """When another run put other content under the version, that stays and the run fails."""
    with begin(tmp_path, "digits", "1", "abc") as staging:
        write_files(staging, FILES)
        put(tmp_path, "1", {"model.pkl": b"other"}, "def")
        with pytest.raises(Immutable, match="made by another sync with other content"):
            commit(tmp_path, "digits", "1", staging, MANIFEST)
    assert assets_on(tmp_path / "digits" / "1") == {"model.pkl": b"other"}


def test_continues_what_a_dead_run_left(tmp_path: Path) -> None:
    """The next run of the same content gets the staged files of one that ended."""
    with begin(tmp_path, "digits", "1", "abc") as first:
        write_files(first, FILES)
    with begin(tmp_path, "digits", "1", "abc") as second:
        assert read_files(second) == FILES
        assert staged_bytes(second) == 10
        assert not first.exists()
        assert staged(tmp_path) == [second.name]


def test_removes_what_a_dead_run_left_of_other_content(tmp_path: Path) -> None:
    """What was staged of another content under the version is removed; another version's is not touched."""
    with begin(tmp_path, "digits", "1", "abc") as first:
        write_files(first, FILES)
    with begin(tmp_path, "digits", "1-rc", "abc") as other:
        write_files(other, FILES)
    with begin(tmp_path, "digits", "1", "def") as second:
        assert read_files(second) == {}
        assert staged(tmp_path) == sorted([second.name, other.name])


def test_leaves_a_live_run_alone(tmp_path: Path) -> None:
    """A directory in which a run is still at work is neither taken nor removed."""
    with contextlib.ExitStack() as runs:
        first = runs.enter_context(begin(tmp_path, "digits", "1", "abc"))
        write_files(first, FILES)
        same = runs.enter_context(begin(tmp_path, "digits", "1", "abc"))
        other = runs.enter_context(begin(tmp_path, "digits", "1", "def"))
        assert staged(tmp_path) == sorted([first.name, same.name, other.name])
        assert (read_files(first), read_files(same), read_files(other)) == (FILES, {}, {})


def test_killed_process_counts_as_dead(tmp_path: Path) -> None:
    """A run in another process is alive until it is killed, and not a moment longer."""
    code = (
        "import sys, time, pathlib; from loader.staging import begin\n"
        "with begin(pathlib.Path(sys.argv[1]), 'digits', '1', 'abc') as staging:\n"
        "    (staging / 'model.pkl').write_bytes(b'half'); print(staging.name, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        with begin(tmp_path, "digits", "1", "abc") as mine:
            assert read_files(mine) == {}
            mine.rmdir()
        assert staged(tmp_path) == [name]
        process.kill()
        process.wait()
        with begin(tmp_path, "digits", "1", "abc") as mine:
            assert read_files(mine) == {"model.pkl": b"half"}


def test_many_begin_at_once(tmp_path: Path) -> None:
    """Runs that begin at the same moment each get a directory of their own, one of them what was left."""
    with begin(tmp_path, "digits", "1", "abc") as left:
        write_files(left, FILES)
    found: list[tuple[Path, int]] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        with begin(tmp_path, "digits", "1", "abc") as staging:
            found.append((staging, len(read_files(staging))))
            barrier.wait()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path for path, _ in found}) == 8
    assert sorted(count for _, count in found) == [0] * 7 + [2]


def test_not_a_bundle_under_the_final_name(tmp_path: Path) -> None:
    """A directory, or a file, that is no bundle but has a version's name is reported, not replaced."""
    write_files(tmp_path, {"digits/1/notes.txt": b"mine", "digits/2": b"mine"})
    for version in ("1", "2"):
        with pytest.raises(VolumeError, match="is there but is no bundle.*Move it away"):
            existing_bundle(tmp_path, "digits", version)
        with begin(tmp_path, "digits", version, "abc") as staging:
            write_files(staging, FILES)
            with pytest.raises(VolumeError):
                commit(tmp_path, "digits", version, staging, MANIFEST)
    assert (tmp_path / "digits/1/notes.txt").read_bytes() == (tmp_path / "digits/2").read_bytes() == b"mine"


def test_unwritable_volume(tmp_path: Path) -> None:
    """A volume that cannot be written gives one sentence with the place and the next step."""
    write_files(tmp_path, {"volume": b"a file where a directory must be"})
    with (
        pytest.raises(VolumeError, match="the volume .*volume refused: Not a directory.*Check that it is mounted"),
        begin(tmp_path / "volume", "digits", "1", "abc"),
    ):
        pass


def test_space(tmp_path: Path) -> None:
    """Room is checked with some to spare, and the sentence has both numbers and the way out."""
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path, free // 2)
    with pytest.raises(VolumeError, match="bytes free, the bundle needs .*Enlarge the volume") as caught:
        require_space(tmp_path, 2**60)
    assert f"{2**60 + SPARE_BYTES:,}" in str(caught.value)


def desire(root: Path, *versions: str) -> None:
    """Marks versions as desired, one after another."""
    for number, version in enumerate(versions):
        write_sync_status(root, "digits", version, SyncStatus("synced"))
        status = read_sync_status(root, "digits", version)
        assert status is not None
        later = msgspec.structs.replace(status, updated=time.time() + number)
        status_path(root, "digits", version).write_bytes(msgspec.json.encode(later))


def versions_on(root: Path) -> set[str]:
    return {path.name for path in (root / "digits").iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize(
    ("retain", "kept"), [(1, {"2"}), (2, {"2", "1"}), (3, {"2", "1", "4"}), (4, {"2", "1", "4", "3"}), (9, set("1234"))]
)
def test_prune(tmp_path: Path, retain: int, kept: set[str]) -> None:
    """The desired bundle stays, and of the others those that were desired last, whatever their names."""
    for version in "1234":
        put(tmp_path, version, FILES)
    desire(tmp_path, "3", "4", "1", "2")
    gone = prune(tmp_path, "digits", "2", retain)
    assert versions_on(tmp_path) == kept
    assert set(gone) == set("1234") - kept
    assert staged(tmp_path) == []
    assert {version for version in "1234" if read_sync_status(tmp_path, "digits", version)} == kept


def test_prune_keeps_the_desired_one_even_if_it_is_the_oldest(tmp_path: Path) -> None:
    """After a rollback the desired version stays although another was desired later."""
    for version in "123":
        put(tmp_path, version, FILES)
    desire(tmp_path, "1", "2", "3")
    assert prune(tmp_path, "digits", "1", 2) == ["2"]
    assert versions_on(tmp_path) == {"1", "3"}


def test_prune_keeps_what_a_server_holds(tmp_path: Path) -> None:
    """A bundle that a living process holds is not pruned, whatever its age; once that has ended, it is."""
    for version in "123":
        put(tmp_path, version, FILES)
    desire(tmp_path, "1", "2", "3")
    code = (
        "import sys, time, pathlib; from loader.bundle.bundle import Bundle\n"
        "Bundle.open(pathlib.Path(sys.argv[1])).hold(); print(flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "digits" / "1"], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert prune(tmp_path, "digits", "3", 1) == ["2"]
        assert versions_on(tmp_path) == {"1", "3"}
        assert read_sync_status(tmp_path, "digits", "1") is not None
        process.kill()
    assert prune(tmp_path, "digits", "3", 1) == ["1"]


def test_prune_touches_only_bundles(tmp_path: Path) -> None:
    """Folders without a manifest, stray files and other models are none of pruning's business."""
    put(tmp_path, "1", FILES)
    write_files(tmp_path, {"digits/notes/a.txt": b"", "digits/README": b"", "letters/1/manifest.json": MANIFEST})
    assert prune(tmp_path, "digits", "1", 1) == []
    assert versions_on(tmp_path) == {"1", "notes", "README"}
    assert (tmp_path / "letters/1/manifest.json").exists()


def test_prune_removes_what_dead_runs_left(tmp_path: Path) -> None:
    """Staging directories whose runs are dead go, whatever version they were for; a live run's stays."""
    put(tmp_path, "2", FILES)
    with begin(tmp_path, "digits", "1", "abc") as dead:
        write_files(dead, FILES)
    with begin(tmp_path, "digits", "3", "abc") as alive:
        assert prune(tmp_path, "digits", "2", 2) == []
        assert staged(tmp_path) == [alive.name]


def test_prune_of_a_copied_volume(tmp_path: Path) -> None:
    """A volume that holds nothing but bundles, as one that was copied, is pruned too."""
    for version in "12":
        write_files(tmp_path / "digits" / version, published(FILES))
    assert prune(tmp_path, "digits", "2", 1) == ["1"]


def test_status_round_trip(tmp_path: Path) -> None:
    """A status is read as it was written, with the time; none and a broken one are None."""
    assert read_sync_status(tmp_path, "digits", "1") is None
    write_sync_status(tmp_path, "digits", "1", SyncStatus("failed", 5, 10, "why"))
    status = read_sync_status(tmp_path, "digits", "1")
    assert status is not None
    assert (status.phase, status.bytes, status.total_bytes, status.reason) == ("failed", 5, 10, "why")
    assert abs(status.updated - time.time()) < 60
    status_path(tmp_path, "digits", "1").write_bytes(b"{")
    assert read_sync_status(tmp_path, "digits", "1") is None


def test_status_is_replaced_whole(tmp_path: Path) -> None:
    """Whoever reads while others write, in one process or in several, sees a whole status at every moment."""
    write_sync_status(tmp_path, "digits", "1", SyncStatus("syncing"))
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for count in range(100):
                write_sync_status(tmp_path, "digits", "1", SyncStatus("syncing", count, reason="x" * count * 50))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert read_sync_status(tmp_path, "digits", "1") is not None
    assert failures == []
    assert os.listdir(status_path(tmp_path, "digits", "1").parent) == ["1.json"]
