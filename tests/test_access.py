"""Who may ask: static tokens, users with passwords, and all that must not get in."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Self

import jwt
import pytest
import requests
from flask import Flask

from serving.access.attempts import Attempts
from serving.access.modes import Access, access_from
from serving.access.passwords import hash_password, parse_users
from serving.access.secret_file import lines_of
from serving.access.signing import parse_secrets, sign, verify
from serving.access.tokens import parse_tokens
from serving.access.users import UserAccess
from serving.errors import SettingsInvalid, TooManyAttempts, Unauthorized
from serving.http import routes
from serving.http.guard import OPEN_PATHS
from serving.settings import Settings
from tests.conftest import write_bundle
from tests.model_kinds import Doubler
from tests.serve import Server, wait_until

TOKEN, OTHER = "token-" + "a" * 40, "token-" + "b" * 40
SECRET, NEWER = "secret-" + "a" * 40, "secret-" + "b" * 40
PASSWORD = "correct horse battery staple"
HASH = hash_password(PASSWORD)


def write(path: Path, *lines: str) -> str:
    """Replace a file as the kubelet does, whole, and return its path."""
    temporary = path.with_suffix(".new")
    temporary.write_text("".join(f"{line}\n" for line in lines))
    temporary.replace(path)
    return str(path)


def start(server: Server, **settings: str | int) -> Server:
    """Serve one model, restricted as the settings say."""
    write_bundle(server.volume / "m" / "1", Doubler())
    server.desire(("m", "1"))
    server.start(**settings)
    server.wait_for("m", "ready")
    return server


def user_files(home: Path, **settings: str | int) -> dict[str, Any]:
    """Return settings with users alice, bob, carol and dora, who share a password."""
    users = write(home / "users", "# people", "", *(f"{name}:{HASH}" for name in ("alice", "bob", "carol", "dora")))
    secrets = write(home / "secrets", SECRET)
    return {"access": "users", "users_file": users, "signing_secret_file": secrets, **settings}


def ask(server: Server, authorization: str | None) -> requests.Response:
    """Ask the model for a prediction."""
    headers = {} if authorization is None else {"Authorization": authorization}
    return server.post("/predict", json={"instance": 2}, headers=headers)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that users log in to; its files stay as they are."""
    home = tmp_path_factory.mktemp("users")
    running = Server(home)
    try:
        yield start(running, **user_files(home))
    finally:
        running.stop()


@pytest.fixture(scope="module")
def alice(users: Server) -> str:
    """A token of alice."""
    return str(users.post("/login", auth=("alice", PASSWORD)).json()["token"])


