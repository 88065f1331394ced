"""What a supervisor and a generation tell each other: a spec on the command line, messages on a pipe, as JSON."""

from __future__ import annotations

import msgspec

from serving.settings import Settings
from serving.state import Phase


class BundleRef(msgspec.Struct, frozen=True, order=True):
    """One bundle on the volume: which model and version it is, and the digest of its manifest."""

    name: str
    version: str
    digest: str


class GenerationSpec(msgspec.Struct, frozen=True):
    """All that a generation needs to know."""

    number: int
    bundles: tuple[BundleRef, ...]
    volume: str
    runtime: str
    listener: int  # file descriptor of the listening socket
    pipe: int  # file descriptor on which messages go to the supervisor
    settings: Settings
    directories: dict[str, str] = {}  # of models that are served unverified, from elsewhere than the volume


class WorkerEnded(msgspec.Struct, frozen=True, tag=True):
    """One line from a generation to its supervisor: a worker has gone, and another is forked in its place.

    Attributes:
        pid: its process id.
        computing: the models that were in a predict.
        grown: bytes by which it had grown, where it was asked to end for that.
    """

    pid: int
    computing: tuple[str, ...] = ()
    grown: int = 0


class Closed(msgspec.Struct, frozen=True, tag=True):
    """One line from a generation to its supervisor: it ends, and none of its workers takes connections any more."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """One line from a generation to its supervisor: progress, a failure, or a worker that answers.

    Attributes:
        phase: loading, warming, ready (one worker answers) or failed.
        model: what the message is about, or "" for the generation as a whole.
        bytes: verified and read so far, of total_bytes.
        reason: one sentence where the phase is failed.
    """

    phase: Phase
    model: str = ""
    bytes: int = 0
    total_bytes: int = 0
    reason: str = ""
