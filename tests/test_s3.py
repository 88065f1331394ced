"""s3:// against a real object store on loopback: moto's server, through the client library of production."""

from __future__ import annotations

import os
import pickle
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs
from uuid import uuid4

import botocore.session
import pytest
from moto import settings
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

from loader import retry
from loader.bundle.bundle import Bundle
from loader.errors import AccessDenied, Immutable, LoaderError, ObjectNotFound, SourceError, SourceUnavailable
from loader.publish import publish
from loader.report import Report
from loader.sources import open_source, s3
from loader.sources.s3 import S3Source
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
    read_range,
    spec,
    write_files,
    write_models,
)
from tests.test_https import private_authority

FILES = {
    "model.pkl": pickle.dumps(list(range(3000))),
    "a/table é.npy": os.urandom(2500),
    "empty": b"",
    "+a b%20'()*!~=&#?": b"x",
}
MIB = 1024 * 1024
ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>So it is.</Message></Error>'


class Store:
    """Moto's S3 on a socket, as a WSGI application that counts, and refuses where a test says so.

    Attributes:
        moved: bytes of objects that were read.
        uploads: requests that wrote.
        reading: reads that are being answered.
        region: what listings say of the bucket's region, where they say it.
        scopes: what the URLs of reads were signed for: key, day, region, service.
        slow: seconds that every read of an object takes.
        refuse: the error codes, with their statuses, of the next answers to a listing or a read.
        says: the bodies of the next answers to a listing.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._moto, self._lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet, ssl_context=tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self.behave()

    def behave(self) -> None:
        self.moved = self.uploads = self.reading = 0
        self.scopes: set[str] = set()
        self.slow, self.region = 0.0, ""
        self.refuse: list[tuple[int, str]] = []
        self.says: list[bytes] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        query = parse_qs(environ["QUERY_STRING"])
        reads, lists = "X-Amz-Signature" in query, "list-type" in query
        with self._lock:
            self.uploads += environ["REQUEST_METHOD"] in ("PUT", "POST")
            self.reading += reads
            self.scopes |= set(query.get("X-Amz-Credential", ()))
            refused = self.refuse.pop(0) if self.refuse and (reads or lists) else None
            said = self.says.pop(0) if self.says and lists else None
        if reads and self.slow:
            time.sleep(self.slow)
        if refused or said is not None:
            body = ERROR.format(refused[1]).encode() if refused else said or b""
            start(f"{refused[0] if refused else 200} So", [("Content-Length", str(len(body)))])
        else:
            body = self._true(environ, start, [("x-amz-bucket-region", self.region)] if lists and self.region else [])
        with self._lock:
            self.moved += len(body) if reads and not refused else 0
            self.reading -= reads
        return [body]

    def _true(self, environ: dict[str, Any], start: Callable[..., Any], more: list[tuple[str, str]]) -> bytes:
        answer = self._moto(environ, lambda status, headers, error=None: start(status, [*headers, *more], error))
        try:
            return b"".join(answer)
        finally:
            getattr(answer, "close", lambda: None)()


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(name="server", scope="module")
def object_store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture(name="store", autouse=True)
def reached_as_any_other(server: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """The client finds the store as it finds any that is not Amazon's; retries follow soon."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(retry, "GIVE_UP_AFTER_SECONDS", 5.0)
    server.behave()
    return server


@pytest.fixture(name="client", scope="module")
def plain_client(server: Store) -> Any:
    return botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )


@pytest.fixture(name="bucket")
def new_bucket(client: Any) -> str:
    name = f"test-{uuid4().hex}"
    client.create_bucket(Bucket=name)
    return name


Put = Callable[..., str]


@pytest.fixture(name="put")
def uploader(client: Any, bucket: str) -> Put:
    """Uploads objects, and returns the storageUri of their prefix."""

    def put(objects: dict[str, bytes], prefix: str = "models/digits/1/") -> str:
        for name, data in objects.items():
            client.put_object(Bucket=bucket, Key=prefix + name, Body=data)
        return f"s3://{bucket}/{prefix}".rstrip("/")

    return put


def run(uri: str, root: Path) -> None:
    sync(spec(uri), root, progress_of(root))


