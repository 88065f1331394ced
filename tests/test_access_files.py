"""Users, tokens and signing secrets from a bucket: `pantry sync --access` brings them, and a server waits for them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
import requests

from loader.access import MAX_BYTES, AccessFile
from loader.errors import UsageError
from serving.access.passwords import hash_password
from tests.conftest import write_bundle
from tests.model_kinds import Doubler
from tests.serve import Server, wait_until
from tests.sources import digits, pantry, published, read_files, write_files, write_models

TOKEN, OTHER = "token-" + "a" * 40, "token-" + "b" * 40
PASSWORD = "correct horse battery staple"


def sync_access(home: Path, *files: str, command: str = "sync") -> tuple[int, str]:
    """Run `pantry sync`, or `plan`, with a model and access files; its exit status, and what it reports."""
    if not (home / "bucket/m").exists():
        write_files(home / "bucket/m", published({"model.pkl": b"N."}))
    models = write_models(home / "models.yaml", digits(home / "bucket/m"))
    arguments = [argument for file in files for argument in ("--access", file)]
    status, events = pantry(command, "--models", models, "--volume", home / "volume", *arguments)
    return status, "\n".join(event["message"] for event in events)


def test_it_is_on_the_volume_for_its_owner_alone(tmp_path: Path) -> None:
    """Byte for byte, beside the bundles, and in no line of the log."""
    (tmp_path / "people").write_text(f"alice:{TOKEN}\n")
    status, said = sync_access(tmp_path, f"mine-users=file://{tmp_path}/people")
    assert status == 0, said
    file = tmp_path / "volume/.access/mine-users"
    assert file.read_text() == f"alice:{TOKEN}\n"
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    assert "access file mine-users: 53 bytes from" in said
    assert TOKEN not in said
    assert (tmp_path / "volume/digits/1/manifest.json").exists()


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    """And what has is replaced whole, with nothing left beside it."""
    (tmp_path / "people").write_text("a")
    wanted = f"users=file://{tmp_path}/people"
    sync_access(tmp_path, wanted)
    file = tmp_path / "volume/.access/users"
    before = file.stat()
    status, said = sync_access(tmp_path, wanted)
    assert (status, file.stat().st_ino) == (0, before.st_ino)
    assert "access file users: on the volume already, nothing moved" in said
    (tmp_path / "people").write_text("b")
    assert sync_access(tmp_path, wanted)[0] == 0
    assert read_files(tmp_path / "volume/.access") == {"users": b"b"}


def test_what_a_killed_run_left_goes_with_a_later_one(tmp_path: Path) -> None:
    """It holds secrets of before. What is as new as this moment may be a living run's."""
    folder = tmp_path / "volume/.access"
    write_files(folder, {".left": b"old", ".living": b"new"})
    hours_ago = time.time() - 7300
    os.utime(folder / ".left", (hours_ago, hours_ago))
    (tmp_path / "people").write_text("a")
    assert sync_access(tmp_path, f"users=file://{tmp_path}/people")[0] == 0
    assert read_files(folder) == {".living": b"new", "users": b"a"}


