"""The `pantry` command: exit statuses, sentences without tracebacks, JSON lines for programs, lines for people."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loader import report
from loader.bundle.sync_status import read_sync_status
from loader.report import Report, SyncProgress
from tests.lying_store import lies
from tests.lying_store.store import EVER, URI, LyingStore, running
from tests.serve import wait_until
from tests.sources import ROOT, digits, pantry, published, start_pantry, write_files, write_models

FILES = {"model.pkl": b"model" * 1000, "a/table.npy": b"table"}


@pytest.fixture(name="models")
def models_file(tmp_path: Path) -> Path:
    """A models.yaml with one published bundle."""
    return write_models(tmp_path / "models.yaml", digits(write_files(tmp_path / "store", published(FILES))))


def on_a_terminal(*arguments: str | Path) -> tuple[int, str]:
    """Runs the command with a terminal as its standard error: the exit status, and what a person would see."""
    master, slave = pty.openpty()
    try:
        with subprocess.Popen([sys.executable, "-m", "loader.cli", *arguments], cwd=ROOT, stderr=slave) as process:
            os.close(slave)
            seen = b""
            while True:
                try:
                    piece = os.read(master, 4096)
                except OSError:  # the other side is closed
                    break
                if not piece:
                    break
                seen += piece
    finally:
        os.close(master)
    return process.returncode, seen.decode()


def test_sync(models: Path, tmp_path: Path) -> None:
    """A sync exits 0, tells its phases in order as JSON with model, version and bytes, and leaves `synced` behind."""
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 0
    assert [event["phase"] for event in events] == ["syncing", "verifying", "synced"]
    for event in events:
        assert (event["model"], event["version"], event["totalBytes"]) == ("digits", "1", 5005)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event["time"])
    assert events[-1]["bytes"] == 5005
    status = read_sync_status(tmp_path / "volume", "digits", "1")
    assert status is not None
    assert status.phase == "synced"
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 0
    assert [event["message"] for event in events] == ["digits 1: on the volume already; nothing moved"]


def test_sync_on_a_terminal(models: Path, tmp_path: Path) -> None:
    """On a terminal people get lines of text, no JSON."""
    code, seen = on_a_terminal("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 0
    lines = seen.splitlines()
    assert lines[0].startswith("digits 1: 2 files, 4.9 KiB from file:///")
    assert lines[-1] == "digits 1: 4.9 KiB synced"
    assert "{" not in seen


def test_failure_on_a_terminal(models: Path, tmp_path: Path) -> None:
    """A failure on a terminal is one line with the next step."""
    shutil.rmtree(tmp_path / "store")
    code, seen = on_a_terminal("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 1
    assert re.fullmatch(r"digits 1: file:///.*/store holds no objects.*Check storageUri and version.*\r\n", seen)


def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While bytes move, a terminal shows one line that is replaced: a bar, bytes, rate, time left, the file."""
    monkeypatch.setenv("COLUMNS", "120")
    store = write_files(tmp_path / "store", published({"model.pkl": os.urandom(60_000_000)}, 512))
    models = write_models(tmp_path / "models.yaml", digits(store))
    code, seen = on_a_terminal("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 0
    assert re.search(
        r"\r\x1b\[Kdigits 1 \[=* *\] +\d+% [\d.]+ MiB of 57\.2 MiB, [\d.]+ MiB/s, \d+ s left, model\.pkl", seen
    )
    assert "synced" in seen.split("\r\x1b[K")[-1]


def test_the_time_left_after_a_pause_is_of_what_comes_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long nothing came would make hours of it."""
    monkeypatch.setattr(report, "LOG_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(report, "RATE_OVER_SECONDS", 0.5)
    stream = io.StringIO()
    progress = SyncProgress(Report(stream, json_lines=True), tmp_path, "m", "1")
    progress.phase("syncing", "m 1: begins", 3_000_000)
    time.sleep(2)
    for _ in range(20):
        progress.advance(100_000, "model.pkl")
        time.sleep(0.01)
    told = [line["secondsLeft"] for line in map(json.loads, stream.getvalue().splitlines()) if "secondsLeft" in line]
    assert told
    assert max(told) < 20  # with the pause it would be a minute


def test_one_of_several_fails(models: Path, tmp_path: Path) -> None:
    """When one of several models fails, the others are synced and the exit status is 1."""
    entries = json.loads(models.read_text())["models"]
    gone = {**digits(tmp_path / "gone"), "name": "gone"}
    write_models(models, gone, *entries)
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 1
    assert [(event["phase"], event["model"]) for event in events] == [
        ("failed", "gone"),
        ("syncing", "digits"),
        ("verifying", "digits"),
        ("synced", "digits"),
    ]


def test_damaged_bundle(models: Path, tmp_path: Path) -> None:
    """Damaged bytes fail in one sentence, on standard error and in the status on the volume."""
    write_files(tmp_path / "store", {"a/table.npy": b"tablf"})
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 1
    assert events[-1]["phase"] == "failed"
    assert "a/table.npy is damaged" in events[-1]["message"]
    status = read_sync_status(tmp_path / "volume", "digits", "1")
    assert status is not None
    assert (status.phase, "is damaged" in status.reason) == ("failed", True)
    assert not (tmp_path / "volume/digits/1").exists()


def test_volume_that_cannot_be_written(models: Path, tmp_path: Path) -> None:
    """A volume that refuses fails in one sentence, although the status cannot be written either."""
    write_files(tmp_path, {"volume": b"a file where a directory must be"})
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 1
    assert {event["phase"] for event in events} == {"failed"}
    assert "refused: Not a directory" in events[-1]["message"]
    assert "Check that it is mounted" in events[-1]["message"]


def test_model_folder_that_is_a_file(models: Path, tmp_path: Path) -> None:
    """A file in the place of the model's folder fails in one sentence."""
    write_files(tmp_path, {"volume/digits": b""})
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert code == 1
    assert "refused" in events[-1]["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fetch"],
        ["sync"],
        ["sync", "--models", "m.yaml"],
        ["sync", "--models", "m.yaml", "--volume", "v", "--retain", "0"],
        ["sync", "--models", "m.yaml", "--volume", "v", "--retain", "x"],
        ["sync", "--models", "m.yaml", "--volume", "v", "extra"],
        ["publish", "directory"],
        ["verify"],
    ],
)
def test_wrong_arguments(arguments: list[str]) -> None:
    """Arguments that cannot be followed exit 2 with the usage."""
    with start_pantry(*arguments) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.startswith("usage: pantry")
    assert "Traceback" not in errors