def test_listing(bucket: str, client: Any, put: Put) -> None:
    """A listing has every object below the prefix with its size and ETag, and nothing beside it."""
    put(FILES)
    put({"10/other": b"", "2/other": b"", "1x/other": b""}, "models/digits/")
    listed = S3Source(bucket, "models/digits/1").list()
    assert {item.name: item.size for item in listed} == {name: len(data) for name, data in FILES.items()}
    for item in listed:
        head = client.head_object(Bucket=bucket, Key=f"models/digits/1/{item.name}")
        assert head["ETag"] == f'"{item.generation}"'


def test_listing_of_many_pages(bucket: str) -> None:
    """A prefix of more objects than one answer has is listed whole."""
    names = [f"words/{number:05} é" for number in range(2500)]
    for name in names:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, f"m/1/{name}", b"x")
    assert [item.name for item in S3Source(bucket, "m/1").list()] == names


def test_one_object(put: Put) -> None:
    """It is found by its name alone, beside names that begin alike; what is not there is named."""
    uri = put({**FILES, "empty1": b"x"})
    assert found_by_name(uri, FILES) == FILES
    with pytest.raises(ObjectNotFound, match="model.pk"):
        found_by_name(uri, ["model.pk"])


def test_read_ranges(bucket: str, put: Put) -> None:
    """Any range of an object is read as it is, whatever its name."""
    put(FILES)
    source = S3Source(bucket, "models/digits/1")
    stored = {item.name: item for item in source.list()}
    data = FILES["a/table é.npy"]
    for start, end in [(0, len(data)), (0, 1), (7, 1000), (len(data) - 1, len(data))]:
        assert read_range(source, stored["a/table é.npy"], start, end) == data[start:end]
    assert read_range(source, stored["+a b%20'()*!~=&#?"], 0, 1) == b"x"


def test_pinned_content(bucket: str, put: Put) -> None:
    """A read of an object that was replaced since the listing is refused: never the new bytes for the old."""
    put({"model.pkl": b"old"})
    source = S3Source(bucket, "models/digits/1")
    (stored,) = source.list()
    put({"model.pkl": b"new"})
    with pytest.raises(ObjectNotFound, match="replaced since it was listed"):
        read_range(source, stored, 0, 3)
    (again,) = source.list()
    assert read_range(source, again, 0, 3) == b"new"


def test_published_bundle(bucket: str, tmp_path: Path) -> None:
    """Publish to a bucket and sync from it bring the same files to the volume, under the same digest."""
    uri = f"s3://{bucket}/models/digits/1"
    digest = publish(write_files(tmp_path / "source", FILES), uri, Report(), pack=False)
    sync(spec(uri, digest=digest), tmp_path / "volume", progress_of(tmp_path / "volume"))
    assert assets_on(final(tmp_path / "volume")) == FILES
    assert Bundle.open(final(tmp_path / "volume")).digest == digest


@pytest.mark.parametrize("prefix", ["models/digits/1/", ""])
def test_plain_prefix(bucket: str, put: Put, tmp_path: Path, prefix: str) -> None:
    """A prefix without a manifest, or a whole bucket, is synced with its ETags pinned."""
    uri = put(FILES, prefix)
    run(uri, tmp_path)
    assert assets_on(final(tmp_path)) == FILES
    pins = {item.path: item.pin and item.pin.generation for item in Bundle.open(final(tmp_path)).manifest.assets}
    assert pins == {item.name: item.generation for item in S3Source(bucket, prefix.rstrip("/")).list()}


@pytest.mark.parametrize("plain", [True, False])
def test_second_run_moves_nothing(store: Store, put: Put, tmp_path: Path, plain: bool) -> None:
    """A second run fetches no byte of an asset."""
    objects = FILES if plain else published(FILES, 1000)
    uri = put(objects)
    run(uri, tmp_path)
    assert store.moved == sum(map(len, objects.values()))
    store.moved = 0
    run(uri, tmp_path)
    assert store.moved == (0 if plain else len(objects["manifest.json"]))


def test_folder_markers(put: Put, tmp_path: Path) -> None:
    """The empty objects that consoles make for folders are no files of the model."""
    run(put({**FILES, "": b"", "a/": b"", "empty folder/": b""}), tmp_path)
    assert assets_on(final(tmp_path)) == FILES