def claims(**changes: Any) -> dict[str, Any]:
    """Return what a good token of alice claims, changed; None takes a claim away."""
    now = int(time.time())
    good = {"iss": "pantry", "aud": "pantry", "sub": "alice", "iat": now, "exp": now + 600}
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def signed(headers: dict[str, Any] | None = None, key: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """Sign such claims."""
    return jwt.encode(claims(**changes), key, algorithm, headers)


def part(content: Any) -> str:
    """Encode one part of a token."""
    text = content if isinstance(content, str) else json.dumps(content)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def resigned(header: Any, payload: Any) -> str:
    """Sign any two parts with the right secret."""
    signing = f"{part(header)}.{part(payload)}"
    key = jwt.get_algorithm_by_name("HS256")
    signature = key.sign(signing.encode(), key.prepare_key(SECRET))
    return f"{signing}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


HS256 = {"alg": "HS256", "typ": "JWT"}
# All signed with the right secret, unless the name says otherwise.
MUTATIONS: dict[str, Callable[[], str]] = {
    "alg none": lambda: f"{part({'alg': 'none'})}.{part(claims())}.",
    "alg None": lambda: f"{part({'alg': 'None'})}.{part(claims())}.",
    "alg none, signed": lambda: resigned({"alg": "none"}, claims()),
    "alg missing": lambda: resigned({"typ": "JWT"}, claims()),
    "alg a number": lambda: resigned({"alg": 1}, claims()),
    "alg a list": lambda: resigned({"alg": ["HS256"]}, claims()),
    "alg RS256, signed as HS256": lambda: resigned({"alg": "RS256"}, claims()),
    "alg ES256": lambda: resigned({"alg": "ES256"}, claims()),
    "alg in lower case": lambda: resigned({"alg": "hs256"}, claims()),
    "HS384": lambda: signed(key=SECRET + "c" * 20, algorithm="HS384"),
    "HS512": lambda: signed(key=SECRET + "c" * 20, algorithm="HS512"),
    "unknown crit": lambda: signed({"crit": ["x"], "x": 1}),
    "b64 false": lambda: signed({"crit": ["b64"], "b64": False}),
    "foreign key": lambda: signed(key=NEWER),
    "foreign key with a kid that is a path": lambda: signed({"kid": "/dev/null"}, key=NEWER),
    "foreign key with a jku": lambda: signed({"jku": "http://127.0.0.1:1/keys"}, key=NEWER),
    "kid a number": lambda: resigned({**HS256, "kid": 1}, claims()),
    "wrong aud": lambda: signed(aud="kitchen"),
    "several aud": lambda: signed(aud=["pantry", "kitchen"]),
    "aud a number": lambda: resigned(HS256, claims(aud=7)),
    "wrong iss": lambda: signed(iss="kitchen"),
    "iss a list": lambda: resigned(HS256, claims(iss=["pantry"])),
    "no iss": lambda: signed(iss=None),
    "no aud": lambda: signed(aud=None),
    "no sub": lambda: signed(sub=None),
    "no iat": lambda: signed(iat=None),
    "no exp": lambda: signed(exp=None),
    "no claims": lambda: resigned(HS256, {}),
    "expired": lambda: signed(iat=int(time.time()) - 100, exp=int(time.time()) - 40),
    "exp 10^18": lambda: signed(exp=10**18),
    "exp 10^400": lambda: signed(exp=10**400),
    "exp of a hundred years": lambda: signed(exp=int(time.time()) + 100 * 365 * 86400),
    "exp a text": lambda: signed(exp=str(int(time.time()) + 600)),
    "exp a float": lambda: signed(exp=time.time() + 600),
    "exp true": lambda: resigned(HS256, claims(exp=True)),
    "exp Infinity": lambda: resigned(HS256, claims(exp=float("inf"))),
    "exp NaN": lambda: resigned(HS256, claims(exp=float("nan"))),
    "exp a list": lambda: resigned(HS256, claims(exp=[1])),
    "exp negative": lambda: signed(exp=-1),
    "iat in the future": lambda: signed(iat=int(time.time()) + 120, exp=int(time.time()) + 600),
    "iat a text": lambda: resigned(HS256, claims(iat="now")),
    "iat 10^400": lambda: resigned(HS256, claims(iat=10**400)),
    "nbf in the future": lambda: signed(nbf=int(time.time()) + 120),
    "nbf an object": lambda: resigned(HS256, claims(nbf={})),
    "sub a number": lambda: resigned(HS256, claims(sub=1)),
    "sub a list": lambda: resigned(HS256, claims(sub=["alice"])),
    "sub unknown": lambda: signed(sub="mallory"),
    "sub empty": lambda: signed(sub=""),
    "jti a number": lambda: resigned(HS256, claims(jti=5)),
    "header nested deeply": lambda: resigned("[" * 2500, claims()),
    "payload nested deeply": lambda: resigned(HS256, "[" * 2500),
    "header a list": lambda: resigned([], claims()),
    "header a number": lambda: resigned(1, claims()),
    "payload a list": lambda: resigned(HS256, []),
    "payload a text": lambda: resigned(HS256, "alice"),
    "payload not JSON": lambda: resigned(HS256, "{"),
    "payload with a lone surrogate": lambda: resigned(HS256, '{"sub": "\\ud800"}'),
    "signature cut": lambda: signed()[:-3],
    "signature missing": lambda: signed().rpartition(".")[0],
    "signature empty": lambda: signed().rpartition(".")[0] + ".",
    "signature changed": lambda: signed()[:-8] + "AAAAAAAA",
    "payload changed": lambda: "{0}.{2}.{1}".format(*signed().split(".")[::2], part(claims(sub="bob"))),
    "four parts": lambda: signed() + ".x",
    "no parts": lambda: "abc",
    "dots": lambda: "..",
    "many dots": lambda: "." * 5000,
    "umlauts": lambda: "töken.töken.töken",
    "umlaut in the signature": lambda: signed()[:-1] + "ä",
    "spaces inside": lambda: signed().replace(".", " . "),
    "comma": lambda: f"{signed()},{signed()}",
    "quoted": lambda: f'"{signed()}"',
    "padding": lambda: signed().replace(".", "=.") + "=",
    "long": lambda: "a" * 8000,
    "password instead": lambda: PASSWORD.replace(" ", "-"),
    "secret instead": lambda: SECRET,
    "hash instead": lambda: HASH,
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_token_that_is_not_right_in_all_is_refused(users: Server, mutation: str) -> None:
    """Whatever is wrong with a token, the answer is 401 with a sentence that tells nothing of the token."""
    token = MUTATIONS[mutation]()
    for authorization in (f"Bearer {token}", token):
        answer = requests.post(f"{users.url}/predict", data=b"{}", timeout=5, auth=Sent(authorization))
        assert (answer.status_code, answer.json().keys()) == (401, {"error"}), answer.text
        assert token not in answer.text
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert answer.headers["Cache-Control"] == "no-store"


class Sent(requests.auth.AuthBase):
    """Sends a header as it is: requests alone would refuse some."""

    def __init__(self, authorization: str) -> None:
        self._authorization = authorization

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._authorization.encode()
        return request


@pytest.mark.parametrize("size", [20_000, 100_000, 1_000_000])
def test_a_huge_header_is_refused(users: Server, size: int) -> None:
    """A header of any size ends in 4xx, and others are answered."""
    with contextlib.suppress(requests.ConnectionError):  # it may close while the client still sends
        assert 400 <= ask(users, "Bearer " + "a" * size).status_code < 500
    assert requests.get(f"{users.url}/healthz", timeout=20).status_code == 200


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (lambda: signed(iat=1000, exp=2000), "the token has expired; POST /login gives a new one"),
        (lambda: signed(nbf=int(time.time()) + 99), "the token is not valid yet"),
        (lambda: signed(key=NEWER), "the token is not signed by this server"),
        (lambda: signed(aud="kitchen"), "the token is for another service: its aud is wrong"),
        (lambda: signed(exp=10**18), "the token is made for longer than 3600 s; POST /login gives a new one"),
        (lambda: signed(sub="mallory"), "the token's user is no longer one"),
        (lambda: "Basic YTpi", "a name and a password are taken by /login alone, which gives a token for them"),
        (lambda: "", "a token is needed: send it as `Authorization: Bearer TOKEN`"),
    ],
)
def test_the_sentence_says_what_is_wrong(users: Server, token: Any, sentence: str) -> None:
    """A client learns whether to log in again, or to look at its clock, its address or its header."""
    assert ask(users, token()).json() == {"error": sentence}


