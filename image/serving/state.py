"""What the server says of itself: the phase of every model.

The supervisor writes it, as one JSON file that is replaced whole, into a directory that only this server uses; workers
of any generation read it to answer for models that they do not hold.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

STATE_NAME = "state.json"
WANTED_DIRECTORY = "wanted"  # has a file for every on-demand model that someone has asked for


class Phase(StrEnum):
    """Where the desired version of a model is on its way; the same words everywhere."""

    WAITING = "waiting"  # nothing of it is on the volume, and no sync has reported
    SYNCING = "syncing"
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    FAILED = "failed"


class ModelState(msgspec.Struct, frozen=True, rename="camel"):
    """One model.

    Attributes:
        name: the model.
        version: the desired version.
        phase: of the desired version.
        bytes: done in this phase, of total_bytes.
        reason: one sentence where the phase is failed.
        serving: the version that answers now, or None.
        on_demand: it is loaded at its first request, and readiness does not wait for it.
    """

    name: str
    version: str
    phase: Phase
    bytes: int = 0
    total_bytes: int = 0
    reason: str = ""
    serving: str | None = None
    on_demand: bool = False


class ServerState(msgspec.Struct, frozen=True, rename="camel"):
    """All models, in the order of models.yaml; the first is the default model.

    Attributes:
        ready: requests can be answered.
        models: every desired model.
        problem: what is wrong with the server as a whole, or "".
        models_problem: the part of it that is wrong with models.yaml, or "".
        generation: number of the generation that answers.
        lost_workers: that died and were replaced, in all generations.
        retired_workers: that grew too big and were replaced, in all generations.
        uptime_seconds: of the supervisor.
    """

    ready: bool
    models: tuple[ModelState, ...]
    problem: str = ""
    models_problem: str = ""
    generation: int = 0
    lost_workers: int = 0
    retired_workers: int = 0
    uptime_seconds: float = 0.0

    def find(self, name: str) -> ModelState | None:
        """Return a model's state, or None where no such model is desired."""
        return next((model for model in self.models if model.name == name), None)


def is_ready(models: tuple[ModelState, ...], was_ready: bool) -> bool:
    """Tell whether a load balancer should send requests.

    At first, every eager model must answer or have failed. Later a new model may be on its way, or a new version may
    have failed, while the others answer as before: that is no reason to take them away.
    """
    eager = [model for model in models if not model.on_demand]
    if not any(model.serving for model in eager):
        return bool(models) and not eager
    return was_ready or all(model.serving or model.phase is Phase.FAILED for model in eager)


def write_state(runtime: Path, state: ServerState) -> None:
    """Replace the state file."""
    temporary = runtime / f".{STATE_NAME}"
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.replace(runtime / STATE_NAME)


def read_state(runtime: Path) -> ServerState:
    """Return the last state that the supervisor wrote."""
    return msgspec.json.decode((runtime / STATE_NAME).read_bytes(), type=ServerState)


def sentence(model: ModelState) -> str:
    """Say in one sentence where a model is."""
    text = f"model {model.name} version {model.version} is {model.phase}"
    if model.phase is Phase.FAILED:
        return f"{text}: {model.reason}"
    return f"{text}: {model.bytes} of {model.total_bytes} bytes" if model.total_bytes else text
