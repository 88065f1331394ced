"""https:// and http:// against web servers on loopback: one with byte ranges, and Python's own, which has none."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import ipaddress
import os
import pickle
import re
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from loader import retry
from loader.bundle.bundle import Bundle
from loader.bundle.errors import DigestMismatch, ManifestInvalid
from loader.bundle.manifest import MAX_MANIFEST_BYTES
from loader.errors import (
    AccessDenied,
    ObjectNotFound,
    SignatureInvalid,
    SourceError,
    SourceUnavailable,
    UsageError,
    WrongAnswer,
)
from loader.publish import publish
from loader.report import Report
from loader.signatures.keys import load_private_key, load_public_keys
from loader.sources import StoredObject, open_source
from loader.sync import sync
from tests.sources import (
    assets_on,
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

FILES = {
    "model.pkl": pickle.dumps(list(range(3000))),
    "a/table é.npy": os.urandom(2500),
    "empty": b"",
    "+a b%20'()*!~=&#?": b"x",
}
FOLDER = "/models/digits/1/"


class Web(ThreadingHTTPServer):
    """A web server that answers GET, and no HEAD, with ranges of files in memory.

    Attributes:
        files: contents by path below FOLDER.
        asks: path and headers of every request.
        moved: bytes of files that were sent.
        answering: requests that are being answered.
        slow: seconds before every answer.
        refuse: statuses of the next answers.
        denies: paths below FOLDER that are answered with 403.
        token: what a request must show, if anything.
        redirects: where requests are sent to instead.
        encoding: the Content-Encoding that answers claim.
        size: what answers say of a file's size, if not what it is.
    """

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.lock = threading.Lock()
        self.files: dict[str, bytes] = {}
        self.asks: list[tuple[str, dict[str, str]]] = []
        self.moved = self.answering = 0
        self.slow = 0.0
        self.refuse: list[int] = []
        self.denies: set[str] = set()
        self.token = self.redirects = self.encoding = self.size = ""
        self.uri = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}{FOLDER}".rstrip("/")

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up or are killed are what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        web = self.server
        with web.lock:
            web.answering += 1
        time.sleep(web.slow)
        try:
            self.answer(web)
        finally:
            with web.lock:
                web.answering -= 1

    def answer(self, web: Web) -> None:
        name = unquote(urlsplit(self.path).path).removeprefix(FOLDER)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        with web.lock:
            web.asks.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
            refused = web.refuse.pop(0) if web.refuse else 0
        data = web.files.get(name)
        if refused or name in web.denies:
            self.send(refused or 403)
        elif web.redirects:
            self.send(302, {"Location": web.redirects + self.path})
        elif web.token and self.headers.get("Authorization") != f"Bearer {web.token}":
            self.send(401)
        elif data is None:
            self.send(404)
        elif asked is None:
            self.send(200, {}, data)
        elif int(asked[1]) >= len(data):
            self.send(416)
        else:
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{web.size or len(data)}"}
            self.send(206, headers | ({"Content-Encoding": web.encoding} if web.encoding else {}), data[start:end])

    def send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        with self.server.lock:  # first: a client that has the last byte may look at once
            self.server.moved += len(body)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """Serve until the end of the block."""
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, the usual authorities, and retries that follow soon."""
    for name in ("PANTRY_HTTPS_TOKEN", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(retry, "GIVE_UP_AFTER_SECONDS", 5.0)


@pytest.fixture(name="web")
def web_server() -> Iterator[Web]:
    web = Web()
    with serving(web):
        yield web


def private_authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that is its own authority, with its key in one file, and a server's use of it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pantry test")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, context = folder / "certificate.pem", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    context.load_cert_chain(path)
    return path, context


def run(uri: str, root: Path) -> None:
    sync(spec(uri), root, progress_of(root))


def test_published_bundle(web: Web, tmp_path: Path) -> None:
    """What publish wrote to a directory syncs from a web server that serves it as it is, under the same digest."""
    store = tmp_path / "store"
    digest = publish(write_files(tmp_path / "source", FILES), f"file://{store}", Report(), pack=False)
    web.files = read_files(store)
    sync(spec(web.uri, digest=digest), tmp_path / "volume", progress_of(tmp_path / "volume"))
    assert assets_on(final(tmp_path / "volume")) == FILES
    assert Bundle.open(final(tmp_path / "volume")).digest == digest


@pytest.mark.parametrize("slash", ["", "/"])
def test_listing(web: Web, slash: str) -> None:
    """The manifest is the listing: itself and its assets with their sizes. No more than two files are looked at."""
    web.files = {**published(FILES), "beside it": b"x"}
    listed = open_source(web.uri + slash).list()
    expected = {"manifest.json": len(web.files["manifest.json"])} | {name: len(data) for name, data in FILES.items()}
    assert {item.name: item.size for item in listed} == expected
    assert {item.generation for item in listed} == {""}
    assert {path.rpartition("/")[2] for path, _ in web.asks} == {"manifest.json", "model.sig"}


def test_listing_of_a_signed_bundle(web: Web) -> None:
    """A signature is listed where there is one; a server that denies what is not there has none."""
    web.files = {**published(FILES), "model.sig": b"signature"}
    assert StoredObject("model.sig", 9, "") in open_source(web.uri).list()
    web.denies = {"model.sig"}
    assert "model.sig" not in {item.name for item in open_source(web.uri).list()}


def test_one_object(web: Web) -> None:
    """It is found by its name alone, beside names that begin alike; what is not there is named."""
    web.files = FILES
    some = {name: data for name, data in FILES.items() if data}  # of the others byte 0 is not there, which is asked for
    assert list(found_by_name(web.uri, map(quote, some)).values()) == list(some.values())
    with pytest.raises(ObjectNotFound, match="model.pk"):
        found_by_name(web.uri, ["model.pk"])
    with pytest.raises(ObjectNotFound, match="HTTP 416: empty, or replaced"):
        found_by_name(web.uri, (quote(name) for name, data in FILES.items() if not data))


def test_read_ranges(web: Web) -> None:
    """Any range of a file is read as it is, whatever its name."""
    web.files = published(FILES)
    source = open_source(web.uri)
    stored = {item.name: item for item in source.list()}
    data = FILES["a/table é.npy"]
    for start, end in [(0, len(data)), (0, 1), (7, 1000), (len(data) - 1, len(data))]:
        assert read_range(source, stored["a/table é.npy"], start, end) == data[start:end]
    assert read_range(source, stored["+a b%20'()*!~=&#?"], 0, 1) == b"x"


def test_second_run_moves_nothing(web: Web, tmp_path: Path) -> None:
    """A second run reads the manifest and no byte of an asset."""
    web.files = published(FILES, 1000)
    run(web.uri, tmp_path)
    web.asks.clear()
    run(web.uri, tmp_path)
    assert {path.rpartition("/")[2] for path, _ in web.asks} == {"manifest.json", "model.sig"}


def test_without_a_manifest(web: Web, tmp_path: Path) -> None:
    """A folder without a manifest cannot be listed; the sentence says how to make one."""
    web.files = FILES
    with pytest.raises(ObjectNotFound, match=r"has no manifest\.json.*HTTP 404.*`pantry publish DIR file:///"):
        run(web.uri, tmp_path)


def test_a_server_without_ranges(tmp_path: Path) -> None:
    """Python's own web server gives whole files only: that is said at once, and nothing is moved."""
    write_files(tmp_path / "store", published({"model.pkl": bytes(100_000)}))
    handler = functools.partial(Silent, directory=str(tmp_path / "store"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with serving(server), pytest.raises(WrongAnswer, match="the whole object came.*ignores Range"):
        run(f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "volume")


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("manifest", "kind", "says"),
    [
        (b"<html>Welcome</html>", ManifestInvalid, "is not a bundle's manifest"),
        (b'{"assets": [{"path": "../x", "size": 1, "digest": "sha256:0"}]}', ManifestInvalid, "'..' part"),
        (b"", ObjectNotFound, "has no manifest"),
    ],
)
def test_a_manifest_that_is_none(web: Web, tmp_path: Path, manifest: bytes, kind: type[Exception], says: str) -> None:
    """A manifest that is a page, hostile or empty ends in a sentence."""
    web.files = {"manifest.json": manifest}
    with pytest.raises(kind, match=says):
        run(web.uri, tmp_path)


@pytest.mark.parametrize(("size", "says"), [(str(MAX_MANIFEST_BYTES + 1), "expected at most"), ("*", "tells no size")])
def test_a_manifest_of_no_good_size(web: Web, size: str, says: str) -> None:
    """A manifest that is too long, or of a length that nobody tells, is not read."""
    web.files, web.size = published(FILES), size
    with pytest.raises(WrongAnswer, match=says):
        open_source(web.uri).list()
    assert web.moved == 1


@pytest.mark.parametrize("change", ["replaced", "shorter", "gone"])
def test_changed_in_mid_sync(web: Web, tmp_path: Path, change: str) -> None:
    """A file that changes while it is synced fails the run: its digests decide. Never a mixture."""
    chunk = 50_000
    files = {"a": b"a", "b": os.urandom(40 * chunk)}
    web.files, web.slow = published(files, chunk), 0.05
    failures: list[Exception] = []

    def synced() -> None:
        try:
            run(web.uri, tmp_path)
        except (DigestMismatch, SourceError) as error:
            failures.append(error)

    thread = threading.Thread(target=synced)
    thread.start()
    while thread.is_alive() and web.moved < 10 * chunk:
        time.sleep(0.002)
    if change == "gone":
        del web.files["b"]
    else:
        web.files["b"] = os.urandom((40 if change == "replaced" else 5) * chunk)
    thread.join()
    assert failures
    assert getattr(failures[0], "hint", "")
    assert not final(tmp_path).exists()


def test_killed_sync_continues(web: Web, tmp_path: Path) -> None:
    """A `pantry sync` that is killed in mid-download is continued by the same command: only the rest is fetched."""
    chunk = 50_000
    files = {"model.pkl": os.urandom(60 * chunk), "table.npy": os.urandom(20 * chunk)}
    web.files, web.slow = published(files, chunk), 0.1
    models, volume = write_models(tmp_path / "models.yaml", digits(web.uri)), tmp_path / "volume"
    landed = kill_midway(models, volume, lambda: web.moved >= 40 * chunk)
    while web.answering:  # what the killed process had asked for
        time.sleep(0.005)
    web.slow, web.moved = 0.0, 0
    code, events = pantry("sync", "--models", models, "--volume", volume)
    assert code == 0, events
    assert assets_on(final(volume)) == files
    manifest = 1 + 2 * len(web.files["manifest.json"])  # a byte for its size, once as the listing, once as what counts
    assert web.moved == sum(map(len, files.values())) - landed * chunk + manifest


def test_a_storm_of_refusals(web: Web, tmp_path: Path) -> None:
    """A server that is overloaded for a while delays a sync, and that is all."""
    web.files, web.refuse = published(FILES, 1000), [503, 500, 429, 502, 503]
    run(web.uri, tmp_path)
    assert assets_on(final(tmp_path)) == FILES


def test_token(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that wants to know who asks gets the token from the environment; without it, the sentence names it."""
    web.files, web.token = published(FILES), "secret-7"
    with pytest.raises(AccessDenied, match="HTTP 401.*Set PANTRY_HTTPS_TOKEN"):
        open_source(web.uri).list()
    monkeypatch.setenv("PANTRY_HTTPS_TOKEN", "secret-8\n")
    with pytest.raises(AccessDenied, match="HTTP 401") as raised:
        open_source(web.uri).list()
    assert "secret" not in str(raised.value)
    monkeypatch.setenv("PANTRY_HTTPS_TOKEN", "secret-7\n")
    assert open_source(web.uri).list()


def test_token_is_for_one_server(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a server redirects to another one, the bytes are read there and the token is not shown."""
    monkeypatch.setenv("PANTRY_HTTPS_TOKEN", "secret-7")
    web.files, first = published(FILES), Web()
    first.redirects = web.uri.removesuffix(FOLDER.rstrip("/"))
    with serving(first):
        run(first.uri, tmp_path)
    assert assets_on(final(tmp_path)) == FILES
    assert all(headers.get("authorization") == "Bearer secret-7" for _, headers in first.asks)
    assert not any("authorization" in headers for _, headers in web.asks)


@pytest.mark.parametrize("token", ["two\nlines", "Ω"])
def test_a_token_that_is_none(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """What cannot be in a header is refused, and not repeated."""
    monkeypatch.setenv("PANTRY_HTTPS_TOKEN", token)
    with pytest.raises(UsageError, match="PANTRY_HTTPS_TOKEN holds what is no token") as raised:
        open_source("https://host/x")
    assert token not in str(raised.value)


def test_compression_is_refused(web: Web, tmp_path: Path) -> None:
    """Files are asked for as they are; a server that compresses them all the same is named as the cause."""
    web.files, web.encoding = published(FILES), "gzip"
    with pytest.raises(WrongAnswer, match="Content-Encoding 'gzip'.*without compression"):
        run(web.uri, tmp_path)
    assert {headers["accept-encoding"] for _, headers in web.asks} == {"identity"}


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """A private authority is trusted where a variable names it."""
    certificate, context = private_authority(tmp_path)
    monkeypatch.setenv(variable, str(certificate))
    web = Web(context)
    web.files = published(FILES)
    with serving(web):
        run(web.uri, tmp_path / "volume")
    assert assets_on(final(tmp_path / "volume")) == FILES


def test_untrusted_certificate(tmp_path: Path) -> None:
    """A certificate that nobody vouches for ends the sync at once: asking again gets the same one."""
    web = Web(private_authority(tmp_path)[1])
    with serving(web), pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED.*REQUESTS_CA_BUNDLE"):
        run(web.uri, tmp_path / "volume")
    assert web.asks == []


def test_unreachable_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that cannot be reached is worth another try, and given up with a sentence."""
    monkeypatch.setattr(retry, "GIVE_UP_AFTER_SECONDS", 0.05)
    with pytest.raises(SourceUnavailable, match=r"http://127\.0\.0\.1:1/x/manifest\.json.*refused"):
        run("http://127.0.0.1:1/x", tmp_path)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("https://me:hush@host/m/1", "'?https://host/m/1'? carries a name or a password.*PANTRY_HTTPS_TOKEN"),
        ("https://hush@host/m/1", "carries a name or a password"),
        ("https://host/m/1?key=hush", "https://host/m/1 has a query or a fragment"),
        ("https://host/m/1#hush", "has a query or a fragment"),
        ("https://me:hush@host:port/m", "'https://host:port/m' is no address"),
        ("https://me:hush@[host/m", "is no address"),
        ("https://host:0/m", "is no address"),
        ("https://host:99999/m", "is no address"),
        ("https:///m", "is no address"),
        ("https://", "is no address"),
        ("https://host/a b", "is no address"),
        ("https://host/a\nb", "is no address"),
        ("http://host/m/1", "is not encrypted.*Use https://"),
        ("http://127.0.0.1.host/m/1", "is not encrypted"),
        ("ftp://host/m/1", "gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, https://HOST/FOLDER or file:///DIRECTORY"),
        ("s3://B/x", "is of no kind that Pantry reads"),
    ],
)
def test_addresses_that_are_refused(uri: str, says: str) -> None:
    """An address that is none, that goes unencrypted, or that would carry a secret into logs, is refused unrepeated."""
    with pytest.raises(UsageError, match=says) as raised:
        open_source(uri)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    "uri", ["https://host", "https://host:8443/a/b@c", "http://localhost:80/x", "http://[::1]:80/x", "https://host/ü"]
)
def test_addresses_that_are_taken(uri: str) -> None:
    """Any folder of any host is an address; this machine may be asked without TLS."""
    assert open_source(uri).uri == uri


def test_it_cannot_be_written(web: Web) -> None:
    """Nothing is published to a web server; the sentence says where to."""
    with pytest.raises(UsageError, match=r"can only be read.*gs://, s3:// or file://"):
        open_source(web.uri).create("model.pkl", b"x")
    assert web.asks == []


def test_signed_bundle(web: Web, tmp_path: Path) -> None:
    """A signature is checked as from any store: the right key syncs, a bundle without one does not."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    store = tmp_path / "models" / "digits" / "1"
    signer, keys = load_private_key(private), load_public_keys([public])
    publish(write_files(tmp_path / "source", FILES), f"file://{store}", Report(), key=signer, pack=False)
    web.files, volume = read_files(store), tmp_path / "volume"
    sync(spec(web.uri), volume, progress_of(volume), keys=keys)
    assert read_files(final(volume)).keys() == {*FILES, "manifest.json", "model.sig"}
    del web.files["model.sig"]
    with pytest.raises(SignatureInvalid, match=r"has no model\.sig"):
        sync(spec(web.uri, version="2"), volume, progress_of(volume, "2"), keys=keys)
