"""The `pantry` command against a store that lies: in this process for speed, or as one that can be killed."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.cli import main
from tests.lying_store.store import URI
from tests.sources import ROOT, assets_on, digits, write_models

Seconds = dict[str, float]  # by the names of the loader's constants
# What a person waits for, shortened in every module that has it.
IMPATIENT: Seconds = {
    "FIRST_PAUSE_SECONDS": 0.01,
    "GIVE_UP_AFTER_SECONDS": 0.4,
    "READ_SECONDS": 0.3,
    "CHUNK_SECONDS": 3.0,
}
STUBBORN: Seconds = {**IMPATIENT, "GIVE_UP_AFTER_SECONDS": 30.0, "READ_SECONDS": 1.0}
_MODULES = ("loader.retry", "loader.transfer.fetch", "loader.sources.ranges")
_HINT = re.compile(
    r"[.:;] (check|correct|enlarge|find|free|give|grant|make|mount|move|name|publish|remove|rename|renew|run|sync|try|"
    r"upload|use|wait)\b",
    re.IGNORECASE,
)
_NOISE = ("Traceback", "Exception", "Warning", "Connection pool", "fork")


@dataclass
class Outcome:
    """How a command ended: its exit status, and what it said last on standard error."""

    status: int
    said: str


@contextlib.contextmanager
def waiting(seconds: Seconds) -> Iterator[None]:
    """Shorten the loader's waits in this process until the end of the block."""
    modules = [importlib.import_module(name) for name in _MODULES]
    before = [(module, name, getattr(module, name)) for module in modules for name in seconds if hasattr(module, name)]
    for module, name, _ in before:
        setattr(module, name, seconds[name])
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def command(models: Path, root: Path, *more: str) -> list[str]:
    return ["sync", "--models", str(models), "--volume", str(root), *more]


def sync_here(root: Path, uri: str = URI, seconds: Seconds = STUBBORN) -> Outcome:
    """Run `pantry sync` of one bundle in this process; an exception that it lets out is the test's failure."""
    models = write_models(root.parent / f"{root.name}.yaml", digits(uri))
    handler, errors = signal.getsignal(signal.SIGTERM), io.StringIO()
    try:
        with waiting(seconds), contextlib.redirect_stderr(errors):
            status = main(command(models, root))
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Outcome(status, last_word(errors.getvalue()))


def start_sync(
    root: Path, uri: str = URI, seconds: Seconds = STUBBORN, before: str = "", **environment: str
) -> subprocess.Popen[str]:
    """Start `pantry sync` as a process, with short waits and, where given, other Python run before it."""
    models = write_models(root.parent / f"{root.name}.yaml", digits(uri))
    code = (
        f"{before}\nfrom tests.lying_store.syncing import main, waiting\n"
        f"with waiting({seconds!r}): raise SystemExit(main({command(models, root)!r}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], timeout: float = 60) -> Outcome:
    """Wait for a sync to end by itself."""
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert output == ""
    return Outcome(process.returncode, last_word(errors))


def last_word(errors: str) -> str:
    """The last event's sentence, be it told as JSON or as a plain line; there must be nothing but events."""
    lines = errors.splitlines()
    said = [json.loads(line)["message"] if line.startswith("{") else line for line in lines]
    for line in said:
        assert not line.startswith((" ", "\t")), errors
        assert not any(line.startswith(word) for word in _NOISE), errors
    return str(said[-1]) if said else ""


def final(root: Path) -> Path:
    return root / "digits" / "1"


def held(root: Path) -> dict[str, bytes] | None:
    """The files under the final name, its manifest checked and left out; None where nothing has it."""
    if not os.path.lexists(final(root)):
        return None
    for asset in Bundle.open(final(root)).manifest.assets:
        Bundle.open(final(root)).read(asset.path)  # every chunk against its digest
    return assets_on(final(root))


def leftovers(root: Path) -> list[str]:
    """What staging directories there are."""
    home = root / "digits" / ".staging"
    return sorted(os.listdir(home)) if home.is_dir() else []


def assert_synced(outcome: Outcome, root: Path, files: dict[str, bytes]) -> None:
    """The sync ended well, and the volume holds these files and nothing half-done."""
    assert outcome.status == 0, outcome.said
    assert held(root) == files
    assert leftovers(root) == []


def assert_refused(outcome: Outcome, root: Path) -> None:
    """The sync failed with one sentence that says what to do, and nothing has the final name."""
    assert outcome.status == 1, outcome
    assert held(root) is None
    sentence = outcome.said
    assert sentence.isprintable(), sentence
    assert len(sentence) < 1200, sentence
    assert _HINT.search(sentence), f"it says nothing of what to do: {sentence}"
    stray = [
        path for path in root.rglob("*") if not path.is_dir() and not path.relative_to(root).parts[1].startswith(".")
    ]
    assert stray == [], "something lies outside of the staging directory"