def test_replaced_in_mid_sync(store: Store, put: Put, tmp_path: Path) -> None:
    """An object that is replaced while it is synced fails the run; never a mixture. The next run has the new one."""
    old, new = os.urandom(20 * MIB), os.urandom(20 * MIB)
    uri = put({"a": old[:1000], "b": old})
    store.slow = 0.5
    failures: list[Exception] = []

    def synced() -> None:
        try:
            run(uri, tmp_path)
        except ObjectNotFound as error:
            failures.append(error)

    thread = threading.Thread(target=synced)
    thread.start()
    while thread.is_alive() and not any(tmp_path.glob("digits/.staging/*/b")):
        time.sleep(0.005)
    put({"b": new})
    thread.join()
    assert "replaced since it was listed" in str(failures[0])
    assert not final(tmp_path).exists()
    store.slow = 0
    run(uri, tmp_path)
    assert assets_on(final(tmp_path)) == {"a": old[:1000], "b": new}


def test_killed_sync_continues(store: Store, put: Put, tmp_path: Path) -> None:
    """A `pantry sync` that is killed in mid-download is continued by the same command: only the rest is fetched."""
    chunk = 50_000
    files = {"model.pkl": os.urandom(60 * chunk), "table.npy": os.urandom(20 * chunk)}
    objects = published(files, chunk)
    models, volume = write_models(tmp_path / "models.yaml", digits(put(objects))), tmp_path / "volume"
    store.slow = 0.1
    landed = kill_midway(models, volume, lambda: store.moved >= 40 * chunk)
    while store.reading:  # what the killed process had asked for
        time.sleep(0.005)
    store.slow, store.moved = 0.0, 0
    code, events = pantry("sync", "--models", models, "--volume", volume)
    assert code == 0, events
    assert assets_on(final(volume)) == files
    assert store.moved == sum(map(len, files.values())) - landed * chunk + len(objects["manifest.json"])


def test_publish_again(bucket: str, store: Store, tmp_path: Path) -> None:
    """Publishing the same content again uploads nothing; other content is refused."""
    source, uri = write_files(tmp_path / "source", FILES), f"s3://{bucket}/models/digits/1"
    digest = publish(source, uri, Report(), pack=False)
    uploads = store.uploads
    assert publish(source, uri, Report(), pack=False) == digest
    (source / "model.pkl").write_bytes(pickle.dumps("other"))
    with pytest.raises(Immutable, match="holds another bundle"):
        publish(source, uri, Report(), pack=False)
    assert store.uploads == uploads


def test_broken_publish_continues(bucket: str, put: Put, tmp_path: Path) -> None:
    """A publish that was killed leaves no bundle that syncs; publishing again completes it."""
    uri = put({".publishing": b"", "empty": b"", "model.pkl": FILES["model.pkl"]})
    with pytest.raises(ObjectNotFound, match="being published and not whole yet"):
        run(uri, tmp_path / "volume")
    publish(write_files(tmp_path / "source", FILES), uri, Report(), pack=False)
    run(uri, tmp_path / "volume")
    assert assets_on(final(tmp_path / "volume")) == FILES


def test_create_replaces_nothing(bucket: str, put: Put, client: Any, tmp_path: Path) -> None:
    """An object that exists is never written over, be it as bytes, as a file, or as a file in parts."""
    put({"there": b"old"}, "m/1/")
    big = write_files(tmp_path, {"big": os.urandom(1000)}) / "big"
    source = S3Source(bucket, "m/1")
    with pytest.raises(Immutable, match="exists already"):
        source.create("there", b"new")
    with pytest.raises(Immutable, match="exists already"):
        source.create("there", big)
    assert client.get_object(Bucket=bucket, Key="m/1/there")["Body"].read() == b"old"


