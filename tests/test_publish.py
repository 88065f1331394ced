"""Publish: a directory becomes a bundle in a store, manifest last, and never replaces another."""

from __future__ import annotations

import io
import signal
import time
from pathlib import Path

import pytest

from loader.bundle.digest import digest_of
from loader.bundle.errors import BundleError, ManifestInvalid, ModelConfigInvalid
from loader.bundle.manifest import CHUNK_SIZE, MANIFEST_NAME, PUBLISHING_NAME, Manifest
from loader.errors import Immutable, ObjectNotFound, UsageError
from loader.publish import describe, publish
from loader.report import Report
from loader.sources.directory import DirectorySource
from loader.sync import sync
from tests.sources import assets_on, pantry, progress_of, read_files, spec, start_pantry, write_files

FILES = {"model.pkl": b"model", "model.yaml": b"asset: model.pkl\n", "a/table.npy": b"table", "empty": b""}


@pytest.fixture(name="directory")
def source_directory(tmp_path: Path) -> Path:
    return write_files(tmp_path / "source", FILES)


def run(directory: Path, store: Path) -> str:
    return publish(directory, f"file://{store}", Report(io.StringIO()), pack=False)


def test_publish(directory: Path, tmp_path: Path) -> None:
    """Every file is in the store with a manifest whose digest is answered, and a sync brings them all back."""
    digest = run(directory, tmp_path / "store")
    stored = read_files(tmp_path / "store")
    assert digest == digest_of(stored.pop(MANIFEST_NAME))
    assert stored == {**FILES, PUBLISHING_NAME: b""}
    sync(spec(f"file://{tmp_path}/store", digest=digest), tmp_path / "volume", progress_of(tmp_path / "volume"))
    assert assets_on(tmp_path / "volume/digits/1") == FILES


def test_manifest_comes_last(directory: Path, tmp_path: Path) -> None:
    """The manifest is written after every asset: its presence means that all are there."""
    run(directory, tmp_path / "store")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert times[MANIFEST_NAME] == max(times.values())


def test_large_file_has_chunks(tmp_path: Path) -> None:
    """A file of several chunks has a digest for each."""
    data = bytes(CHUNK_SIZE) + b"\1" * CHUNK_SIZE + b"end"
    write_files(tmp_path / "source", {"model.pkl": data})
    run(tmp_path / "source", tmp_path / "store")
    (asset,) = Manifest.decode((tmp_path / "store" / MANIFEST_NAME).read_bytes(), "").assets
    assert asset.chunks == (digest_of(bytes(CHUNK_SIZE)), digest_of(b"\1" * CHUNK_SIZE), digest_of(b"end"))
    assert asset.digest == digest_of(data)


def test_twice(directory: Path, tmp_path: Path) -> None:
    """Publishing the same content again answers the same digest and writes nothing."""
    first = run(directory, tmp_path / "store")
    before = {path: path.stat() for path in (tmp_path / "store").rglob("*")}
    assert run(directory, tmp_path / "store") == first
    assert {path: path.stat() for path in (tmp_path / "store").rglob("*")} == before


@pytest.mark.parametrize("changes", [{"model.pkl": b"other"}, {"more": b""}])
def test_other_content(directory: Path, tmp_path: Path, changes: dict[str, bytes]) -> None:
    """A prefix that holds another bundle is refused and stays as it is."""
    run(directory, tmp_path / "store")
    before = read_files(tmp_path / "store")
    write_files(directory, changes)
    with pytest.raises(Immutable, match="holds another bundle. Publish under a new version"):
        run(directory, tmp_path / "store")
    assert read_files(tmp_path / "store") == before


def test_strange_objects(directory: Path, tmp_path: Path) -> None:
    """A prefix that holds objects of something else is refused before anything is written."""
    write_files(tmp_path / "store", {"stranger": b""})
    with pytest.raises(Immutable, match="'stranger'.*Use an empty prefix"):
        run(directory, tmp_path / "store")
    assert read_files(tmp_path / "store") == {"stranger": b""}


def test_half_published(directory: Path, tmp_path: Path) -> None:
    """What a run that ended early has uploaded is kept, and the rest follows."""
    store = write_files(tmp_path / "store", {"model.pkl": FILES["model.pkl"], "a/table.npy": FILES["a/table.npy"]})
    before = (store / "model.pkl").stat()
    digest = run(directory, store)
    assert (store / "model.pkl").stat() == before
    assert digest == describe(directory)[0].digest
    assert read_files(store).keys() == {*FILES, MANIFEST_NAME, PUBLISHING_NAME}