@pytest.mark.parametrize("text", [None, "models: [", "models: [{name: digits}]", "models: [{}]", "- x"])
def test_wrong_models_file(tmp_path: Path, text: str | None) -> None:
    """A models.yaml that is not there or cannot be followed exits 2 with a sentence that names it."""
    path = tmp_path / "models.yaml"
    if text is not None:
        path.write_text(text)
    code, events = pantry("sync", "--models", path, "--volume", tmp_path / "volume")
    assert code == 2
    assert [event["phase"] for event in events] == ["failed"]
    assert events[0]["message"].startswith(str(path))
    assert not (tmp_path / "volume").exists()


def test_wrong_uri(tmp_path: Path) -> None:
    """A place of unknown kind is wrong use for publish; for sync it is that model's failure."""
    directory = write_files(tmp_path / "source", FILES)
    code, events = pantry("publish", directory, "hdfs://bucket/x")
    assert (code, events[-1]["phase"]) == (2, "failed")
    assert "'hdfs://bucket/x' is of no kind that Pantry reads" in events[-1]["message"]
    models = write_models(tmp_path / "models.yaml", digits("hdfs://bucket/x"))
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume")
    assert (code, events[-1]["phase"]) == (1, "failed")


def test_publish_and_verify(tmp_path: Path) -> None:
    """Publish, sync and verify one after another, each with exit status 0, agree on the digest."""
    directory = write_files(tmp_path / "source", FILES)
    code, events = pantry("publish", directory, f"file://{tmp_path}/store")
    assert (code, [event["phase"] for event in events]) == (0, ["packing", "packed", *3 * ["uploading"], "published"])
    digest = events[-1]["digest"]
    models = write_models(tmp_path / "models.yaml", digits(tmp_path / "store", digest=digest))
    assert pantry("sync", "--models", models, "--volume", tmp_path / "volume")[0] == 0
    code, events = pantry("verify", tmp_path / "volume/digits/1")
    assert (code, [event["phase"] for event in events]) == (0, ["verified"])
    assert events[0]["digest"] == digest


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ({"model.pkl": b"modem" + b"model" * 999}, [r"model\.pkl: expected sha256:\w+, got sha256:\w+"]),
        ({"model.pkl": b"short"}, [r"model\.pkl: expected 5000 bytes, got 5"]),
        ({"model.pkl": None}, [r"model\.pkl: the manifest lists it, but it cannot be read"]),
        ({"stray": b"", "b/stray": b""}, ["b/stray: not in the manifest", "stray: not in the manifest"]),
        ({"manifest.json": None}, ["manifest.json cannot be read"]),
        ({"manifest.json": b"{}"}, ["is not a bundle's manifest"]),
    ],
)
def test_verify_damage(tmp_path: Path, change: dict[str, bytes | None], sentences: list[str]) -> None:
    """Verify names every file that is missing, damaged or strange, each in a sentence, and exits 1."""
    bundle = write_files(tmp_path / "bundle", published(FILES))
    for name, data in change.items():
        if data is None:
            (bundle / name).unlink()
        else:
            write_files(bundle, {name: data})
    code, events = pantry("verify", bundle)
    assert code == 1
    assert [event["phase"] for event in events] == ["failed"] * len(sentences)
    for event, sentence in zip(events, sentences, strict=True):
        assert re.search(sentence, event["message"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """A sync that is told to stop exits 1 soon, says that it can be continued, and shows no traceback."""
    models = write_models(tmp_path / "models.yaml", {"name": "digits", "version": "1", "storageUri": URI})
    with running(LyingStore()) as store:
        store.put(published({"model.pkl": os.urandom(2_000_000)}))
        store.lies(lies.stalled(60), name="model.pkl", times=EVER)  # it is in the middle for a minute
        arguments = ("sync", "--models", models, "--volume", tmp_path / "volume")
        with start_pantry(*arguments, STORAGE_EMULATOR_HOST=store.url) as process:
            wait_until(store.reads, "the model to be asked for")
            process.send_signal(number)
            _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "Traceback" not in errors
    last = json.loads(errors.splitlines()[-1])
    assert last["phase"] == "stopped"
    assert "what has arrived is kept" in last["message"]
