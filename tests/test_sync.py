"""Sync: a volume holds what models.yaml lists, whatever happens on the way."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader import retry
from loader.bundle.bundle import Bundle
from loader.bundle.digest import digest_of
from loader.bundle.errors import DigestMismatch, ManifestInvalid, PantryError
from loader.bundle.manifest import CHUNK_SIZE, MANIFEST_NAME, MAX_CHUNK_SIZE, Asset, Manifest
from loader.bundle.models import ModelSpec
from loader.bundle.sync_status import read_sync_status
from loader.errors import Immutable, ObjectNotFound, SourceUnavailable, UsageError, VolumeError
from loader.report import Report
from loader.sources import StoredObject
from loader.sync import sync, sync_all
from loader.verify import verify
from tests.sources import (
    MemorySource,
    assets_on,
    digits,
    manifest_of,
    pantry,
    progress_of,
    published,
    read_files,
    spec,
    start_pantry,
    write_files,
    write_models,
)

CHUNK = 1000
FILES = {"model.pkl": pickle.dumps(list(range(3000))), "a/table.npy": os.urandom(2500), "model.yaml": b"", "x": b"x"}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture(name="impatient")
def soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries end soon."""
    monkeypatch.setattr(retry, "GIVE_UP_AFTER_SECONDS", 0.03)


def bundle_of(files: dict[str, bytes] | None = None) -> MemorySource:
    return MemorySource(published(FILES if files is None else files, CHUNK))


def run(source: MemorySource, root: Path, desired: ModelSpec | None = None) -> None:
    desired = desired or spec()
    sync(desired, root, progress_of(root, desired.version), source)


def final(root: Path, version: str = "1") -> Path:
    return root / "digits" / version


def phase(root: Path, version: str = "1") -> str | None:
    status = read_sync_status(root, "digits", version)
    return status.phase if status else None


def test_published_bundle(tmp_path: Path) -> None:
    """A published bundle arrives with its own manifest, byte for byte: its identity is the publisher's."""
    source = bundle_of()
    run(source, tmp_path)
    assert read_files(final(tmp_path)) == source.objects
    assert Bundle.open(final(tmp_path)).digest == manifest_of(FILES, CHUNK).digest
    assert source.moved == sum(map(len, FILES.values()))
    assert phase(tmp_path) == "synced"


@pytest.mark.parametrize("with_crc32c", [True, False])
def test_plain_prefix(tmp_path: Path, with_crc32c: bool) -> None:
    """A prefix without a manifest arrives whole, and its manifest pins every object's generation."""
    run(MemorySource(FILES, with_crc32c=with_crc32c), tmp_path)
    assert assets_on(final(tmp_path)) == FILES
    assets = Bundle.open(final(tmp_path)).manifest.assets
    assert [(item.path, item.pin and item.pin.generation) for item in assets] == [(name, "1") for name in sorted(FILES)]


def test_objects_beside_a_manifest_stay_behind(tmp_path: Path) -> None:
    """Objects that a published manifest does not list are not part of the bundle."""
    source = bundle_of()
    source.replace("stray", b"stray")
    run(source, tmp_path)
    assert assets_on(final(tmp_path)) == FILES


