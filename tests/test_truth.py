"""Whatever the store says: the right bundle, or one sentence that says what to do, and never half a bundle.

The store is a real server on a real socket that lies as it is told (tests/lying_store).
"""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.lying_store import lies
from tests.lying_store.store import EVER, PREFIX, Answer, Ask, Lie, LyingStore, refusal, running
from tests.lying_store.syncing import (
    IMPATIENT,
    STUBBORN,
    Seconds,
    assert_refused,
    assert_synced,
    ended,
    final,
    held,
    leftovers,
    start_sync,
    sync_here,
)
from tests.sources import manifest_of, published, read_files

CHUNK = 500_000
FILES = {
    "model.pkl": random.Random(1).randbytes(4_500_017),  # several ranges, with a manifest and without
    "a/table é.npy": random.Random(2).randbytes(2500),
    "empty": b"",
    "+a b%#?": b"x",
}
BOTH = pytest.mark.parametrize("plain", [True, False], ids=["plain", "published"])

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(name="server", scope="module")
def one_server() -> Iterator[LyingStore]:
    with running(LyingStore()) as server:
        yield server


@pytest.fixture
def store(server: LyingStore, monkeypatch: pytest.MonkeyPatch) -> LyingStore:
    """An empty store that tells the truth; the client finds it as it finds any emulator."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    server.forget()
    return server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty volume."""
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def objects_of(files: dict[str, bytes], *, plain: bool) -> dict[str, bytes]:
    return files if plain else published(files, CHUNK)


def assert_refused_then_synced(
    store: LyingStore, root: Path, files: dict[str, bytes], says: str, seconds: Seconds = IMPATIENT
) -> None:
    """The sync fails with a sentence of these words; as soon as the store is well again, the same sync ends right."""
    outcome = sync_here(root, seconds=seconds)
    assert_refused(outcome, root)
    assert re.search(says, outcome.said, re.IGNORECASE), outcome.said
    store.behave()
    assert_synced(sync_here(root), root, files)


def assert_synced_or_refused(store: LyingStore, root: Path, files: dict[str, bytes]) -> None:
    """The sync ends right, or fails with a sentence and ends right as soon as the store is well again."""
    outcome = sync_here(root, seconds=IMPATIENT)
    if outcome.status:
        assert_refused(outcome, root)
        store.behave()
        outcome = sync_here(root)
    assert_synced(outcome, root, files)


PASSING: dict[str, tuple[Lie, int]] = {
    "408": (lies.status(408), 3),
    "429": (lies.status(429), 5),
    "500": (lies.status(500), 5),
    "502": (lies.status(502), 5),
    "503": (lies.status(503), 5),
    "504": (lies.status(504), 5),
    "truncated": (lies.truncated, 3),
    "short": (lies.short, 2),
    "Content-Length too long": (lies.length_too_long, 2),
    "Content-Length too short": (lies.length_too_short, 2),
    "reset": (lies.reset, 3),
    "reset at once": (lies.reset_at_once, 3),
    "closed at once": (lies.closed_at_once, 3),
    "no HTTP": (lies.garbage, 2),
    "stalled": (lies.stalled(3.0), 2),
    "stalled before the first byte": (lies.late(3.0), 2),
}


@BOTH
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_survived(store: LyingStore, root: Path, name: str, plain: bool) -> None:
    """A store that is overloaded, breaks off, falls silent or talks nonsense for a while is asked again."""
    store.put(objects_of(FILES, plain=plain))
    lie, times = PASSING[name]
    store.lies(lie, times=times)
    assert_synced(sync_here(root), root, FILES)


@pytest.mark.parametrize("name", PASSING)
def test_listings_are_asked_for_again(store: LyingStore, root: Path, name: str) -> None:
    """The same holds for the listing."""
    store.put(FILES)
    lie, times = PASSING[name]
    store.lies(lie, kind="list", times=times)
    assert_synced(sync_here(root), root, FILES)


LASTING = [name for name in PASSING if name not in ("408", "429", "500", "502", "504")]


@BOTH
@pytest.mark.parametrize("name", LASTING)
def test_what_does_not_pass_is_given_up(store: LyingStore, root: Path, name: str, plain: bool) -> None:
    """When it goes on for longer than the deadline, the sync says so and what to do; the next one ends right."""
    store.put(objects_of(FILES, plain=plain))
    store.lies(PASSING[name][0], times=EVER)
    began = time.monotonic()
    outcome = sync_here(root, seconds=IMPATIENT)
    assert time.monotonic() - began < 15
    assert_refused(outcome, root)
    store.behave()
    assert_synced(sync_here(root), root, FILES)


