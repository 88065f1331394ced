"""Which models there are: those that this generation holds, and those that the supervisor says are on their way."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from serving.errors import ModelNotReady, NotFound
from serving.models.model import Model
from serving.state import STATE_NAME, WANTED_DIRECTORY, ModelState, ServerState, read_state, sentence
from serving.wire.openapi import Described


class Catalog:
    """Finds models by name and version, or says why they cannot answer.

    Args:
        models: loaded, by name.
        runtime: the directory that the supervisor shares with its generations.
    """

    def __init__(self, models: dict[str, Model], runtime: Path) -> None:
        self._models, self._runtime = models, runtime
        self._read: tuple[tuple[int, int], ServerState] | None = None  # which file it was, and what it said

    @property
    def state(self) -> ServerState:
        """What the supervisor said last; it writes a few times a second, and requests may be a thousand."""
        file = (self._runtime / STATE_NAME).stat()
        identity, read = (file.st_ino, file.st_mtime_ns), self._read
        if read is None or read[0] != identity:
            self._read = read = identity, read_state(self._runtime)
        return read[1]

    @property
    def held(self) -> Collection[Model]:
        """The models that can answer here."""
        return self._models.values()

    @property
    def default(self) -> str:
        """The name of the first model of models.yaml.

        Raises:
            ModelNotReady: there is no model at all.
        """
        models = self.state.models
        if not models:
            raise ModelNotReady("the server has no models: models.yaml lists none")
        return models[0].name

    def alive(self, path: str) -> str | dict[str, Any] | None:
        """Return what the default model's author lets a page say; None where nothing, or the model is not held here."""
        models = self.state.models
        held = self._models.get(models[0].name) if models else None
        return held.config.alive.get(path) if held else None

    def described(self) -> tuple[Described, ...]:
        """Return every model, with what it declares where it is held here."""
        return tuple(
            Described(state.name, held.version, held.config)
            if (held := self._models.get(state.name))
            else Described(state.name, state.version, None)
            for state in self.state.models
        )

    def describe(self, name: str) -> ModelState:
        """Return where a model is.

        Raises:
            NotFound: no such model.
        """
        if (state := self.state.find(name)) is None:
            raise NotFound(f"model {name[:100]!r} is unknown; GET /models lists them")
        return state

    def get(self, name: str, version: str | None = None) -> Model:
        """Return a model that can answer.

        Raises:
            NotFound: no such model or version.
            ModelNotReady: it is not loaded.
        """
        model = self._models.get(name)
        if model is not None and version in (None, model.version):
            return model
        state = self.describe(name)
        if version not in (None, state.version):
            held = f"; version {model.version} is" if model else ""
            raise NotFound(f"version {(version or '')[:100]!r} of model {name} is not served{held}")
        if state.on_demand and model is None:
            (self._runtime / WANTED_DIRECTORY / name).touch()
        raise ModelNotReady(sentence(state))