@pytest.mark.parametrize("with_crc32c", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_second_run_moves_nothing(tmp_path: Path, plain: bool, with_crc32c: bool) -> None:
    """A second run lists once, reads at most a manifest of unknown checksum, and changes no file of the bundle."""
    objects = FILES if plain else published(FILES)
    source = MemorySource(objects, with_crc32c=with_crc32c)
    run(source, tmp_path)
    before = {path: path.stat() for path in final(tmp_path).rglob("*")}
    source.moved, source.lists, source.reads = 0, 0, Counter()
    run(source, tmp_path)
    assert (source.moved, source.lists) == (0, 1)
    assert source.reads == ({} if plain or with_crc32c else {"manifest.json": 1})
    assert {path: path.stat() for path in final(tmp_path).rglob("*")} == before
    assert phase(tmp_path) == "synced"


def test_pinned_bundle_on_the_volume_asks_nobody(tmp_path: Path) -> None:
    """A bundle whose digest is pinned and which is on the volume needs no source at all: it may even be gone."""
    desired = spec(digest=manifest_of(FILES, CHUNK).digest)
    run(bundle_of(), tmp_path, desired)
    gone = MemorySource({})
    run(gone, tmp_path, desired)
    assert gone.lists == 0


def test_other_pinned_digest(tmp_path: Path) -> None:
    """A bundle with another digest than the pinned one is refused before a byte of it moves."""
    source = bundle_of()
    with pytest.raises(DigestMismatch, match="models.yaml pins sha256:0000.*, got sha256:"):
        run(source, tmp_path, spec(digest="sha256:" + "0" * 64))
    assert source.moved == 0
    assert not final(tmp_path).exists()


def test_other_pinned_digest_on_the_volume(tmp_path: Path) -> None:
    """A bundle that is there but is not the pinned one is reported, and stays as it is."""
    run(bundle_of(), tmp_path)
    with pytest.raises(DigestMismatch, match="models.yaml pins"):
        run(bundle_of(), tmp_path, spec(digest="sha256:" + "0" * 64))
    assert assets_on(final(tmp_path)) == FILES


@pytest.mark.parametrize("plain", [True, False])
def test_other_content_under_a_version(tmp_path: Path, plain: bool) -> None:
    """When the source has other content for a version that is on the volume, the version stays what it was."""
    run(MemorySource(FILES) if plain else bundle_of(), tmp_path)
    changed = {**FILES, "x": b"y"}
    other = MemorySource(changed) if plain else bundle_of(changed)
    other.generations["x"] = 2
    with pytest.raises(Immutable, match="has other content now. A version names one bundle for ever"):
        run(other, tmp_path)
    assert assets_on(final(tmp_path)) == FILES
    assert other.moved == 0


def test_prefix_that_grew(tmp_path: Path) -> None:
    """A plain prefix with one object more is other content."""
    source = MemorySource(FILES)
    run(source, tmp_path)
    source.replace("more", b"")
    with pytest.raises(Immutable):
        run(source, tmp_path)


def test_empty_prefix(tmp_path: Path) -> None:
    """A prefix without objects is reported with what to check."""
    with pytest.raises(ObjectNotFound, match="holds no objects.*Check storageUri and version"):
        run(MemorySource({}), tmp_path)


def test_missing_object(tmp_path: Path) -> None:
    """A manifest that lists an object which is not there is refused before a byte moves."""
    source = bundle_of()
    del source.objects["a/table.npy"]
    with pytest.raises(ObjectNotFound, match=r"the manifest lists a/table\.npy, but there is no such object"):
        run(source, tmp_path)
    assert source.moved == 0


@pytest.mark.parametrize("data", [FILES["a/table.npy"][:-1], FILES["a/table.npy"] + b"\0", b""])
def test_object_of_another_size(tmp_path: Path, data: bytes) -> None:
    """An object of another size than the manifest says is refused before a byte moves."""
    source = bundle_of()
    source.replace("a/table.npy", data)
    with pytest.raises(
        DigestMismatch, match=rf"a/table\.npy is damaged: the manifest says 2500 bytes, it has {len(data)}"
    ):
        run(source, tmp_path)
    assert source.moved == 0


@pytest.mark.parametrize("name", [name for name, data in FILES.items() if data])
def test_damaged_object(tmp_path: Path, name: str) -> None:
    """One flipped bit in any file fails the sync in one sentence; nothing gets the final name."""
    source = bundle_of()
    source.replace(name, source.objects[name][:-1] + bytes([source.objects[name][-1] ^ 1]))
    with pytest.raises(DigestMismatch, match=f"{name} is damaged"):
        run(source, tmp_path)
    assert not final(tmp_path).exists()
    source.replace(name, FILES[name])
    run(source, tmp_path)
    assert assets_on(final(tmp_path)) == FILES


@pytest.mark.parametrize("data", [b"", b"{}", b"\x80\x04.", b'{"assets": []}', manifest_of({"a": b""}).encode()[:-9]])
def test_manifest_that_is_none(tmp_path: Path, data: bytes) -> None:
    """A manifest.json that is no manifest is refused with a sentence."""
    source = bundle_of()
    source.replace("manifest.json", data)
    with pytest.raises(ManifestInvalid, match=r"memory://bucket/prefix/manifest\.json"):
        run(source, tmp_path)
    assert not final(tmp_path).exists()


def test_huge_manifest(tmp_path: Path) -> None:
    """A manifest.json of an absurd size is not read into memory."""
    source = bundle_of()
    source.sizes["manifest.json"] = 2**40
    with pytest.raises(ManifestInvalid, match="expected at most 268435456"):
        run(source, tmp_path)
    assert source.reads == {}


@pytest.mark.parametrize("fault", ["breaks", "truncates", "flips"])
def test_manifest_that_arrives_damaged(tmp_path: Path, fault: str) -> None:
    """A manifest that breaks off or arrives wrong is read again: what lands is what the store has."""
    source = bundle_of()
    getattr(source, fault)["manifest.json"] = 3
    run(source, tmp_path)
    assert read_files(final(tmp_path)) == source.objects


def test_listing_that_breaks_off(tmp_path: Path) -> None:
    """A listing that breaks off is asked for again."""
    source = bundle_of()
    source.list_breaks = 3
    run(source, tmp_path)
    assert assets_on(final(tmp_path)) == FILES


@pytest.mark.usefixtures("impatient")
def test_listing_that_never_comes(tmp_path: Path) -> None:
    """A listing that only breaks off is given up with a sentence."""
    source = bundle_of()
    source.list_breaks = 10**9
    with pytest.raises(SourceUnavailable, match="the listing broke off"):
        run(source, tmp_path)


@pytest.mark.parametrize("names", [["a", "a/b"], ["A", "a"], ["../up"], ["a//b"], ["/a"], [".staging/x"], ["a\\b"]])
@pytest.mark.parametrize("plain", [True, False])
def test_names_that_cannot_be_files(tmp_path: Path, names: list[str], plain: bool) -> None:
    """Objects whose names cannot be files of one directory are refused by name before a byte moves."""
    files = dict.fromkeys(names, b"data")
    source = MemorySource(files if plain else published(files))
    with pytest.raises(ManifestInvalid, match="name|both a file and a folder"):
        run(source, tmp_path)
    assert source.moved == 0
    assert read_files(tmp_path).keys() <= {"digits/.status/1.json"}


@pytest.mark.parametrize("plain", [True, False])
def test_no_room(tmp_path: Path, plain: bool) -> None:
    """A bundle larger than the volume is refused before a byte moves, with both numbers."""
    count = shutil.disk_usage(tmp_path).free // MAX_CHUNK_SIZE + 2
    assets = [Asset(f"{n}.pkl", MAX_CHUNK_SIZE, digest_of(b"x")) for n in range(count)]
    source = MemorySource(dict.fromkeys((asset.path for asset in assets), b"x"))
    source.sizes.update({asset.path: asset.size for asset in assets})
    if not plain:
        source.replace(MANIFEST_NAME, Manifest(tuple(assets), chunk_size=MAX_CHUNK_SIZE).encode())
    with pytest.raises(VolumeError, match="bytes free, the bundle needs"):
        run(source, tmp_path)
    assert source.moved == 0


@pytest.mark.usefixtures("impatient")
def test_continues(tmp_path: Path) -> None:
    """A run that broke off is continued: what was complete is not fetched again."""
    source = bundle_of({"a": os.urandom(5 * CHUNK), "b": os.urandom(5 * CHUNK)})
    source.breaks["b"] = 10**9
    with pytest.raises(SourceUnavailable):
        run(source, tmp_path)
    source.breaks.clear()
    source.moved, source.reads = 0, Counter()
    run(source, tmp_path)
    assert source.reads == {"manifest.json": 1, "b": 5}


def test_replaced_during_the_sync(tmp_path: Path) -> None:
    """An object that is replaced in mid-sync fails the run; the next run takes the new state, unmixed."""
    source = MemorySource({"model.pkl": os.urandom(3 * CHUNK_SIZE)})
    source.replace_after["model.pkl"] = 1
    with pytest.raises(ObjectNotFound, match="replaced since it was listed"):
        run(source, tmp_path)
    assert not final(tmp_path).exists()
    source.objects["model.pkl"] = os.urandom(3 * CHUNK_SIZE)
    run(source, tmp_path)
    assert assets_on(final(tmp_path)) == source.objects


def test_unknown_scheme(tmp_path: Path) -> None:
    """A storageUri of no known kind is wrong use, with the kinds that there are."""
    for uri in [
        "hdfs://bucket/x",
        "gs://",
        "gs:///x",
        "gs://Bad Bucket/x",
        "file://host/x",
        "file:",
        "x",
        "",
        "gs://[x/y",
    ]:
        with pytest.raises(
            UsageError, match="Use gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, https://HOST/FOLDER or file:///DIRECTORY"
        ):
            sync(spec(uri), tmp_path, progress_of(tmp_path))


def test_file_uri_is_taken_as_it_is(tmp_path: Path) -> None:
    """A directory whose name has characters that mean something in URLs is found."""
    directory = write_files(tmp_path / "a #1?b=%20", FILES)
    sync(spec(f"file://{directory}"), tmp_path / "volume", progress_of(tmp_path / "volume"))
    assert assets_on(final(tmp_path / "volume")) == FILES


@pytest.mark.parametrize("name", ["gone", "file", "file/below"])
def test_file_uri_that_is_no_directory(tmp_path: Path, name: str) -> None:
    """A directory that is not there, or is a file, is reported at once, not after minutes of retries."""
    write_files(tmp_path, {"file": b""})
    with pytest.raises(ObjectNotFound):
        sync(spec(f"file://{tmp_path}/{name}"), tmp_path / "volume", progress_of(tmp_path / "volume"))


def test_links_in_a_directory_are_not_followed(tmp_path: Path) -> None:
    """Symbolic links in a file:// source are left out: they could lead anywhere."""
    directory = write_files(tmp_path / "source", FILES)
    (directory / "link").symlink_to("/etc/passwd")
    (directory / "folder").symlink_to("/etc")
    sync(spec(f"file://{directory}"), tmp_path / "volume", progress_of(tmp_path / "volume"))
    assert assets_on(final(tmp_path / "volume")) == FILES


def test_one_model_fails_the_others_are_synced(tmp_path: Path) -> None:
    """The failure of one model keeps no other from its turn, and the whole run counts as failed."""
    write_files(tmp_path / "good", published(FILES))
    write_files(tmp_path / "bad", {**published(FILES), "x": b"y"})
    specs = tuple(
        ModelSpec(name, "1", f"file://{tmp_path}/{source}")
        for name, source in [("first", "good"), ("second", "bad"), ("third", "gone"), ("last", "good")]
    )
    stream = io.StringIO()
    assert not sync_all(specs, tmp_path / "volume", 2, Report(stream, json_lines=True))
    assert assets_on(tmp_path / "volume/first/1") == assets_on(tmp_path / "volume/last/1") == FILES
    assert not (tmp_path / "volume/second/1").exists()
    phases = {name: read_sync_status(tmp_path / "volume", name, "1") for name in ("first", "second", "third", "last")}
    assert [status and status.phase for status in phases.values()] == ["synced", "failed", "failed", "synced"]
    assert phases["second"] is not None
    assert "x is damaged" in phases["second"].reason
    assert stream.getvalue().count('"failed"') == 2


def test_retain(tmp_path: Path) -> None:
    """Syncing version after version keeps the desired bundle and the one that was desired before it."""
    for version in ["1", "2", "3", "1", "4"]:
        write_files(tmp_path / version, published({"v": version.encode()}))
        desired = spec(f"file://{tmp_path}/{version}", version)
        assert sync_all((desired,), tmp_path / "volume", 2, Report(io.StringIO()))
    left = {path.name for path in (tmp_path / "volume/digits").iterdir()}
    assert left == {"1", "4", ".staging", ".status"}


def test_status_while_syncing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status on the volume shows the bytes so far of how many, and only ever grows, until it is synced."""
    monkeypatch.setattr("loader.report.STATUS_EVERY_SECONDS", 0.0)
    seen: list[tuple[str, int, int]] = []
    lock = threading.Lock()

    class Watching(MemorySource):
        def _read(self, stored: StoredObject, start: int, end: int) -> bytes:
            with lock:
                if status := read_sync_status(tmp_path, "digits", "1"):
                    seen.append((status.phase, status.bytes, status.total_bytes))
            return super()._read(stored, start, end)

    source = Watching(published({"model.pkl": os.urandom(60 * CHUNK)}, CHUNK))
    source.slow = 0.002
    run(source, tmp_path)
    status = read_sync_status(tmp_path, "digits", "1")
    assert status is not None
    assert (status.phase, status.bytes, status.total_bytes) == ("synced", 60 * CHUNK, 60 * CHUNK)
    assert {(name, total) for name, _, total in seen} == {("syncing", 60 * CHUNK)}
    assert len({count for _, count, _ in seen}) > 5
    assert [count for _, count, _ in seen] == sorted(count for _, count, _ in seen)


faults = st.fixed_dictionaries(
    {
        "breaks": st.dictionaries(st.integers(0, 6), st.integers(1, 40), max_size=3),
        "truncates": st.dictionaries(st.integers(0, 6), st.integers(1, 4), max_size=2),
        "flips": st.dictionaries(st.integers(0, 6), st.integers(1, 4), max_size=2),
        "replace_after": st.dictionaries(st.integers(0, 6), st.integers(0, 5), max_size=1),
        "vanish_after": st.dictionaries(st.integers(0, 6), st.integers(0, 5), max_size=1),
    }
)
bundles = st.dictionaries(
    st.sampled_from(["model.pkl", "a/one", "a/two", "b/c/d", "model.yaml", "z"]), st.binary(max_size=400), min_size=1
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bundles, st.integers(5, 100), st.booleans(), st.integers(0, 5), st.lists(faults, min_size=1, max_size=3))
def test_any_faults(
    impatient: None,
    files: dict[str, bytes],
    chunk_size: int,
    plain: bool,
    list_breaks: int,
    runs: list[dict[str, dict[int, int]]],
) -> None:
    """Under any faults the bundle is there, whole and right, or has no final name; a run without faults ends right."""
    objects = files if plain else published(files, chunk_size)
    names = sorted(objects)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for fault in runs:
            source = MemorySource(objects)
            source.list_breaks = list_breaks
            for kind, struck in fault.items():
                getattr(source, kind).update({names[index % len(names)]: count for index, count in struck.items()})
            with contextlib.suppress(PantryError):
                run(source, root)
                assert final(root).is_dir()
            if final(root).exists():
                assert assets_on(final(root)) == files
        run(MemorySource(objects), root)
        assert assets_on(final(root)) == files
        assert verify(final(root), Report(io.StringIO()))


@pytest.fixture(name="large", scope="module")
def large_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published bundle of many small chunks, which takes a moment to sync."""
    randomness = random.Random(1)
    files = {f"{number}/part": randomness.randbytes(1_000_000) for number in range(6)} | {"model.pkl": pickle.dumps(1)}
    return write_files(tmp_path_factory.mktemp("large"), published(files, 2048))


def check_whole(root: Path, large: Path) -> None:
    assert read_files(final(root)) == read_files(large)
    assert list((root / "digits" / ".staging").iterdir()) == []


@pytest.mark.parametrize("count", [2, 5])
def test_concurrent_processes(tmp_path: Path, large: Path, count: int) -> None:
    """Several syncs of one version at once, as real processes, all end right, and nothing is left over."""
    models, root = write_models(tmp_path / "models.yaml", digits(large)), tmp_path / "volume"
    processes = [start_pantry("sync", "--models", models, "--volume", root) for _ in range(count)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    check_whole(root, large)


def test_concurrent_processes_continue_a_killed_one(tmp_path: Path, large: Path) -> None:
    """Several runs that find what a killed one left share it out without harm."""
    models, root = write_models(tmp_path / "models.yaml", digits(large)), tmp_path / "volume"
    with start_pantry("sync", "--models", models, "--volume", root) as process:
        deadline = time.monotonic() + 30
        while not any(root.glob("digits/.staging/*/1/part")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    processes = [start_pantry("sync", "--models", models, "--volume", root) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, outputs
    check_whole(root, large)


def test_killed_at_any_moment(tmp_path: Path, large: Path) -> None:
    """A sync that is killed with SIGKILL ten times, at random moments, has no half bundle, and a plain run ends it."""
    models, root = write_models(tmp_path / "models.yaml", digits(large)), tmp_path / "volume"
    began = time.monotonic()
    assert pantry("sync", "--models", models, "--volume", tmp_path / "other")[0] == 0
    takes = time.monotonic() - began
    for _ in range(10):
        with start_pantry("sync", "--models", models, "--volume", root) as process:
            time.sleep(random.uniform(0.3, 1.0) * takes)
            process.kill()
        if final(root).exists():
            assert read_files(final(root)) == read_files(large)
            if random.random() < 0.5:
                shutil.rmtree(final(root))
    code, events = pantry("sync", "--models", models, "--volume", root)
    assert (code, events[-1]["phase"]) == (0, "synced")
    check_whole(root, large)


def test_terminated(tmp_path: Path, large: Path) -> None:
    """SIGTERM ends a sync at once with exit status 1, and the next run goes on from what is there."""
    models, root = write_models(tmp_path / "models.yaml", digits(large)), tmp_path / "volume"
    with start_pantry("sync", "--models", models, "--volume", root) as process:
        deadline = time.monotonic() + 30
        while not any(root.glob("digits/.staging/*/0/part")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "stopped; what has arrived is kept" in errors
    assert "Traceback" not in errors
    assert pantry("sync", "--models", models, "--volume", root)[0] == 0
    check_whole(root, large)


def test_digest_of_a_whole_bundle_is_its_identity(tmp_path: Path) -> None:
    """The digest that a bundle has on the volume can be pinned, for a plain prefix too."""
    source = MemorySource(FILES)
    run(source, tmp_path)
    digest = digest_of((final(tmp_path) / "manifest.json").read_bytes())
    run(MemorySource({}), tmp_path, spec(digest=digest))