def test_clocks_may_differ_by_half_a_minute(users: Server) -> None:
    """A token that another replica has made a little in the future, or that has just expired, is taken."""
    now = int(time.time())
    assert ask(users, signed(iat=now + 20, exp=now + 600)).status_code == 200
    assert ask(users, signed(iat=now - 600, exp=now - 20)).status_code == 200


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {}", "{}", " {} "])
def test_a_token_comes_with_and_without_its_scheme(users: Server, alice: str, form: str) -> None:
    """`Authorization: Bearer X` and `Authorization: X` are the same."""
    answer = requests.post(f"{users.url}/predict", json={"instance": 2}, timeout=5, auth=Sent(form.format(alice)))
    assert answer.json() == {"prediction": 4.0}


def test_everything_but_health_is_closed(users: Server) -> None:
    """Every URL asks for a token before it tells whether what it names exists; health, /login and /docs do not."""
    app = Flask("all", static_folder=None)
    routes.register(app)
    paths = {rule.rule.replace("<name:name>", "m").replace("<name:version>", "1") for rule in app.url_map.iter_rules()}
    assert paths > OPEN_PATHS
    hidden = ["/nowhere", "/v2/models/nothing", "/healthz/", "/HEALTHZ", "/docs/../", "/%68ealthz/x"]
    for path in [*sorted(paths - OPEN_PATHS), *hidden]:
        for method in ("GET", "POST", "OPTIONS", "HEAD", "PUT", "BREW"):
            answer = requests.request(method, users.url + path, timeout=5, allow_redirects=False)
            assert answer.status_code == 401, (method, path)
    for path in OPEN_PATHS - {"/login"}:
        assert requests.get(users.url + path, timeout=20).status_code == 200, path


