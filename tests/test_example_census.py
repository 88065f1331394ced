"""examples/census: a client that was written for another server logs in and asks, of any of several replicas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests

from tests.examples import ROOT, Example
from tests.serve import Server

USER, PASSWORD = "alice", "correct horse battery staple"
YOUNG = [25, "Private", 226802, "11th", 7, "Never-married", "Machine-op-inspct", "Own-child", "Black", "Male", 0, 0, 40,
         "United-States"]  # fmt: skip
RICH = [52, "Self-emp-inc", 287927, "Masters", 14, "Married-civ-spouse", "Exec-managerial", "Wife", "White", "Female",
        15024, 0, 50, "United-States"]  # fmt: skip
LITTLE, MUCH = "Annual Salary <50K", "Annual Salary >=50K"


@pytest.fixture(scope="module", name="census")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    example = Example("census", tmp_path_factory.mktemp("census"))
    example.publish()
    return example


@pytest.fixture(scope="module", name="secrets")
def secret(census: Example) -> Path:
    """Users and signing secret, made as values.yaml says, in the bucket."""
    folder = census.home / "bucket/census"
    hashed = subprocess.run(
        [sys.executable, "-m", "serving.cli", "hash-password", USER],
        input=PASSWORD,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "image",
    )
    (folder / "users").write_text(hashed.stdout)
    made = subprocess.run(["openssl", "rand", "-hex", "32"], capture_output=True, text=True, check=True)
    (folder / "signing-secret").write_text(made.stdout)
    return folder


@pytest.fixture(scope="module", name="replicas")
def serving(census: Example, secrets: Path) -> Iterator[list[Server]]:
    """As many servers as the values have replicas, on one volume."""
    (deployment,) = (thing for thing in census.objects() if thing["kind"] == "Deployment")
    servers = [census.server(f"replica-{number}") for number in range(deployment["spec"]["replicas"])]
    assert len(servers) == 2
    for server in servers:
        server.volume = servers[0].volume
    for server in servers:
        census.sync(server)
    assert sorted(path.name for path in (servers[0].volume / ".access").iterdir()) == [
        "census-pantry-signing-secret",
        "census-pantry-users",
    ]
    for server in servers:
        census.start(server)
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture(name="url")
def address(replicas: list[Server]) -> str:
    return f"{replicas[0].url}/"


def log_in(url: str) -> str:
    answer = requests.get(url + "login", auth=(USER, PASSWORD))
    assert answer.status_code == 200
    token: str = answer.json()["token"]
    return token


def ask(url: str, token: str | None, *rows: Any) -> requests.Response:
    headers = {} if token is None else {"Authorization": token}
    return requests.post(url + "prediction", headers=headers, json={"inputs": list(rows)})


def test_the_client_gets_decoded_answers(url: str) -> None:
    """A login with a password gives a token; rows of numbers and texts give salaries in words."""
    answer = ask(url, log_in(url), YOUNG, RICH)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [LITTLE, MUCH]})


def test_the_examples_client_runs(url: str, census: Example) -> None:
    """client.py, as it is, prints the answer that the README shows; with a wrong password it ends with 401."""
    command = [sys.executable, str(census.folder / "client.py"), url, USER]
    done = subprocess.run([*command, PASSWORD], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in (census.folder / "README.md").read_text()
    failed = subprocess.run([*command, "wrong"], capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "401" in failed.stderr


def test_each_replica_takes_the_tokens_of_the_other(replicas: list[Server]) -> None:
    """A client that a load balancer sends anywhere logs in once."""
    first, second = (f"{server.url}/" for server in replicas)
    for giver, taker in ((first, second), (second, first)):
        assert ask(taker, log_in(giver), YOUNG).json() == {"predictions": [LITTLE]}


@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD), (USER, ""), ("", "")])
def test_a_wrong_password_or_name_is_401(url: str, user: str, password: str) -> None:
    """One sentence for both, which tells nobody which names there are."""
    answer = requests.get(url + "login", auth=(user, password))
    assert (answer.status_code, answer.json()) == (401, {"error": "the name or the password is wrong"})


def forged(secrets: Path, secret: str | None = None, **claims: Any) -> str:
    """A token with other claims than /login gives, signed with the service's secret or another."""
    now = int(time.time())
    real = {"iss": "pantry", "aud": "pantry", "sub": USER, "iat": now, "exp": now + 600, **claims}
    return jwt.encode(real, secret or (secrets / "signing-secret").read_text().strip(), "HS256")


