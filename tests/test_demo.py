"""The demo, run as a person runs it: as a process, with its own object store, server and client."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[1] / "examples/digits/demo.py"
README = DEMO.parents[2] / "README.md"
PROC = Path("/proc")
LIMIT_SECONDS = 180

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(name="start")
def starter(tmp_path: Path) -> Iterator[Start]:
    """Starts the demo in a session of its own, and sees afterwards that nothing of it is left: no process, no file."""
    mark, home = f"DEMO_TEST={uuid.uuid4().hex}", tmp_path / "home"
    home.mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, path: Path | None = None) -> subprocess.Popen[str]:
        name, _, value = mark.partition("=")
        environ = {**os.environ, name: value, "TMPDIR": str(home)}
        if path is not None:
            environ["PATH"] = f"{path}{os.pathsep}{environ['PATH']}"
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(DEMO), *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=LIMIT_SECONDS)
    assert living(mark) == []
    assert list(home.iterdir()) == []


def living(mark: str) -> list[str]:
    """The commands of the processes that have inherited a mark; only Linux tells."""
    found = []
    for entry in PROC.glob("[0-9]*") if PROC.is_dir() else []:
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found


def test_once(start: Start) -> None:
    """`demo.py --once` publishes, syncs, serves, swaps without a failed request, and ends with status 0."""
    demo = start("--once")
    output, _ = demo.communicate(timeout=LIMIT_SECONDS)
    assert demo.returncode == 0, output
    for line in (
        r"  503 {\"ready\":false,\"models\":\[{\"name\":\"digits\",\"version\":\"1\",\"phase\":\"waiting\"",
        r"  Version 1: .*loading \d+\.\d s .*→ ready",
        r"  200 {\"digit\":7}",
        r"  Right, and so are the answers to all 10 images\.",
        r"  Version 2: .*loading \d+\.\d s .*→ ready",
        r"  \d+ requests on \d+ connections: answered \d+ by version 1, \d+ by version 2; failed: 0",
        r"Every process has ended, and the directory is removed\.",
    ):
        assert re.search(f"^{line}", output, re.MULTILINE), f"{line}\n{output}"
    shown = next(block for block in README.read_text().split("```\n") if "Ask with a PNG" in block)
    assert masked(shown) <= masked(output), "the README shows what the demo does not say"


def masked(text: str) -> set[str]:
    """The lines of an output without what differs from run to run: numbers, and the phases that one sees."""
    lines = (re.sub(r"^  Version .*→ ready$", "  Version", line) for line in text.splitlines())
    return {re.sub(r"\d+", "N", line) for line in lines}


def test_ctrl_c(start: Start) -> None:
    """Without --once the server stays up until Ctrl-C, which ends every process, with status 0."""
    demo = start()
    assert demo.stdout is not None
    assert any("until Ctrl-C" in line for line in demo.stdout)
    assert demo.poll() is None
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does it: to all of them
    output, _ = demo.communicate(timeout=LIMIT_SECONDS)
    assert demo.returncode == 0, output


def test_stopped_in_the_middle(start: Start) -> None:
    """A demo that is told to end in the middle takes every process along."""
    demo = start()
    assert demo.stdout is not None
    assert any("$ pantry-serve" in line for line in demo.stdout)
    time.sleep(0.5)
    demo.send_signal(signal.SIGTERM)
    output, _ = demo.communicate(timeout=LIMIT_SECONDS)
    assert demo.returncode == 130, output


def test_wrong_answer(start: Start, tmp_path: Path) -> None:
    """A wrong answer ends the demo with a status other than 0 and a sentence; the answer comes from a false curl."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = """#!/bin/sh
case $* in
*/predict) printf '{"digit":3}\\n200' ;;
*) exec "$REAL" "$@" ;;
esac
"""
    if (real := shutil.which("curl")) is None:
        pytest.skip("curl is not installed: the demo then sends the requests itself")
    (folder / "curl").write_text(script.replace("$REAL", real))
    (folder / "curl").chmod(0o755)
    demo = start("--once", path=folder)
    output, _ = demo.communicate(timeout=LIMIT_SECONDS)
    assert demo.returncode == 1, output
    assert """The demo failed: expected status 200 and {"digit":7}, got 200 and '{"digit":3}'""" in output