@pytest.mark.parametrize("name", LASTING)
def test_listings_are_given_up(store: LyingStore, root: Path, name: str) -> None:
    """The same holds for the listing."""
    store.put(FILES)
    store.lies(PASSING[name][0], kind="list", times=EVER)
    assert_refused_then_synced(store, root, FILES, "listing|list")


def test_a_storm(store: LyingStore, root: Path) -> None:
    """One answer of three is an error, of every sort and throughout: the bundle arrives."""
    store.put(objects_of(FILES, plain=False))
    dice = random.Random(3)
    sorts = [lie for lie, _ in PASSING.values() if lie not in (PASSING["stalled"][0], lies.length_too_short)]

    def storm(ask: Ask, answer: Answer) -> None:
        if dice.random() < 1 / 3:
            dice.choice(sorts[:-1])(ask, answer)

    store.lies(storm, times=EVER)
    store.lies(storm, kind="list", times=EVER)
    assert_synced(sync_here(root), root, FILES)


@BOTH
def test_retry_after_is_kept_to(store: LyingStore, root: Path, plain: bool) -> None:
    """A store that says when to come back is left alone until then."""
    store.put(objects_of({"model.pkl": b"x" * 1000}, plain=plain))
    store.lies(lies.status(429, Retry_After="2"), name="model.pkl")
    assert_synced(sync_here(root, seconds={**STUBBORN, "READ_SECONDS": 30.0}), root, {"model.pkl": b"x" * 1000})
    first, second = store.reads("model.pkl")
    assert second.at - first.at >= 2


@pytest.mark.parametrize("when", ["1000000000", "-5", "soon", "Thu, 01 Jan 2099 00:00:00 GMT", "9" * 400, "²", ""])
def test_retry_after_is_not_believed_blindly(store: LyingStore, root: Path, when: str) -> None:
    """A Retry-After of years, or one that is no time, does not keep a sync past its deadline."""
    store.put(FILES)
    store.lies(lies.status(503, Retry_After=when.encode().decode("latin-1")), times=EVER)
    began = time.monotonic()
    assert_refused(sync_here(root, seconds=IMPATIENT), root)
    assert time.monotonic() - began < 15


@BOTH
@pytest.mark.parametrize("code", [400, 401, 403, 451])
def test_a_refusal_ends_the_sync(store: LyingStore, root: Path, code: int, plain: bool) -> None:
    """A store that refuses in mid-sync, as with expired credentials, is not asked over and over."""
    store.put(objects_of(FILES, plain=plain))
    store.lies(lies.truncated, name="model.pkl")
    store.lies(lies.status(code), name="model.pkl", times=EVER)
    assert_refused_then_synced(store, root, FILES, {401: "identity|credentials", 403: "Grant .* roles/"}.get(code, ""))
    assert len(store.reads("model.pkl")) < 80


@pytest.mark.parametrize("code", [400, 401, 403, 451])
def test_a_refused_listing_ends_the_sync(store: LyingStore, root: Path, code: int) -> None:
    """A bucket without permission says which role to grant, at once."""
    store.put(FILES)
    store.lies(lies.status(code), kind="list", times=EVER)
    assert_refused_then_synced(store, root, FILES, {401: "identity|credentials", 403: "Grant .* roles/"}.get(code, ""))
    assert len([ask for ask in store.asks if ask.kind == "list"]) < 5