def test_a_sync_in_mid_publish_waits_for_the_manifest(directory: Path, tmp_path: Path) -> None:
    """A prefix on its way is no plain prefix: the sync says so, and succeeds once the manifest is there."""
    store = tmp_path / "store"
    run(directory, store)
    (store / MANIFEST_NAME).unlink()
    with pytest.raises(ObjectNotFound, match="is being published and not whole yet"):
        sync(spec(f"file://{store}"), tmp_path / "volume", progress_of(tmp_path / "volume"))
    run(directory, store)
    sync(spec(f"file://{store}"), tmp_path / "volume", progress_of(tmp_path / "volume"))
    assert assets_on(tmp_path / "volume/digits/1") == FILES


def test_half_published_with_other_content(directory: Path, tmp_path: Path) -> None:
    """A half-published asset of another size is refused: the version belongs to something else."""
    write_files(tmp_path / "store", {"model.pkl": b"another model"})
    with pytest.raises(Immutable, match=r"model\.pkl exists with other content"):
        run(directory, tmp_path / "store")
    assert MANIFEST_NAME not in read_files(tmp_path / "store")


def test_killed(tmp_path: Path) -> None:
    """A publish that is killed in mid-upload leaves no manifest, and the same command ends it."""
    directory = write_files(
        tmp_path / "source", {f"{n:03}": bytes([n]) * 300_000 for n in range(200)} | {"model.pkl": b""}
    )
    store = tmp_path / "store"
    with start_pantry("publish", "--no-pack", directory, f"file://{store}") as process:
        deadline = time.monotonic() + 30
        while not (store / "020").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (store / MANIFEST_NAME).exists()
    write_files(store, {f".{0:032x}.part": b"half"})  # what a kill at a worse moment leaves
    code, events = pantry("publish", "--no-pack", directory, f"file://{store}")
    assert (code, events[-1]["phase"]) == (0, "published")
    assert events[-1]["digest"] == digest_of((store / MANIFEST_NAME).read_bytes())
    assert {name for name in read_files(store) if not name.startswith(".")} == {
        *read_files(directory),
        MANIFEST_NAME,
    }
    sync(spec(f"file://{store}"), tmp_path / "volume", progress_of(tmp_path / "volume"))
    assert assets_on(tmp_path / "volume/digits/1") == read_files(directory)


def test_hidden_files_are_left_out(directory: Path, tmp_path: Path) -> None:
    """Hidden files and folders, bytecode and an older manifest in the directory are not part of the bundle."""
    write_files(
        directory,
        {".git/config": b"", ".env": b"secret", "a/.DS_Store": b"", "__pycache__/p.pyc": b"", "manifest.json": b"old"},
    )
    run(directory, tmp_path / "store")
    assert assets_on(tmp_path / "store") == {**FILES, PUBLISHING_NAME: b""}


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_no_directory(tmp_path: Path, make: str) -> None:
    """What is no directory, or has nothing in it, is wrong use."""
    place = tmp_path / "source"
    if make == "file":
        place.write_bytes(b"")
    if make == "empty":
        write_files(place, {".hidden": b""})
    with pytest.raises(UsageError, match="Give the directory that holds model.pkl"):
        run(place, tmp_path / "store")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"model.yaml": b"assets: x"}, ModelConfigInvalid),
        ({"model.yaml": b"["}, ModelConfigInvalid),
        ({"table.npy": b""}, BundleError),
        ({"a.pkl": b"", "b.pkl": b""}, BundleError),
        ({"model.yaml": b"asset: b.pkl", "a.pkl": b""}, BundleError),
        ({"Model.pkl": b"", "model.PKL": b""}, ManifestInvalid),
        ({"a\\b": b""}, ManifestInvalid),
        ({".pack.": b"", "a\nb": b""}, ManifestInvalid),
    ],
)
def test_mistakes_are_told_to_the_author(tmp_path: Path, files: dict[str, bytes], kind: type[BundleError]) -> None:
    """A directory that no server could serve is refused before anything is sent."""
    with pytest.raises(kind):
        run(write_files(tmp_path / "source", files), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_create_never_replaces(tmp_path: Path) -> None:
    """An object in a directory store is created whole or not at all, and never over another."""
    source = DirectorySource(tmp_path / "store")
    source.create("a/b", b"first")
    with pytest.raises(Immutable, match="exists already"):
        source.create("a/b", b"second")
    assert read_files(tmp_path / "store") == {"a/b": b"first"}