def test_a_missing_stale_or_forged_token_is_401_with_a_sentence(url: str, secrets: Path) -> None:
    """The client is told what is wrong with the token; a right one, made in the same way, is taken."""
    assert ask(url, forged(secrets), YOUNG).status_code == 200
    hour_ago = int(time.time()) - 3600
    for token, sentence in (
        (None, "a token is needed: send it as `Authorization: Bearer TOKEN`"),
        (forged(secrets, iat=hour_ago, exp=hour_ago + 600), "the token has expired; POST /login gives a new one"),
        (forged(secrets, secret="0" * 64), "the token is not signed by this server"),
        (forged(secrets, sub="mallory"), "the token's user is no longer one"),
        (
            forged(secrets, exp=hour_ago + 10**6),
            "the token is made for longer than 3600 s; POST /login gives a new one",
        ),
        ("nonsense", "the token is not one that /login gives"),
    ):
        answer = ask(url, token, YOUNG)
        assert (answer.status_code, answer.json()) == (401, {"error": sentence})


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (YOUNG[:-1], "instance 1: expected a list of 14 values (age, workclass, fnlwgt, education, education-num,"),
        ([*YOUNG, 1], "instance 1: expected a list of 14 values (age, workclass,"),
        (["old", *YOUNG[1:]], "input 'age': expected numbers, or texts, or booleans; got numbers and texts"),
        ([25.5, *YOUNG[1:]], "input 'age': expected INT64, got numbers"),
        ([25, 7, *YOUNG[2:]], "input 'workclass': expected numbers, or texts, or booleans; got numbers and texts"),
        (
            [*YOUNG[:3], "12th grade", *YOUNG[4:]],
            "model census does not take this input: ValueError: education '12th grade' is not one that it has learned",
        ),
        ("a person", "the model takes several inputs: every instance must be an object with age, workclass,"),
    ],
)
def test_a_wrong_row_is_named(url: str, row: Any, sentence: str) -> None:
    """Too few or many values, a kind of value, or a word that the model has not learned: 400 with the column's name."""
    answer = ask(url, log_in(url), YOUNG, row)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(sentence)


def test_rows_may_name_their_columns(url: str) -> None:
    """As in the other forms a row may be an object; every missing and unknown column is named."""
    names = [spec["name"] for spec in requests.get(url + "v2/models/census", headers=bearer(url)).json()["inputs"]]
    row = dict(zip(names, YOUNG, strict=True))
    assert ask(url, log_in(url), dict(reversed(row.items()))).json() == {"predictions": [LITTLE]}
    del row["age"], row["sex"]
    answer = ask(url, log_in(url), {**row, "gender": "Male"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "inputs 'age', 'sex' are missing; input 'gender' is unknown; the model takes"
    )


def bearer(url: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {log_in(url)}"}


def test_the_hand_made_service_answers_alike(url: str, census: Example, secrets: Path) -> None:
    """handmade.py, for which the client was written and which the README compares with, answers the client the same."""
    client = """
import json, sys
from handmade import app
client, rows = app.test_client(), json.loads(sys.argv[1])
token = client.get("/login", auth=("alice", "correct horse battery staple")).json["token"]
answer = client.post("/prediction", headers={"Authorization": token}, json={"inputs": rows}).json
print(json.dumps([client.get("/login", auth=("alice", "wrong")).status_code, answer]))
"""
    done = subprocess.run(
        [sys.executable, "-c", client, json.dumps([YOUNG, RICH])],
        cwd=census.folder,
        env={
            **os.environ,
            "MODEL": str(census.home / "source-1/model.pkl"),
            "SECRET": str(secrets / "signing-secret"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [401, ask(url, log_in(url), YOUNG, RICH).json()]