def test_expired_credentials(tmp_path: Path, root: Path, store: LyingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the identity service no longer takes is reported as that, before anything is asked of the store."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl, which makes the key, is not there")
    made = [openssl, "genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    account = {
        "type": "service_account",
        "project_id": "test",
        "private_key_id": "1",
        "private_key": subprocess.run(made, check=True, capture_output=True, text=True).stdout,
        "client_email": "sync@test.iam.gserviceaccount.com",
        "token_uri": f"{store.url}/token",
    }
    (tmp_path / "key.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    store.lies(expired, kind="other", times=EVER)
    outcome = sync_here(root)
    assert_refused(outcome, root)
    assert re.search("invalid_grant.*Renew the credentials", outcome.said), outcome.said
    assert {ask.path for ask in store.asks} == {"/token"}


def expired(_: Ask, answer: Answer) -> None:
    answer.status, answer.headers = 400, {"Content-Type": "application/json"}
    answer.body = b'{"error": "invalid_grant", "error_description": "Invalid grant: account not found"}'


def test_a_missing_bucket(store: LyingStore, root: Path) -> None:
    """A bucket that does not exist is reported at once, by its name."""
    outcome = sync_here(root, uri="gs://no-such-bucket/models/digits/1")
    assert_refused(outcome, root)
    assert "gs://no-such-bucket/models/digits/1" in outcome.said
    assert len(store.asks) < 5


@pytest.mark.parametrize(
    "there", [{}, {"": b""}, {"empty folder/": b"", "a/b/": b""}], ids=["nothing", "itself", "folders"]
)
def test_a_prefix_without_files(store: LyingStore, root: Path, there: dict[str, bytes]) -> None:
    """A missing prefix, or one of empty folder markers only, holds no model; versions beside it do not count."""
    store.put({**there, "../10/model.pkl": b"x", "../1": b"x"})
    store.objects["models/digits/10/model.pkl"] = store.objects["models/digits/1"] = store.objects[PREFIX + "../1"]
    del store.objects[PREFIX + "../1"], store.objects[PREFIX + "../10/model.pkl"]
    outcome = sync_here(root)
    assert_refused(outcome, root)
    assert "holds no objects" in outcome.said


@BOTH
def test_folder_markers_are_no_files(store: LyingStore, root: Path, plain: bool) -> None:
    """Empty objects whose names end in a slash are what consoles make of folders; empty files are files."""
    files = {"model.pkl": b"x", "empty": b"", "a/empty": b""}
    store.put({**objects_of(files, plain=plain), "": b"", "a/": b"", "b/c/": b""})
    assert_synced(sync_here(root), root, files)


def test_a_folder_with_content_is_not_dropped(store: LyingStore, root: Path) -> None:
    """An object whose name ends in a slash and which has bytes cannot be a file, and is not left out in silence."""
    store.put({"model.pkl": b"x", "weights/": b"bytes of the model"})
    outcome = sync_here(root)
    assert_refused(outcome, root)
    assert "weights/" in outcome.said


@BOTH
def test_an_object_that_vanishes(store: LyingStore, root: Path, plain: bool) -> None:
    """An object that is deleted in mid-sync is named; once it is back, the sync ends right."""
    store.put(objects_of(FILES, plain=plain))
    lies.in_the_middle(store, lambda: store.remove("model.pkl"), "model.pkl")
    outcome = sync_here(root)
    assert_refused(outcome, root)
    assert "model.pkl" in outcome.said
    store.put({"model.pkl": FILES["model.pkl"]})
    assert_synced(sync_here(root), root, FILES)


@BOTH
@pytest.mark.parametrize("same_bytes", [True, False])
@pytest.mark.parametrize("keeps_generations", [True, False])
def test_a_replaced_object(
    store: LyingStore, root: Path, plain: bool, same_bytes: bool, keeps_generations: bool
) -> None:
    """An object that is replaced in mid-sync is never mixed, be its generation gone or the new one served for it."""
    store.put(objects_of(FILES, plain=plain))
    new = FILES if same_bytes else {**FILES, "model.pkl": FILES["model.pkl"][::-1]}
    store.keeps_generations = keeps_generations
    lies.in_the_middle(store, lambda: store.put({"model.pkl": new["model.pkl"]}), "model.pkl")
    outcome = sync_here(root)
    if outcome.status == 0:
        assert same_bytes
        assert not keeps_generations
        assert_synced(outcome, root, FILES)
        return
    assert_refused(outcome, root)
    assert "model.pkl" in outcome.said
    store.behave()
    store.put(objects_of(new, plain=plain))
    assert_synced(sync_here(root), root, new)


def test_the_generation_alone_tells(store: LyingStore, root: Path) -> None:
    """Where the store tells no crc32c, the generation in the answer is what shows that the object is another."""
    store.put(FILES)
    store.with_crc32c = store.keeps_generations = False
    new = {**FILES, "model.pkl": FILES["model.pkl"][::-1]}
    lies.in_the_middle(store, lambda: store.put(new), "model.pkl")
    outcome = sync_here(root)
    assert_refused(outcome, root)
    assert_synced(sync_here(root), root, new)


ANOTHER_ANSWER: dict[str, Callable[[LyingStore], Lie]] = {
    "200 for a range": lies.whole_object,
    "another Content-Range": lambda _: lies.other_content_range,
    "another range": lambda store: lies.other_range(store, admits=True),
    "another range, denied": lambda store: lies.other_range(store, admits=False),
    "more bytes": lambda _: lies.long,
    "a flipped bit": lambda _: lies.flipped,
    "an absurd Content-Length": lambda _: lies.length_absurd,
    "a web page": lambda _: lies.html,
    "204": lambda _: lies.status(204),
    "206 of nothing": lambda _: lies.body(b""),
    "304": lambda _: lies.status(304),
    "416": lambda _: lies.status(416),
    "100": lambda _: lies.status(199),
    "999": lambda _: lies.status(999),
}


@BOTH
@pytest.mark.parametrize("times", [1, EVER], ids=["once", "always"])
@pytest.mark.parametrize("name", ANOTHER_ANSWER)
def test_another_answer(store: LyingStore, root: Path, name: str, plain: bool, times: int) -> None:
    """An answer with other bytes than were asked for ends in the right bundle, or in a sentence."""
    store.put(objects_of(FILES, plain=plain))
    store.lies(lies.truncated, name="model.pkl")
    store.lies(ANOTHER_ANSWER[name](store), name="model.pkl", times=times)
    assert_synced_or_refused(store, root, FILES)


@pytest.mark.parametrize("name", ["a flipped bit", "another range, denied"])
def test_a_damaged_range_is_fetched_again(store: LyingStore, root: Path, name: str) -> None:
    """With a manifest a range that arrives damaged is fetched again, and nothing else."""
    store.put(objects_of(FILES, plain=False))
    store.lies(lies.truncated, name="model.pkl")
    store.lies(ANOTHER_ANSWER[name](store), name="model.pkl")
    assert_synced(sync_here(root), root, FILES)
    assert store.moved <= sum(map(len, FILES.values())) + 4 * CHUNK


@BOTH
@pytest.mark.parametrize("name", ["a flipped bit", "another range, denied"])
def test_lasting_damage(store: LyingStore, root: Path, name: str, plain: bool) -> None:
    """An object that is damaged every time is named, and what it left behind does not spoil the next sync."""
    store.put(objects_of(FILES, plain=plain))
    store.lies(ANOTHER_ANSWER[name](store), name="model.pkl", times=EVER)
    assert_refused_then_synced(store, root, FILES, r"model\.pkl is damaged")


@BOTH
def test_an_endless_answer(store: LyingStore, root: Path, plain: bool) -> None:
    """An answer without an end is hung up on soon after what was asked for."""
    store.put(objects_of(FILES, plain=plain))
    store.lies(lies.endless, name="a/table é.npy", times=EVER)
    assert_synced_or_refused(store, root, FILES)
    assert max(ask.sent for ask in store.reads("a/table é.npy")) < 32 * 1024 * 1024


@BOTH
@pytest.mark.timeout(20)
def test_a_trickle(store: LyingStore, root: Path, plain: bool) -> None:
    """A connection that gives a byte now and then is given up for another one before the deadline of its range."""
    store.put(objects_of(FILES, plain=plain))
    store.lies(lies.trickling, name="a/table é.npy")
    began = time.monotonic()
    assert_synced_or_refused(store, root, FILES)
    assert time.monotonic() - began < 20


@BOTH
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(store: LyingStore, root: Path, code: int, plain: bool) -> None:
    """A redirect to where the object is ends in the right bundle, or in a sentence."""
    store.put(objects_of(FILES, plain=plain))
    store.lies(lies.redirected(lambda ask: f"/moved{quoted(ask)}", code), name="model.pkl", times=3)
    assert_synced_or_refused(store, root, FILES)


def quoted(ask: Ask) -> str:
    return f"{ask.path.removeprefix('/download').removeprefix('/moved')}?alt=media"


REDIRECTS = {
    "itself": lambda ask: f"{ask.path}?alt=media&generation={ask.query.get('generation', '')}",
    "a file": lambda _: "file:///etc/passwd",
    "nowhere": lambda _: "http://127.0.0.1:9/",
    "no address": lambda _: "http://[",
    "data": lambda _: "data:text/plain,x",
    "nothing": lambda _: "",
    "ftp": lambda _: "ftp://127.0.0.1:9/x",
    "a bad port": lambda _: "http://127.0.0.1:99999/x",
    "control characters": lambda _: "http://127.0.0.1\x01/\x7f",
}


@pytest.mark.parametrize("kind", ["media", "list"])
@pytest.mark.parametrize("to", REDIRECTS)
def test_a_redirect_that_leads_nowhere(store: LyingStore, root: Path, to: str, kind: Any) -> None:
    """A redirect in circles, to another scheme or to no address ends in a sentence."""
    store.put({"model.pkl": b"x" * 2000})
    store.lies(lies.redirected(REDIRECTS[to]), kind=kind, times=EVER)
    assert_refused_then_synced(store, root, {"model.pkl": b"x" * 2000}, "")


def test_a_redirect_that_leaves_tls(
    tmp_path: Path, root: Path, store: LyingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that was asked over TLS cannot send the sync to where nobody vouches for the bytes."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl, which makes the certificate, is not there")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = (
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*made.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(certificate))
    with running(LyingStore(), context) as safe:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", safe.url)
        for one in (safe, store):
            one.put({"model.pkl": b"x" * 2000})
        safe.lies(lies.redirected(lambda ask: f"{store.url}{quoted(ask)}"), times=EVER)
        assert_refused_then_synced(safe, root, {"model.pkl": b"x" * 2000}, "https|redirect")
        assert store.asks == []


@BOTH
def test_gzip_is_stored_as_stored(store: LyingStore, root: Path, plain: bool) -> None:
    """Objects with Content-Encoding gzip arrive as their stored bytes, which is what size and crc32c describe."""
    table = gzip.compress(random.Random(4).randbytes(200_000) + bytes(9_000_000), mtime=0)
    files = {"model.pkl": b"x" * 1000, "table.csv": table}
    store.put(objects_of(files, plain=plain))
    store.put({"table.csv": table}, encoding="gzip")
    assert_synced(sync_here(root), root, files)


GOOD_NAMES = [
    "🥫/модель-模型.pkl",
    "e\u0301 decomposed",
    "\u00e9 composed",
    "a%2Fb",
    "a%00b",
    "%ff",
    "%",
    "a+b c&d=e?f#g;h,i",
    "*'\"<>|:$`{}[]~!@^",
    "-rf",
    "...",
    "a/...",
    ".hidden",
    "trailing.",
    "con",
    "x" * 255,
    "é" * 127,
    ("p" * 199 + "/") * 5 + "q" * (1024 - 1000 - len(PREFIX)),
]


@BOTH
def test_good_names(store: LyingStore, root: Path, plain: bool) -> None:
    """Every name that a file can have arrives as it is: any script, any length up to 1,024 bytes, escapes or not."""
    files = {name: name.encode() for name in GOOD_NAMES}
    assert max(len((PREFIX + name).encode()) for name in GOOD_NAMES) == 1024
    store.put(objects_of(files, plain=plain))
    assert_synced(sync_here(root), root, files)


BAD_NAMES = [
    ["../x"],
    ["a/../../../../x"],
    [".."],
    ["/etc/x"],
    ["a//b"],
    ["./x"],
    ["a/."],
    ["nul\0l"],
    ["line\nfeed"],
    ["\x7f"],
    ["\x1b[2J"],
    ["\u202eright-to-left"],
    ["..\\x"],
    ["C:\\x"],
    ["\ud800"],
    ["x" * 256],
    ["é" * 128],
    ["a/" * 600 + "x"],
    ["Model.pkl"],
    ["A/x", "a/X"],
    ["straße", "STRASSE"],
    ["model.pkl/x"],
    ["a", "a/b/c"],
    ["a/b", "A"],
    [".staging/x"],
    [".publishing/x"],
    ["manifest.json/x"],
    ["Manifest.json"],
]


@BOTH
@pytest.mark.parametrize("names", BAD_NAMES, ids=lambda names: ascii(names)[:40])
def test_bad_names(store: LyingStore, root: Path, names: list[str], plain: bool) -> None:
    """Names that cannot all be files of one directory are refused by name, before a byte moves, and touch nothing."""
    files = {"model.pkl": b"x", **dict.fromkeys(names, b"y")}
    if plain:
        store.put({"model.pkl": b"x"})
        stored = store.objects[PREFIX + "model.pkl"]
        store.objects |= {PREFIX + name: stored for name in names}
    else:
        text = manifest_of({name.replace("\ud800", "SURROGATE"): data for name, data in files.items()}).encode()
        store.put({"model.pkl": b"x", "manifest.json": text.replace(b"SURROGATE", rb"\ud800")})
        stored = store.objects[PREFIX + "model.pkl"]
        store.objects |= {PREFIX + name: stored for name in names}
    assert_refused(sync_here(root), root)
    assert store.moved == 0
    places = [*root.parent.rglob("x"), *(above / "x" for above in root.parent.parents)]
    assert [path for path in places if path.is_file()] == []


def test_names_of_the_loaders_own_files(store: LyingStore, root: Path) -> None:
    """An object may be named like a file that the loader itself keeps while it works: it arrives, or is refused."""
    store.put(FILES)
    own: set[str] = set()

    def look() -> None:
        staging = root / "digits" / ".staging"
        own.update(name.partition("/")[2] for name in read_files(staging) if name.partition("/")[2] not in FILES)

    store.lies(lies.does(look), times=EVER)
    assert_synced(sync_here(root), root, FILES)
    files = {**FILES, **dict.fromkeys(own, b"mine")}
    store.put(files)
    shutil.rmtree(final(root))
    outcome = sync_here(root)
    if outcome.status:
        assert_refused(outcome, root)
    else:
        assert_synced(outcome, root, files)


LISTINGS: dict[str, Lie] = {
    "truncated JSON": lies.short,
    "no JSON": lies.body(b"{"),
    "nothing": lies.body(b""),
    "a web page": lies.html,
    "not UTF-8": lies.body(b'{"items": [{"name": "models/digits/1/\xff\xfe", "size": "1", "generation": "1"}]}'),
    "nested without end": lies.body(b"[" * 200_000),
    "a list": lies.body(b"[]"),
    "null": lies.body(b"null"),
    "a number for items": lies.listing(lambda page: page.update(items=7)),
    "null for items": lies.listing(lambda page: page.update(items=None)),
    "items of null": lies.listing(lambda page: page.update(items=[None])),
    "a number for the token": lies.listing(lambda page: page.update(nextPageToken=7)),
    "no such field": lies.listing(lambda page: page.update(items=[{}])),
}
FIELDS: list[tuple[str, Any]] = [
    *product(["size"], ["-1", "-" + "9" * 30, "9" * 30, "1e3", "abc", "", None, 2.5, [], str(10**15), "²"]),
    *product(["generation"], ["", None, "abc", "-5", "0", "1&userProject=x", [], 10**40]),
    *product(["crc32c"], ["", "AAAA", "not base64", 7, None, []]),
    *product(["name"], ["", None, 7, "other/prefix/x", PREFIX, PREFIX.rstrip("/")]),
]


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_that_is_none(store: LyingStore, root: Path, name: str) -> None:
    """A listing that cannot be read is not taken for an empty one, nor for a shorter one."""
    store.put(FILES)
    store.lies(LISTINGS[name], kind="list", times=EVER)
    assert_refused_then_synced(store, root, FILES, "list")


@pytest.mark.parametrize("name", ["truncated JSON", "no JSON", "nothing", "a web page"])
def test_a_listing_that_is_none_at_first(store: LyingStore, root: Path, name: str) -> None:
    """A listing that arrives in pieces is asked for again, or reported."""
    store.put(FILES)
    store.lies(LISTINGS[name], kind="list")
    assert_synced_or_refused(store, root, FILES)


@BOTH
@pytest.mark.parametrize(("field", "value"), FIELDS, ids=lambda value: ascii(value)[:30])
def test_a_listing_that_lies_of_an_object(store: LyingStore, root: Path, field: str, value: Any, plain: bool) -> None:
    """A size, generation, crc32c or name that cannot be ends in a sentence, or in the right bundle all the same."""
    files = {"model.pkl": b"x" * 1000, "other": b"y"}
    store.put(objects_of(files, plain=plain))

    def change(page: dict[str, Any]) -> None:
        (item,) = [item for item in page["items"] if item["name"].endswith("model.pkl")]
        item[field] = value
        if value is None:
            del item[field]

    store.lies(lies.listing(change), kind="list", times=EVER)
    outcome = sync_here(root, seconds=IMPATIENT)
    left_out = {name: data for name, data in files.items() if name != "model.pkl"}
    if outcome.status:
        assert_refused(outcome, root)
    elif plain and field == "name" and isinstance(value, str):  # then model.pkl is not listed, whatever is
        assert held(root) in (left_out, files)
        return
    else:
        assert_synced(outcome, root, files)
    store.behave()
    assert_synced(sync_here(root), root, files)


def test_a_listing_that_changes_between_its_pages(store: LyingStore, root: Path) -> None:
    """What is added, removed and replaced while the listing is read never makes a mixture."""
    files = {f"{letter}": letter.encode() * 1000 for letter in "abcdef"}
    for change in (
        lambda: store.put({"f2": b"new"}),
        lambda: store.put({"a2": b"new"}),
        lambda: store.remove("a"),
        lambda: store.remove("f"),
        lambda: store.put({"a": b"z" * 1000}),
        lambda: store.put({"f": b"z" * 1000}),
    ):
        store.forget()
        store.put(files)
        store.page = 2
        store.lies(lies.does(change), kind="list", skip=1)
        outcome = sync_here(root)
        now = {name.removeprefix(PREFIX): stored.data for name, stored in store.objects.items()}
        if outcome.status:
            assert_refused(outcome, root)
            assert_synced(sync_here(root), root, now)
        else:
            there = held(root)
            assert there in (files, now), "neither what was nor what is there"
            assert_synced(outcome, root, there or {})
        shutil.rmtree(root / "digits")


@pytest.mark.parametrize("same", [True, False], ids=["same generation", "another generation"])
@BOTH
def test_a_name_that_is_listed_twice(store: LyingStore, root: Path, same: bool, plain: bool) -> None:
    """An object that two entries of a listing name is one file, or is refused; never two versions mixed."""
    files = {"model.pkl": b"x" * 1000, "other": b"y"}
    store.put(objects_of(files, plain=plain))

    def twice(page: dict[str, Any]) -> None:
        (item,) = [dict(item) for item in page["items"] if item["name"].endswith("model.pkl")]
        page["items"].append(item if same else {**item, "generation": "1", "size": "7"})

    store.lies(lies.listing(twice), kind="list", times=EVER)
    assert_synced_or_refused(store, root, files)


@pytest.mark.parametrize("period", [1, 2])
def test_a_listing_without_an_end(store: LyingStore, root: Path, period: int) -> None:
    """A listing whose pages lead back to an earlier one ends in a sentence."""
    store.put({"model.pkl": b"x"})
    tokens = iter(range(10**9))
    around = lies.listing(lambda page: page.update(nextPageToken="TTTT" * (1 + next(tokens) % period)))

    def lie(ask: Ask, answer: Answer) -> None:
        if not answer.body.startswith(b'{"kind"'):
            answer.__dict__.update(Answer(200, {}, b'{"kind": "", "items": []}').__dict__)
        around(ask, answer)

    store.lies(lie, kind="list", times=EVER)
    outcome = ended(start_sync(root, seconds=IMPATIENT), timeout=30)
    assert_refused(outcome, root)
    assert len(store.asks) < 50


def test_pages(store: LyingStore, root: Path) -> None:
    """A prefix of many pages arrives whole, also when pages in between are empty."""
    files = {f"{number:03}": str(number).encode() for number in range(60)}
    store.put(files)
    store.page = 7
    assert_synced(sync_here(root), root, files)


def test_a_page_that_breaks_off(store: LyingStore, root: Path) -> None:
    """A listing that fails in the middle is not taken for the whole."""
    files = {f"{number:03}": str(number).encode() for number in range(60)}
    store.put(files)
    store.page = 7
    store.lies(lies.status(503), kind="list", skip=3, times=2)
    assert_synced(sync_here(root), root, files)


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not JSON": lambda _: b"\x80\x04K\x01.",
    "zero bytes": lambda _: bytes(10_000),
    "nested without end": lambda _: b"[" * 1_000_000,
    "null": lambda _: b"null",
    "a list": lambda _: b"[]",
    "no assets": lambda manifest: manifest["assets"].clear(),
    "a file that is not there": lambda manifest: manifest["assets"].append({**manifest["assets"][0], "path": "gone"}),
    "a file twice": lambda manifest: manifest["assets"].append(manifest["assets"][0]),
    "another size": lambda manifest: manifest["assets"][1].update(size=2999),
    "a negative size": lambda manifest: manifest["assets"][1].update(size=-3000),
    "an absurd size": lambda manifest: manifest["assets"][1].update(size=10**30),
    "a broken size": lambda manifest: manifest["assets"][1].update(size=2.5),
    "another digest": lambda manifest: manifest["assets"][0].update(digest="sha256:" + "0" * 64),
    "no digest": lambda manifest: manifest["assets"][0].update(digest="md5:" + "0" * 64),
    "chunks of nothing": lambda manifest: manifest.update(chunkSize=0),
    "chunks without end": lambda manifest: manifest.update(chunkSize=10**15),
    "too few chunks": lambda manifest: manifest["assets"][1]["chunks"].pop(),
    "another chunk": lambda manifest: manifest["assets"][1]["chunks"].reverse(),
    "a later format": lambda manifest: manifest.update(formatVersion=2),
    "a field that nobody knows": lambda manifest: manifest.update(more=1),
}


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_lies(store: LyingStore, root: Path, name: str) -> None:
    """A manifest that is none, or describes other files than are there, is refused; the true one then ends right."""
    files = {"a": b"a", "model.pkl": b"x" * 1000 + b"y" * 1000 + b"z" * 1000}
    objects = published(files, 1000)
    manifest = json.loads(objects["manifest.json"])
    made = MANIFESTS[name](manifest)
    store.put({**objects, "manifest.json": made if isinstance(made, bytes) else json.dumps(manifest).encode()})
    assert_refused(sync_here(root), root)
    store.put(objects)
    assert_synced(sync_here(root), root, files)