def test_plan_tells_what_would_come(tmp_path: Path) -> None:
    """It writes nothing, and fails where the sync would."""
    (tmp_path / "people").write_text("a")
    (tmp_path / "volume").mkdir()
    wanted = f"users=file://{tmp_path}/people"
    status, said = sync_access(tmp_path, wanted, command="plan")
    assert status == 0, said
    assert "access file users: 1 bytes from file://" in said
    assert not list((tmp_path / "volume").iterdir())
    sync_access(tmp_path, wanted)
    status, said = sync_access(tmp_path, wanted, command="plan")
    assert (status, "access file users: on the volume already, nothing moved" in said) == (0, True)
    (tmp_path / "people").unlink()
    status, said = sync_access(tmp_path, wanted, command="plan")
    assert status == 1
    assert "people: No such file or directory" in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "people: No such file or directory"),
        (b"", "people has 0 bytes, expected 1 to 1048576"),
        (b"x" * (MAX_BYTES + 1), "people has 1048577 bytes, expected 1 to 1048576"),
    ],
    ids=["missing", "empty", "too big"],
)
def test_what_cannot_be_right_changes_nothing(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    """The file of before stays, models and other files come all the same, and the sync has failed."""
    write_files(tmp_path / "volume/.access", {"users": b"before"})
    if content is not None:
        (tmp_path / "people").write_bytes(content)
    (tmp_path / "secret").write_bytes(b"s")
    status, said = sync_access(tmp_path, f"users=file://{tmp_path}/people", f"signing-secret=file://{tmp_path}/secret")
    assert status == 1
    assert sentence in said
    assert read_files(tmp_path / "volume/.access") == {"users": b"before", "signing-secret": b"s"}
    assert (tmp_path / "volume/digits/1/manifest.json").exists()


@pytest.mark.parametrize(
    "text", ["users", "=file:///a", "users=file:///a/", "../users=file:///a", ".users=file:///a", "a/b=gs://b/c"]
)
def test_what_names_no_file_or_no_object_is_wrong_use(tmp_path: Path, text: str) -> None:
    """Exit 2, and nothing has been touched."""
    with pytest.raises(UsageError, match="does not say which file is to hold which object"):
        AccessFile.parse(text)
    status, said = sync_access(tmp_path, text)
    assert (status, (tmp_path / "volume").exists()) == (2, False)
    assert "Write NAME=URI" in said


def test_a_folder_is_no_object(tmp_path: Path) -> None:
    """It is refused by name."""
    status, said = sync_access(tmp_path, f"users=file://{tmp_path}/bucket")
    assert status == 1
    assert "is a directory, expected a file" in said


def test_a_volume_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With the sentence that bundles get, too."""
    (tmp_path / "people").write_text("a")
    write_files(tmp_path / "volume", {".access": b"in the way"})
    status, said = sync_access(tmp_path, f"users=file://{tmp_path}/people")
    assert status == 1
    assert f"access file users: the volume {tmp_path}/volume refused: " in said


def start(server: Server, mode: str, **files: str) -> None:
    write_bundle(server.volume / "m" / "1", Doubler())
    server.desire(("m", "1"))
    server.start(access=mode, access_files="synced", **files)


def ask(server: Server, token: str = TOKEN) -> requests.Response:
    return server.post("/predict", json={"instance": 2}, headers={"Authorization": token})


def test_nobody_is_admitted_until_the_files_are_there(server: Server) -> None:
    """The server starts, loads, is not ready, says why, and admits people as soon as the sync has brought them."""
    folder = server.volume / ".access"
    start(server, "users", users_file=f"{folder}/users", signing_secret_file=f"{folder}/secret")
    server.wait_for("m", "ready")
    refused = ask(server)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json() == {"error": "nobody may ask yet: the files that say who may are on their way"}
    for _ in range(12):  # more than the wrong attempts that a name has
        assert server.post("/login", auth=("alice", PASSWORD)).status_code == 503
    assert requests.get(f"{server.url}/healthz", timeout=20).status_code == 503
    state = server.admin("/status").json()
    assert not state["ready"]
    assert f"nobody may ask yet: PANTRY_USERS_FILE: {folder}/users cannot be read" in state["problem"]
    assert f"PANTRY_SIGNING_SECRET_FILE: {folder}/secret cannot be read" in state["problem"]
    assert server.admin("/readyz").status_code == 503

    write_files(folder, {"users": f"alice:{hash_password(PASSWORD)}\n".encode()})
    wait_until(lambda: "PANTRY_USERS_FILE" not in server.admin("/status").json()["problem"], "the users to be seen")
    assert ask(server).status_code == 503
    write_files(folder, {"secret": b"s" * 40})
    wait_until(lambda: server.admin("/readyz").status_code == 200, "the server to be ready")
    assert server.admin("/status").json()["problem"] == ""
    login = wait_until(
        lambda: (answer := server.post("/login", auth=("alice", PASSWORD))).status_code == 200 and answer, "a token"
    )
    assert ask(server, login.json()["token"]).json() == {"prediction": 4}
    assert ask(server, "forged").status_code == 401


def test_a_file_that_comes_wrong_admits_nobody(server: Server) -> None:
    """The problem names its line; the next content counts, and from then on the last good one."""
    folder = server.volume / ".access"
    write_files(folder, {"tokens": b"short\n"})
    start(server, "tokens", tokens_file=f"{folder}/tokens")
    server.wait_for("m", "ready")
    assert ask(server).status_code == 503
    assert "line 1 has 5 bytes, expected at least 32" in server.admin("/status").json()["problem"]
    (folder / "tokens").write_text(f"{TOKEN}\n")
    wait_until(lambda: ask(server).status_code == 200, "the worker to have the token")
    wait_until(lambda: server.admin("/readyz").status_code == 200, "the supervisor to have it")
    shutil.rmtree(folder)
    kept = "what it held before stays valid"
    wait_until(lambda: ask(server).status_code != 200 or kept in server.log.read_text(), "the log to say so")
    assert (ask(server).status_code, ask(server, OTHER).status_code) == (200, 401)
    assert server.admin("/readyz").status_code == 200
    reasons = [json.loads(line).get("reason", "") for line in server.log.read_text().splitlines() if "secrets-" in line]
    assert sum("cannot be read" in reason for reason in reasons) == 1