def test_a_token_in_a_query_or_a_cookie_is_none(users: Server, alice: str) -> None:
    """Addresses end in logs, and cookies are sent by pages of others."""
    answer = users.post(f"/predict?token={alice}&access_token={alice}", cookies={"token": alice}, json={"instance": 2})
    assert answer.status_code == 401


@pytest.mark.parametrize("length", [b"Content-Length: 5000000", b"Transfer-Encoding: chunked"])
def test_a_strangers_body_is_not_waited_for(users: Server, length: bytes) -> None:
    """Who may not ask is told so after the head: no byte of the body has to come."""
    with socket.create_connection(("127.0.0.1", users.port), timeout=5) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n" + length + b"\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 99999999999\r\n\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        b"Content-Type: image/png\r\nContent-Length: 1\r\n\r\nx",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n",
    ],
)
def test_the_check_comes_before_the_body(users: Server, head: bytes) -> None:
    """Who may not ask is told so, and not that the body is too large, compressed, or wrong."""
    with socket.create_connection(("127.0.0.1", users.port), timeout=5) as connection:
        connection.sendall(b"POST /v2/models/nothing/infer HTTP/1.1\r\nHost: x\r\n" + head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", ["basic", "json"])
def test_login_gives_a_token_that_works(users: Server, method: str, how: str) -> None:
    """By GET or POST, with HTTP Basic or a JSON body; the answer is never cached."""
    sent: dict[str, Any] = (
        {"auth": ("bob", PASSWORD)} if how == "basic" else {"json": {"username": "bob", "password": PASSWORD}}
    )
    answer = requests.request(method, f"{users.url}/login", timeout=5, **sent)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.json().keys() == {"token", "expires_in"}
    assert answer.json()["expires_in"] == 3600
    assert ask(users, answer.json()["token"]).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"auth": ("bob", "wrong")}, 401),
        ({"auth": ("nobody", PASSWORD)}, 401),
        ({"auth": ("bob", "")}, 401),
        ({"auth": ("", "")}, 401),
        ({"auth": ("x" * 4000, "y" * 1000)}, 401),
        ({"auth": ("böb", "pässword")}, 401),
        ({"json": {"username": "bob", "password": "pa\x00ss"}}, 401),
        ({"headers": {"Authorization": "Basic %%%"}}, 401),
        ({"headers": {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()}}, 401),
        ({"headers": {"Authorization": "Bearer x"}}, 401),
        ({"headers": {"Authorization": "Digest username=bob"}}, 401),
        ({"params": {"username": "bob", "password": PASSWORD}}, 401),
        ({"data": b""}, 401),
        ({"data": b"{"}, 400),
        ({"data": b"[" * 8000}, 400),
        ({"data": b"\xff\xfe"}, 400),
        ({"data": {"username": "bob", "password": PASSWORD}}, 400),
        ({"json": {"username": "bob"}}, 400),
        ({"json": {"username": "bob", "password": 5}}, 400),
        ({"data": b'{"username": "bob", "password": "\\ud800"}'}, 400),
        ({"data": b"x" * 9000}, 413),
    ],
)
def test_a_login_that_is_not_right_is_refused(users: Server, sent: dict[str, Any], status: int) -> None:
    """Wrong names and wrong passwords look the same; other forms are told what is expected, and nothing is cached."""
    answer = users.post("/login", **sent)
    assert (answer.status_code, answer.json().keys()) == (status, {"error"}), answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert (status == 401) == answer.headers.get("WWW-Authenticate", "").startswith("Basic ")
    assert PASSWORD not in answer.text


