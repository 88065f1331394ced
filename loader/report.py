"""Saying what is going on: a bar on a terminal, plain lines in a log, JSON lines for a program that asks."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections import deque
from pathlib import Path
from typing import Literal, TextIO

from loader.bundle.sync_status import SyncStatus, write_sync_status
from loader.staging import volume_errors

LOG_EVERY_SECONDS = 5.0
TERMINAL_EVERY_SECONDS = 0.2
STATUS_EVERY_SECONDS = 1.0
RATE_OVER_SECONDS = 10.0


class Report:
    """Writes events to a stream, in the form that suits it: a terminal gets a bar, a log plain lines, a program JSON.

    Args:
        stream: where to; standard error by default.
        json_lines: one JSON object a line, whatever the stream is.
    """

    def __init__(self, stream: TextIO | None = None, *, json_lines: bool = False) -> None:
        self._stream, self._json = stream or sys.stderr, json_lines
        self.terminal = self._stream.isatty() and not json_lines
        self._unfinished = False

    def event(self, phase: str, text: str, **fields: object) -> None:
        """Report one event: `text` for people, phase and fields for programs."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            line = json.dumps({"time": now, "phase": phase, "message": text, **fields})
        else:
            line = text if self.terminal else f"{now} {phase}: {text}"
        end = "\r\x1b[K" if self._unfinished else ""
        self._unfinished = False
        print(f"{end}{line}", file=self._stream, flush=True)

    def passing(self, text: str) -> None:
        """Show a line on the terminal that the next one replaces."""
        self._stream.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
        self._stream.flush()
        self._unfinished = True


class SyncProgress:
    """Tells how far one bundle's sync is: on the report, and on the volume, where the server reads it."""

    def __init__(self, report: Report, root: Path, model: str, version: str) -> None:
        self.report, self._root, self._model, self._version = report, root, model, version
        self._bytes = self._total = 0
        self._began = self._told = self._written = time.monotonic()
        self._lately = deque([(self._began, 0)])

    def phase(self, phase: Literal["syncing", "verifying", "synced"], text: str, total: int | None = None) -> None:
        """Enter a phase.

        Args:
            phase: the word for programs.
            text: the sentence for people.
            total: bytes that the whole bundle has, where that is known by now.

        Raises:
            VolumeError: the volume cannot be written.
        """
        self._total = self._total if total is None else total
        if phase == "synced":
            self._bytes = self._total
        self._write(SyncStatus(phase, self._bytes, self._total))
        self._say(phase, text)

    def failed(self, reason: str) -> None:
        """Report why there will be no bundle, on the volume too where that can be written."""
        self._say("failed", f"{self._model} {self._version}: {reason}")
        self._write(SyncStatus("failed", self._bytes, self._total, reason))

    def advance(self, count: int, name: str) -> None:
        """Count bytes that are there and right now.

        Args:
            count: bytes.
            name: of the file they belong to.
        """
        now = time.monotonic()
        if now - self._lately[-1][0] > RATE_OVER_SECONDS:  # how long nothing came is no measure of the rest
            self._lately, self._told = deque([(now, self._bytes)]), now
        self._bytes += count
        if now - self._written >= STATUS_EVERY_SECONDS:
            self._written = now
            self._write(SyncStatus("syncing", self._bytes, self._total))
        if now - self._told >= (TERMINAL_EVERY_SECONDS if self.report.terminal else LOG_EVERY_SECONDS):
            self._told = now
            self._tell(name)

    def _rate(self) -> float:
        """Return bytes per second of late: what an earlier run had brought says nothing of this one's network."""
        now = time.monotonic()
        self._lately.append((now, self._bytes))
        while len(self._lately) > 2 and now - self._lately[0][0] > RATE_OVER_SECONDS:
            self._lately.popleft()
        (then, before), *_ = self._lately
        return (self._bytes - before) / max(now - then, 0.001)

    def _tell(self, name: str) -> None:
        rate = self._rate()
        left = (self._total - self._bytes) / max(rate, 1.0)
        arrived = f"{human_bytes(self._bytes)} of {human_bytes(self._total)}"
        amounts = f"{arrived}, {human_bytes(rate)}/s, {left:.0f} s left, {name}"
        text = f"{self._model} {self._version}: {amounts}"
        if self.report.terminal:
            part = self._bytes / max(self._total, 1)
            self.report.passing(f"{self._model} {self._version} {bar(part)} {part:4.0%} {amounts}")
        else:
            self._say("syncing", text, bytesPerSecond=int(rate), secondsLeft=int(left), file=name)

    def _say(self, phase: str, text: str, **more: object) -> None:
        self.report.event(
            phase,
            text,
            model=self._model,
            version=self._version,
            bytes=self._bytes,
            totalBytes=self._total,
            seconds=round(time.monotonic() - self._began, 3),
            **more,
        )

    def _write(self, status: SyncStatus) -> None:
        with volume_errors(self._root):
            write_sync_status(self._root, self._model, self._version, status)


def bar(part: float, width: int = 24) -> str:
    """Return a bar that is filled up to a part between 0 and 1."""
    filled = int(min(max(part, 0.0), 1.0) * width)
    return f"[{'=' * filled}{' ' * (width - filled)}]"


def human_bytes(count: float) -> str:
    """Return a byte count as people read it, such as 1.2 GiB."""
    if count < 1024:
        return f"{count:.0f} bytes"
    units = ("KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log(count, 1024)), len(units))
    return f"{count / 1024**power:.1f} {units[power - 1]}"