def test_create_in_parts(bucket: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A big file goes up in parts and appears whole, once; a second upload is refused and leaves no parts behind."""
    monkeypatch.setattr(s3, "_PART_SIZE", 5 * MIB)
    data = os.urandom(12 * MIB + 7)
    path = write_files(tmp_path, {"big": data}) / "big"
    source = S3Source(bucket, "m/1")
    source.create("big", path)
    (stored,) = source.list()
    assert stored.generation.endswith("-3")  # as S3 marks what came in three parts
    assert read_range(source, stored, 0, len(data)) == data
    path.write_bytes(bytes(12 * MIB))
    with pytest.raises(Immutable, match="exists already"):
        source.create("big", path)
    assert source.list() == [stored]
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_bucket_of_another_region(store: Store, client: Any, bucket: str) -> None:
    """A bucket that the store redirects to its region is listed and read there, with no region set."""
    name = f"{bucket}-far"
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client.put_object(Bucket=name, Key="m/1/a", Body=b"x")
    store.refuse, store.region = [(301, "PermanentRedirect")], "eu-west-1"  # as S3 says it; moto does not
    source = S3Source(name, "m/1")
    (stored,) = source.list()
    assert read_range(source, stored, 0, 1) == b"x"
    assert [scope.split("/")[2] for scope in store.scopes] == ["eu-west-1"]


def test_missing_bucket(tmp_path: Path) -> None:
    """A bucket that does not exist is reported at once."""
    with pytest.raises(ObjectNotFound, match="s3://test-no-such-bucket/x: listing it: NoSuchBucket"):
        run("s3://test-no-such-bucket/x", tmp_path)


def test_missing_prefix(bucket: str, tmp_path: Path) -> None:
    """A prefix without objects is reported with what to check."""
    with pytest.raises(ObjectNotFound, match="models/digits/2 holds no objects"):
        run(f"s3://{bucket}/models/digits/2", tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (403, "AccessDenied", AccessDenied, "Grant the identity that syncs s3:ListBucket"),
        (403, "AllAccessDisabled", AccessDenied, "Grant the identity"),
        (400, "ExpiredToken", AccessDenied, "Renew the credentials"),
        (403, "InvalidAccessKeyId", AccessDenied, "Check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", AccessDenied, "Check AWS_ACCESS_KEY_ID"),
        (403, "RequestTimeTooSkewed", AccessDenied, "Correct the clock"),
        (400, "AuthorizationHeaderMalformed", SourceError, "Set AWS_REGION"),
        (400, "SomethingNew", SourceError, "Check the storageUri"),
        (503, "SlowDown", SourceUnavailable, ""),
        (500, "InternalError", SourceUnavailable, ""),
        (429, "TooManyRequests", SourceUnavailable, ""),
    ],
)
def test_refused_listing(
    store: Store, bucket: str, status: int, code: str, kind: type[LoaderError], advice: str
) -> None:
    """Every refusal of a listing is one sentence with what to do, or worth another try."""
    store.refuse = [(status, code)]
    with pytest.raises(kind, match=code) as raised:
        S3Source(bucket, "m/1").list()
    assert raised.type is kind
    assert raised.value.hint.startswith(advice)


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (403, "AccessDenied", AccessDenied, "Grant the identity that syncs s3:ListBucket"),
        (400, "ExpiredToken", AccessDenied, "Renew the credentials"),
        (400, "SomethingNew", SourceError, "Check the storageUri"),
        (404, "NoSuchKey", ObjectNotFound, "Check the address"),
        (503, "SlowDown", SourceUnavailable, ""),
    ],
)
def test_refused_read(
    store: Store, bucket: str, put: Put, status: int, code: str, kind: type[LoaderError], advice: str
) -> None:
    """So is every refusal of a read, which never shows the address that was signed."""
    put({"a": b"x"}, "m/1/")
    source = S3Source(bucket, "m/1")
    (stored,) = source.list()
    store.refuse = [(status, code)]
    with pytest.raises(kind, match=code) as raised:
        read_range(source, stored, 0, 1)
    assert raised.type is kind
    assert raised.value.hint.startswith(advice)
    assert "Signature" not in str(raised.value)


def test_a_storm_of_refusals(store: Store, put: Put, tmp_path: Path) -> None:
    """A store that is overloaded for a while delays a sync, and that is all."""
    uri = put(published(FILES, 1000))
    store.refuse = [(503, "SlowDown"), (500, "InternalError"), (503, "SlowDown")] * 2
    run(uri, tmp_path)
    assert assets_on(final(tmp_path)) == FILES


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"Sign in", b"", b"<ListBucketResult><Contents>"])
def test_a_listing_that_is_none(store: Store, bucket: str, body: bytes, tmp_path: Path) -> None:
    """An answer that is no listing, as of a portal that wants a login, never becomes a bundle."""
    store.says = [body]
    with pytest.raises(SourceError):
        run(f"s3://{bucket}/m/1", tmp_path)
    assert not final(tmp_path).exists()


def test_a_listing_that_never_ends(store: Store, bucket: str) -> None:
    """A store whose pages lead back to an earlier one is reported."""
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
        b"<Contents><Key>m/1/a</Key><Size>1</Size></Contents></ListBucketResult>"
    )
    store.says = [page] * 5
    with pytest.raises(SourceError, match="next token"):
        S3Source(bucket, "m/1").list()


@pytest.mark.parametrize(
    ("environment", "kind", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, AccessDenied, "credentials.*Set AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, AccessDenied, "Partial credentials.*Set AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, AccessDenied, "profile \\(nobody\\).*AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL": "nowhere"}, SourceError, "Invalid endpoint.*AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, SourceUnavailable, "Could not connect"),
        ({"AWS_REGION": "far away"}, SourceError, "far away.*AWS_REGION"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_ROLE_ARN": "arn:x", "AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/token"},
            AccessDenied,
            "/no/such/token.*give the pod's identity a role",
        ),
    ],
)
def test_settings_that_do_not_work(
    bucket: str, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], kind: type[LoaderError], says: str
) -> None:
    """An identity, region or endpoint that is missing or wrong is reported with the variable to set."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    with pytest.raises(kind, match=says) as raised:
        S3Source(bucket, "m/1").list()
    assert raised.type is kind


def test_identity_is_what_the_store_checks(
    store: Store, bucket: str, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real policies decide: a user without one may not list; with one, it may."""
    put({"a": b"x"}, "m/1/")
    iam = botocore.session.get_session().create_client("iam", region_name="us-east-1", endpoint_url=store.url)
    iam.create_user(UserName=bucket)
    key = iam.create_access_key(UserName=bucket)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
    with pytest.raises(AccessDenied, match="AccessDenied"):
        S3Source(bucket, "m/1").list()
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", float("inf"))
    policy = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}}'
    iam.put_user_policy(UserName=bucket, PolicyName="list", PolicyDocument=policy)
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
    assert [item.name for item in S3Source(bucket, "m/1").list()] == ["a"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDenied, match="Check AWS_ACCESS_KEY_ID"):
        S3Source(bucket, "m/1").list()


def test_web_identity(store: Store, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's service account is enough: its token is changed for credentials of a role, which then sign."""
    uri = put(FILES)
    (tmp_path / "token").write_text("eyJhbGciOiJub25lIn0.e30.")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/sync")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    run(uri, tmp_path / "volume")
    assert assets_on(final(tmp_path / "volume")) == FILES
    (scope,) = store.scopes
    assert re.fullmatch(r"ASIA\w+/\d+/eu-west-1/s3/aws4_request", scope)  # ASIA: a key for a while


def test_tls(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private authority, named in a variable, is trusted for listings, reads and uploads alike."""
    certificate, context = private_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    uri = put(FILES)
    with Store(context) as safe:
        monkeypatch.setenv("AWS_ENDPOINT_URL", safe.url)
        run(uri, tmp_path / "volume")
        open_source(uri).create("more", b"x")
    assert assets_on(final(tmp_path / "volume")) == FILES


def test_untrusted_certificate(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for ends the sync at once: asking again gets the same one."""
    with Store(private_authority(tmp_path)[1]) as safe:
        monkeypatch.setenv("AWS_ENDPOINT_URL", safe.url)
        with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED.*REQUESTS_CA_BUNDLE"):
            run(f"s3://{bucket}/m/1", tmp_path / "volume")


def test_no_identity(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of a machine without credentials ends with one sentence that says which variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    models = write_models(tmp_path / "models.yaml", digits(f"s3://{bucket}/m/1"))
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 1
    assert re.search("NoCredentialsError.*Set AWS_ACCESS_KEY_ID", events[-1]["message"])