def test_too_many_wrong_passwords_close_a_name_for_a_while(users: Server) -> None:
    """The eleventh attempt within a minute is not checked, even if right; other names go on, and success costs none."""
    for _ in range(12):
        assert users.post("/login", auth=("dora", PASSWORD)).status_code == 200
    statuses = [users.post("/login", auth=("carol", "wrong")).status_code for _ in range(10)]
    closed = users.post("/login", auth=("carol", PASSWORD))
    assert (statuses, closed.status_code) == ([401] * 10, 429)
    assert 0 < int(closed.headers["Retry-After"]) <= 60
    assert closed.headers["Cache-Control"] == "no-store"
    assert users.post("/login", auth=("dora", PASSWORD)).status_code == 200


def test_a_flood_of_logins_leaves_room_for_others(users: Server, alice: str) -> None:
    """Few logins wait, the others are told to come again, and predictions are answered meanwhile."""
    with ThreadPoolExecutor(30) as pool:
        logins = [pool.submit(users.post, "/login", auth=("alice", PASSWORD)) for _ in range(90)]
        slowest = max(ask(users, alice).elapsed.total_seconds() for _ in range(30))
        answers = [login.result() for login in logins]
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() == {200, 503}
    assert {answer.headers["Retry-After"] for answer in answers if answer.status_code == 503} == {"1"}
    assert slowest < 5


def test_an_unknown_name_takes_as_long_as_a_known_one(tmp_path: Path) -> None:
    """The time of an answer does not tell who is a user."""
    settings = user_files(tmp_path)
    write(tmp_path / "users", *(f"user{i}:{HASH}" for i in range(40)))
    access = UserAccess(Settings(**settings))

    def seconds(name: str) -> float:
        began = time.perf_counter()
        with pytest.raises(Unauthorized):
            access.log_in(name, "wrong")
        return time.perf_counter() - began

    pairs = [(seconds(f"user{i}"), seconds(f"stranger{i}")) for i in range(40)]
    known, unknown = (median(times) for times in zip(*pairs, strict=True))
    assert 0.7 < unknown / known < 1.4


def test_no_secret_is_logged(server: Server, tmp_path: Path) -> None:
    """Neither tokens, passwords, hashes nor secrets are in the log, in the state or on a command line."""
    start(server, **user_files(tmp_path))
    token = server.post("/login", auth=("alice", PASSWORD)).json()["token"]
    for authorization in (token, f"Bearer {token}x", f"Bearer {token}\x01", f"Basic {token}"):
        requests.post(f"{server.url}/predict?token={token}", json={"instance": 2}, timeout=5, auth=Sent(authorization))
    server.post("/login", auth=("alice", "opensesame"))
    server.post("/login", data=f'{{"username": "alice", "password": "{PASSWORD}"')
    server.post(f"/login?username=alice&password={PASSWORD}")
    write(tmp_path / "users", "alice:opensesame")
    time.sleep(1.1)
    assert ask(server, token).status_code == 200
    assert server.process is not None
    processes = [str(server.process.pid), *(p.name for p in Path("/proc").glob("[0-9]*") if is_child(p, server))]
    seen = [Path("/proc", pid, name).read_text() for pid in processes for name in ("cmdline", "environ")]
    seen += [server.admin(path).text for path in ("/status", "/readyz", "/metrics")]
    seen.append(server.log.read_text())
    assert "line 1 has no argon2id hash" in seen[-1]
    for secret in (token, token[-40:], PASSWORD, "opensesame", HASH[-30:], SECRET):
        assert not any(secret in text for text in seen), secret


