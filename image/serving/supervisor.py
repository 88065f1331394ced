"""The supervisor: PID 1 of the pod. It holds no model code and never unpickles.

A few times a second it compares what models.yaml desires with what the volume has and with what is served, and acts as
`rules` says. There is always a generation that answers: before the first model is loaded it is one without models,
which answers 503 with phases.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from loader.bundle.errors import ModelsInvalid
from loader.bundle.models import ModelSpec, load_models
from serving import rules
from serving.admin import AdminServer
from serving.catalog import WANTED_DIRECTORY
from serving.messages import BundleRef
from serving.process import GenerationProcess
from serving.rules import Failure, Sighting
from serving.settings import Settings
from serving.state import ModelState, Phase, ServerState, is_ready, write_state
from serving.watch import VolumeWatch

TICK_SECONDS = 0.25
KILL_AFTER_SECONDS = 5.0  # beyond what gunicorn itself takes to end its workers


class Supervisor:
    """Serves what models.yaml desires, from a volume, until it is told to stop.

    Args:
        models: path of models.yaml; read again all the time.
        volume: the directory that the loader fills.
        listener: the listening socket of the serving port; owned by the supervisor, inherited by generations.
        admin: the admin server.
        settings: of the server.
    """

    def __init__(
        self, models: Path, volume: Path, listener: socket.socket, admin: AdminServer, settings: Settings
    ) -> None:
        self._models_path, self._volume, self._settings = models, volume, settings
        self._listener, self._admin = listener, admin
        self._watch = VolumeWatch(volume)
        self._runtime_home = tempfile.TemporaryDirectory(prefix="pantry-")
        self._runtime = Path(self._runtime_home.name)
        (self._runtime / WANTED_DIRECTORY).mkdir()
        self._desired: tuple[ModelSpec, ...] = ()
        self._problem = ""
        self._serving: GenerationProcess | None = None
        self._starting: GenerationProcess | None = None
        self._draining: list[GenerationProcess] = []
        self._failures: dict[BundleRef, Failure] = {}
        self._seen: dict[str, Sighting] = {}
        self._generations = 0
        self._stopping = False
        self._began = time.monotonic()
        self._state = ServerState(ready=False, models=())

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then drain and return."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        with self._runtime_home:
            while not self._stopping:
                self._observe()
                self._act()
                self._publish()
                time.sleep(TICK_SECONDS)
            self._shut_down()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _observe(self) -> None:
        """Look at models.yaml, at the volume, and at the children."""
        try:
            self._desired, self._problem = load_models(self._models_path), ""
        except ModelsInvalid as error:  # what was desired before still is
            if self._problem != str(error):
                log("models-invalid", reason=str(error))
            self._problem = str(error)
        self._seen = {spec.name: self._watch.look(spec) for spec in self._desired}
        refs = {sighting.ref for sighting in self._seen.values()}
        self._failures = {ref: failure for ref, failure in self._failures.items() if ref in refs}
        self._reap()
        for generation in (self._serving, self._starting):
            if generation is not None:
                generation.pump()

    def _reap(self) -> None:
        """Collect ended children: generations, and orphans that PID 1 inherits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for generation in (self._serving, self._starting, *self._draining):
                if generation is not None and generation.pid == pid:
                    generation.ended(status)

    def _act(self) -> None:
        self._bury()
        self._promote()
        serving = self._serving.bundles if self._serving else ()
        now = time.monotonic()
        failed = {ref for ref, failure in self._failures.items() if now < failure.retry_at}
        wanted = os.listdir(self._runtime / WANTED_DIRECTORY)
        chosen = rules.choose_bundles(self._desired, self._seen, serving, failed, wanted)
        # Where nothing answers, the generation without models comes first: it is there in half a second.
        target = chosen if self._serving is not None else ()
        if self._starting is not None:
            if self._starting.bundles != target:
                log("generation-superseded", generation=self._starting.number)
                self._starting.kill()
                self._draining.append(self._starting)
                self._starting = None
        elif self._serving is None or self._serving.bundles != target:
            self._start(target)

    def _bury(self) -> None:
        """Draw conclusions from generations that ended or take too long."""
        for generation in self._draining:
            if generation.overdue and generation.exit_status is None:
                generation.kill()
        self._draining = [generation for generation in self._draining if generation.exit_status is None]
        if self._serving is not None and self._serving.exit_status is not None:
            log("generation-lost", generation=self._serving.number, status=self._serving.exit_status)
            self._serving = None
        starting = self._starting
        if starting is None:
            return
        limit = self._settings.load_timeout_seconds
        if starting.exit_status is None and time.monotonic() - starting.began > limit:
            starting.kill()
            self._draining.append(starting)
            self._fail(starting, f"not ready after {limit} s (PANTRY_LOAD_TIMEOUT_SECONDS)")
        elif starting.exit_status is not None:
            self._fail(starting, starting.failure.reason if starting.failure else starting.epitaph())

    def _fail(self, generation: GenerationProcess, reason: str) -> None:
        serving = self._serving.bundles if self._serving else ()
        model = generation.failure.model if generation.failure else generation.loading
        for ref in rules.blame(generation.bundles, serving, model):
            self._failures[ref] = rules.next_failure(self._failures.get(ref), reason, time.monotonic())
        log("generation-failed", generation=generation.number, reason=reason)
        self._starting = None

    def _promote(self) -> None:
        """Let a generation that answers take over from the one before."""
        if self._starting is None or not self._starting.ready:
            return
        log(
            "generation-serving",
            generation=self._starting.number,
            bundles=[f"{ref.name}/{ref.version}" for ref in self._starting.bundles],
            seconds=round(time.monotonic() - self._starting.began, 3),
        )
        for ref in self._starting.bundles:
            self._failures.pop(ref, None)
        if self._serving is not None:
            self._serving.drain(self._settings.drain_seconds + KILL_AFTER_SECONDS)
            self._draining.append(self._serving)
        self._serving, self._starting = self._starting, None

    def _start(self, bundles: tuple[BundleRef, ...]) -> None:
        self._generations += 1
        self._publish()  # the state must be there before anyone reads it
        self._starting = GenerationProcess(
            self._generations,
            bundles,
            str(self._volume),
            str(self._runtime),
            self._listener.fileno(),
            self._settings,
        )
        log("generation-starting", generation=self._generations, bundles=[f"{r.name}/{r.version}" for r in bundles])

    def _publish(self) -> None:
        """Tell everyone where each model is."""
        serving = self._serving.bundles if self._serving else ()
        progress = self._starting.progress() if self._starting else {}
        models = tuple(
            rules.describe(spec, self._seen[spec.name], serving, self._failures, progress) for spec in self._desired
        )
        self._log_changes(models)
        state = ServerState(
            ready=not self._stopping and is_ready(models, self._state.ready),
            models=models,
            problem=self._problem,
            generation=self._serving.number if self._serving else 0,
            uptime_seconds=round(time.monotonic() - self._began, 1),
        )
        self._state = self._admin.state = state
        write_state(self._runtime, state)

    def _log_changes(self, models: tuple[ModelState, ...]) -> None:
        before = {model.name: (model.version, model.phase, model.reason) for model in self._state.models}
        for model in models:
            if before.get(model.name) != (model.version, model.phase, model.reason):
                reason = {"reason": model.reason} if model.phase is Phase.FAILED else {}
                log(
                    "phase", model=model.name, version=model.version, phase=model.phase, serving=model.serving, **reason
                )

    def _shut_down(self) -> None:
        """Stop accepting, let every generation answer what it has begun, and see them all gone."""
        log("stopping")
        self._publish()
        self._listener.close()
        if self._starting is not None:
            self._starting.kill()
        living = [g for g in (self._serving, self._starting, *self._draining) if g is not None]
        for generation in living:
            generation.drain(self._settings.drain_seconds + KILL_AFTER_SECONDS)
        while living := [generation for generation in living if generation.exit_status is None]:
            self._reap()
            for generation in living:
                if generation.overdue:
                    generation.kill()
            time.sleep(0.05)
        log("stopped")


def log(event: str, **fields: object) -> None:
    """Write one JSON line to stderr."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"time": now, "event": event, **fields}), file=sys.stderr, flush=True)