def test_a_manifest_said_to_be_huge(store: LyingStore, root: Path) -> None:
    """A manifest of gigabytes is refused unread."""
    store.put(published(FILES, CHUNK))
    huge = lies.listing(lambda page: [item.update(size=str(10**10)) for item in page["items"]])
    store.lies(huge, kind="list", times=EVER)
    assert_refused_then_synced(store, root, FILES, r"manifest\.json")
    assert len(store.reads("manifest.json")) == 1


@pytest.mark.parametrize(
    "name", ["a flipped bit", "200 for a range", "another range, denied", "a web page", "more bytes"]
)
def test_a_manifest_that_arrives_as_another(store: LyingStore, root: Path, name: str) -> None:
    """A manifest is believed only as it is stored."""
    store.put(published(FILES, CHUNK))
    store.lies(ANOTHER_ANSWER[name](store), name="manifest.json", times=EVER)
    assert_synced_or_refused(store, root, FILES)


@BOTH
def test_a_prefix_that_gets_a_manifest_in_mid_sync(store: LyingStore, root: Path, plain: bool) -> None:
    """A manifest that appears or disappears in mid-sync changes nothing of this sync: it was listed, or it was not."""
    store.put(objects_of(FILES, plain=plain))
    effect = (lambda: store.put(published(FILES, CHUNK))) if plain else (lambda: store.remove("manifest.json"))
    lies.in_the_middle(store, effect, "model.pkl")
    outcome = sync_here(root)
    if outcome.status:
        assert_refused(outcome, root)
    else:
        assert_synced(outcome, root, FILES)


@pytest.mark.parametrize("code", [403, 503])
def test_the_command_itself(store: LyingStore, root: Path, code: int) -> None:
    """As a process of its own it ends with status 1 and one sentence, without a traceback, and then with status 0."""
    store.put(published(FILES, CHUNK))
    store.lies(lies.truncated, name="model.pkl")
    store.lies(lies.status(code), name="model.pkl", times=EVER)
    assert_refused(ended(start_sync(root, seconds=IMPATIENT)), root)
    assert leftovers(root)
    store.behave()
    assert_synced(ended(start_sync(root)), root, FILES)


def test_the_store_tells_the_truth_by_default(store: LyingStore, root: Path) -> None:
    """The store that these tests stand on answers a sync that is not lied to, so that a refusal above is the lie's."""
    store.put(published(FILES, CHUNK))
    assert_synced(sync_here(root), root, FILES)
    assert store.moved == sum(map(len, FILES.values()))
    assert refusal(404).status == 404