def is_child(process: Path, server: Server) -> bool:
    """Tell whether the server has started a process."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    assert server.process is not None
    return int(fields[1]) == server.process.pid


class Asking:
    """Asks all the time, in the background, with the token that it has then, and keeps the statuses."""

    def __init__(self, server: Server, token: str) -> None:
        self.server, self.token, self.statuses = server, token, Counter[int]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.statuses[ask(self.server, f"Bearer {self.token}").status_code] += 1
            time.sleep(0.002)


SEEN = 1.3  # seconds after which every worker that is asked has seen a new file


def test_tokens_rotate_without_a_failed_request(server: Server, tmp_path: Path) -> None:
    """A new token is added, clients change to it, the old one goes: no restart, and no request fails."""
    file = tmp_path / "tokens"
    start(server, access="tokens", tokens_file=write(file, "# ours", TOKEN), workers=2)
    assert ask(server, OTHER).status_code == 401
    assert server.post("/login", auth=("a", "b")).status_code == 404
    with Asking(server, TOKEN) as asking:
        time.sleep(0.3)
        write(file, TOKEN, "", OTHER)
        time.sleep(SEEN)
        asking.token = OTHER
        time.sleep(0.3)
        write(file, OTHER)
        time.sleep(SEEN)
    assert asking.statuses.keys() == {200}
    wait_until(lambda: {ask(server, TOKEN).status_code for _ in range(8)} == {401}, "the old token to be refused", 5)


def test_signing_secrets_rotate_without_a_failed_request(server: Server, tmp_path: Path) -> None:
    """A new secret verifies first, then signs; the old one goes when its tokens have expired, and then they fail."""
    start(server, **user_files(tmp_path), workers=2)
    first = server.post("/login", auth=("alice", PASSWORD)).json()["token"]
    with Asking(server, first) as asking:
        for lines in ((SECRET, NEWER), (NEWER, SECRET), (NEWER,)):
            write(tmp_path / "secrets", *lines)
            time.sleep(SEEN)
            if lines[0] == NEWER:
                asking.token = server.post("/login", auth=("alice", PASSWORD)).json()["token"]
                time.sleep(0.2)
    assert asking.statuses.keys() == {200}
    assert verify(asking.token, (NEWER,), 3600) == "alice"
    wait_until(lambda: {ask(server, first).status_code for _ in range(8)} == {401}, "the old token to be refused", 5)


def test_a_user_who_goes_loses_access(server: Server, tmp_path: Path) -> None:
    """A token is worth nothing once its user is no longer in the file."""
    start(server, **user_files(tmp_path))
    token = server.post("/login", auth=("alice", PASSWORD)).json()["token"]
    assert ask(server, token).status_code == 200
    write(tmp_path / "users", f"bob:{HASH}")
    wait_until(lambda: ask(server, token).status_code == 401, "the token to be refused", 5)
    assert server.post("/login", auth=("alice", PASSWORD)).status_code == 401


def test_a_file_that_breaks_leaves_what_was_valid(server: Server, tmp_path: Path) -> None:
    """What was good last stays valid, nothing else becomes it, and the log says so once for each change."""
    file = tmp_path / "tokens"
    start(server, access="tokens", tokens_file=write(file, TOKEN))

    def broken() -> int:
        return server.log.read_text().count("what it held before stays valid")

    def replace_by_directory() -> None:
        file.unlink()
        file.mkdir()

    damages: list[Callable[[], object]] = [
        file.unlink,
        lambda: write(file, "# none"),
        lambda: write(file, OTHER, "short"),
        lambda: file.write_bytes(b"\xff" * 64),
        replace_by_directory,
    ]
    for number, damage in enumerate(damages, 1):
        damage()
        wait_until(lambda n=number: ask(server, TOKEN).status_code == 200 and broken() >= n, "the log to say so", 5)  # type: ignore[misc]
        assert (ask(server, TOKEN).status_code, ask(server, OTHER).status_code) == (200, 401)
    time.sleep(SEEN)
    assert ask(server, TOKEN).status_code == 200
    assert broken() == len(damages)
    file.rmdir()
    write(file, OTHER)
    wait_until(lambda: ask(server, OTHER).status_code == 200, "the new token to be valid", 5)
    assert ask(server, TOKEN).status_code == 401


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"access": "tokens"}, "PANTRY_TOKENS_FILE is not set, expected the path of a file"),
        (
            {"access": "tokens", "tokens_file": "gone"},
            "PANTRY_TOKENS_FILE: gone cannot be read: No such file or directory",
        ),
        ({"access": "tokens", "tokens_file": "/"}, "PANTRY_TOKENS_FILE: / is no regular file"),
        ({"access": "tokens", "tokens_file": "/dev/zero"}, "PANTRY_TOKENS_FILE: /dev/zero is no regular file"),
        ({"access": "users", "users_file": "/dev/null"}, "PANTRY_USERS_FILE: /dev/null is no regular file"),
        ({"access": "users"}, "PANTRY_USERS_FILE is not set, expected the path of a file"),
        ({"tokens_file": "x"}, "PANTRY_TOKENS_FILE is set, but PANTRY_ACCESS is 'off', expected 'tokens'"),
        (
            {"access": "tokens", "signing_secret_file": "x"},
            "PANTRY_SIGNING_SECRET_FILE is set, but PANTRY_ACCESS is 'tokens', expected 'users'",
        ),
    ],
)
def test_settings_that_cannot_restrict_access_are_refused(settings: dict[str, Any], sentence: str) -> None:
    """Whoever wants access restricted gets it restricted, or no server."""
    with pytest.raises(SettingsInvalid) as caught:
        access_from(Settings(**settings))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ACCESS": "on"}, "PANTRY_ACCESS is 'on', expected one of off, tokens, users"),
        ({"ACCESS": ""}, "PANTRY_ACCESS is '', expected one of off, tokens, users"),
        ({"ACCESS": "tokens", "TOKENS_FILE": "/gone"}, "/gone cannot be read: No such file or directory"),
    ],
)
def test_the_server_does_not_start_open(tmp_path: Path, environment: dict[str, str], sentence: str) -> None:
    """`pantry-serve` ends with 2 and a sentence, and has not listened."""
    models = tmp_path / "models.yaml"
    models.write_text("models: []")
    done = subprocess.run(
        [sys.executable, "-m", "serving.cli", "--models", str(models), "--volume", str(tmp_path)],
        env={"PYTHONPATH": "image:.", **{f"PANTRY_{name}": value for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


GOOD_HASH = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$" + "A" * 43


@pytest.mark.parametrize(
    ("parse", "text", "problem"),
    [
        (parse_tokens, "", "it is empty, expected at least one line that is no # comment"),
        (parse_tokens, "\n# x\n  \n", "it is empty, expected at least one line that is no # comment"),
        (parse_tokens, f"{TOKEN}\n\nshort-one", "line 3 has 9 bytes, expected at least 32"),
        (parse_tokens, f"{TOKEN} {TOKEN}", "line 1 has other characters than printable ASCII without spaces"),
        (parse_tokens, "tökën" * 20, "line 1 has other characters than printable ASCII without spaces"),
        (parse_tokens, "\ufeff" + TOKEN, "line 1 has other characters than printable ASCII without spaces"),
        (parse_secrets, "# x\nshort-one", "line 2 has 9 bytes, expected at least 32"),
        (parse_users, "alice", "line 1 is not NAME:HASH"),
        (parse_users, f":{GOOD_HASH}", "line 1 is not NAME:HASH: a name is printable, has no colon, and"),
        (parse_users, f"{'a' * 129}:{GOOD_HASH}", "line 1 is not NAME:HASH: a name has at most 128 bytes"),
        (parse_users, "alice:opensesame", "line 1 has no argon2id hash"),
        (parse_users, "alice:" + GOOD_HASH.replace("2id", "2i"), "line 1 has no argon2id hash"),
        (parse_users, "alice:" + GOOD_HASH[:-30], "line 1 has no argon2id hash"),
        (parse_users, "alice:" + GOOD_HASH.replace("m=19456", "m=8"), "a hash with m=8, expected 7168 to 65536"),
        (parse_users, "alice:" + GOOD_HASH.replace("m=19456", "m=999999"), "m=999999, expected 7168 to 65536"),
        (parse_users, "alice:" + GOOD_HASH.replace("t=2", "t=99"), "a hash with t=99, expected 1 to 10"),
        (parse_users, "alice:" + GOOD_HASH.replace("p=1", "p=0"), "a hash with p=0, expected 1 to 4"),
        (parse_users, f"a:{GOOD_HASH}\na:{GOOD_HASH}", "line 2 has a name that an earlier line has"),
    ],
)
def test_a_wrong_line_is_named_and_not_told(parse: Any, text: str, problem: str) -> None:
    """The sentence has the number of the line, and none of its secrets."""
    with pytest.raises(ValueError, match="line|empty") as caught:
        parse(lines_of(text.encode()))
    assert problem in str(caught.value)
    for secret in (TOKEN, "short-one", "opensesame", GOOD_HASH[:20]):
        assert secret not in str(caught.value)


def test_a_strangers_hash_costs_what_most_users_hashes_cost() -> None:
    """It has the parameters of the majority, and another salt each time."""
    costly = GOOD_HASH.replace("m=19456", "m=65536")
    lines = lines_of(f"a:{costly}\r\nb:{GOOD_HASH}\r\nc:{costly}\r\n".encode())
    strangers = [parse_users(lines).stranger for _ in range(2)]
    assert all(stranger.startswith("$argon2id$v=19$m=65536,t=2,p=1$") for stranger in strangers)
    assert strangers[0] != strangers[1]
    assert parse_users(lines_of(f"a:{strangers[0]}".encode())).hashes == {"a": strangers[0]}


def test_attempts_are_counted_in_windows_and_forgotten() -> None:
    """A window begins with the first attempt and ends by itself; the table has a bound, whatever names come."""
    attempts = Attempts(limit=2, seconds=60, names=100)
    assert [attempts.take("a", now) for now in (0, 10, 20, 59, 60)] == [0, 0, 40, 1, 0]
    attempts.give_back("a")
    attempts.give_back("nobody")
    assert [attempts.take("a", 61) for _ in range(3)] == [0, 0, 59]
    for i in range(1000):
        attempts.take(f"name{i}", 62)
    assert len(attempts) <= 101
    attempts.take("b", 200)
    assert len(attempts) == 1


def test_replicas_with_one_secret_take_one_anothers_tokens() -> None:
    """What one signs another verifies, and the token expires as both were told."""
    token = sign("alice", (SECRET, NEWER), 60)
    assert verify(token, (NEWER, SECRET), 60) == "alice"
    with pytest.raises(Unauthorized, match="longer than 59 s"):
        verify(token, (SECRET,), 59)


def test_without_access_nobody_is_asked(server: Server) -> None:
    """Access is off unless it is set; there is no login then, and a token that comes all the same does no harm."""
    start(server)
    assert type(access_from(Settings())) is Access
    assert ask(server, None).json() == ask(server, "Bearer x").json() == {"prediction": 4.0}
    answer = server.post("/login", auth=("alice", PASSWORD))
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "there is no login here: PANTRY_ACCESS is not `users`"},
    )


def test_health_tells_strangers_no_names(server: Server, tmp_path: Path) -> None:
    """Where access is restricted, /healthz says that the server is not ready, and not which model is why."""
    server.desire(("confidential", "1"))
    server.start(access="tokens", tokens_file=write(tmp_path / "tokens", TOKEN))
    answer = wait_until(lambda: requests.get(f"{server.url}/healthz", timeout=20), "the serving port")
    assert (answer.status_code, answer.json()) == (503, {"error": "the server is not ready"})


@pytest.mark.parametrize("command", [["-m", "serving.cli", "hash-password"], ["-m", "serving.access.hash"]])
def test_hash_password_prints_a_line_that_lets_in(tmp_path: Path, command: list[str]) -> None:
    """The password comes on standard input; the line goes into the file of users as it is."""

    def run(*arguments: str, password: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *command, *arguments]
        return subprocess.run(
            words, input=password, capture_output=True, text=True, env={"PYTHONPATH": "image:."}, check=False
        )

    line = run("erin", password=f"{PASSWORD}\n").stdout
    settings = user_files(tmp_path)
    write(tmp_path / "users", line.rstrip("\n"))
    access = UserAccess(Settings(**settings))
    token, seconds = access.log_in("erin", PASSWORD)
    assert (verify(token, (SECRET,), seconds), seconds) == ("erin", 3600)
    for arguments, password in ((["a:b"], "x"), (["erin"], ""), (["erin"], "\n"), ([], "x")):
        wrong = run(*arguments, password=password)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "usage" in wrong.stderr


def test_a_name_is_closed_before_its_password_is_checked(tmp_path: Path) -> None:
    """The attempt after the last takes no time of the processor."""
    access = UserAccess(Settings(**user_files(tmp_path)))
    for _ in range(10):
        with pytest.raises(Unauthorized):
            access.log_in("alice", "wrong")
    began = time.perf_counter()
    for _ in range(100):
        with pytest.raises(TooManyAttempts):
            access.log_in("alice", PASSWORD)
    assert time.perf_counter() - began < 0.5
