"""The supervisor: PID 1 of the pod. It holds no model code and never unpickles.

A few times a second it compares what models.yaml desires with what the volume has and with what is served, and acts as
`rules` says. There is always a generation that answers: before the first model is loaded it is one without models,
which answers 503 with phases.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from loader.bundle.models import ModelSpec
from serving.access.modes import Access
from serving.settings import Settings
from serving.state import WANTED_DIRECTORY, ModelState, Phase, ServerState, is_ready, write_state
from serving.supervise import rules
from serving.supervise.admin import AdminServer
from serving.supervise.exposition import Exposition
from serving.supervise.exposition import tell as log
from serving.supervise.failures import Failures
from serving.supervise.generation_process import GenerationProcess
from serving.supervise.generations import Generations
from serving.supervise.messages import BundleRef
from serving.supervise.room import look_for_room
from serving.supervise.rules import Need, Sighting, Verdict
from serving.supervise.watch import ModelsFile, VolumeWatch

TICK_SECONDS = 0.2
EMPTY_DRAIN_SECONDS = 5.0  # for a generation without models: its answers are short


class Supervisor:
    """Serves what models.yaml desires, from a volume, until it is told to stop.

    Args:
        models: path of models.yaml; read again all the time.
        volume: the directory that the loader fills.
        listener: the listening socket of the serving port; owned by the supervisor, inherited by generations.
        admin: the admin server.
        settings: of the server.
        access: who may ask; the server is not ready before anyone may.
        reload: whether bundles are directories that a person is working in (see `development`).
    """

    def __init__(
        self,
        models: Path,
        volume: Path,
        listener: socket.socket,
        admin: AdminServer,
        settings: Settings,
        access: Access,
        reload: bool = False,
    ) -> None:
        self._models, self._volume, self._settings = ModelsFile(models), volume, settings
        self._listener, self._admin, self._access = listener, admin, access
        self._watch = VolumeWatch(volume, reload)
        if reload:
            log("nothing-is-verified", reason="--reload serves directories as they are; it is for development")
        self._runtime_home = tempfile.TemporaryDirectory(prefix="pantry-")
        self._runtime = Path(self._runtime_home.name)
        (self._runtime / WANTED_DIRECTORY).mkdir()
        self._exposition = admin.exposition = Exposition(self._runtime)
        self._desired: tuple[ModelSpec, ...] = ()
        self._problem = ""
        self._generations, self._failures = Generations(settings.drain_seconds), Failures()
        self._seen: dict[str, Sighting] = {}
        self._needs: dict[BundleRef, Need] = {}
        self._held: tuple[BundleRef, ...] = ()  # what answered last, also while it makes room or was lost
        self._making_room = False
        self._room_at = 0.0  # when to look again whether there is room
        self._losses: list[float] = []  # when generations that served were lost
        self._lost_workers, self._retired_workers = 0, 0
        self._started = 0
        self._stopping = False
        self._began = time.monotonic()
        self._state = ServerState(ready=False, models=())

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then drain and return."""
        self._wake, wake = os.pipe()
        for end in (self._wake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # so that it wakes too
        with self._runtime_home:
            self._observe()
            self._publish()
            self._admin.start()  # from its first answer on it knows the models
            while not self._stopping:
                self._observe()
                self._act()
                self._publish()
                self._rest()
            self._shut_down()

    def _rest(self) -> None:
        """Wait for a tick, or until a signal comes or a generation says something."""
        pipes = [generation.pipe for generation in self._generations.heard if generation.exit_status is None]
        readable, _, _ = select.select([self._wake, *pipes], [], [], TICK_SECONDS)
        if self._wake in readable:
            os.read(self._wake, 4096)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _observe(self) -> None:
        """Look at models.yaml, at the volume, and at the children."""
        problem = self._problem
        self._desired, self._problem = self._models.read()
        if self._problem and self._problem != problem:
            log("models-invalid", reason=self._problem)
        self._seen = {spec.name: self._watch.look(spec) for spec in self._desired}
        self._held = tuple(ref for ref in self._held if ref.name in self._seen)
        seen = {sighting.ref: sighting.need for sighting in self._seen.values() if sighting.ref is not None}
        refs = {*seen, *self._held}
        self._needs = {ref: need for ref, need in {**self._needs, **seen}.items() if ref in refs}
        self._failures.keep(refs)
        self._generations.reap()
        for generation in self._generations.heard:
            generation.pump()
            self._count_workers(generation)

    def _count_workers(self, generation: GenerationProcess) -> None:
        while generation.ended_workers:
            worker = generation.ended_workers.pop(0)
            if worker.grown:
                self._retired_workers += 1
                log("worker-retired", generation=generation.number, pid=worker.pid, grown_bytes=worker.grown)
            else:
                self._lost_workers += 1
                log("worker-lost", generation=generation.number, pid=worker.pid, computing=worker.computing)

    def _act(self) -> None:
        self._bury()
        self._promote()
        wanted = os.listdir(self._runtime / WANTED_DIRECTORY)
        chosen = rules.choose_bundles(self._desired, self._seen, self._held, self._failures.resting, wanted)
        target = () if self._needs_empty(chosen) else chosen
        serving, starting = self._generations.serving, self._generations.starting
        if starting is not None:
            if starting.bundles != target:
                log("generation-superseded", generation=starting.number)
                self._generations.give_up_starting()
        elif serving is None or serving.bundles != target:
            if self._has_room(target) if target else not self._failures.empty_rests:
                self._start(target)
        elif not self._failures.empty_rests:
            self._failures.empty = None  # none is needed any more

    def _needs_empty(self, chosen: tuple[BundleRef, ...]) -> bool:
        """Tell whether a generation without models comes first: where nothing answers, it is there in half a second.

        Where it is not, because it failed, models do not wait for it, and none that is being loaded makes way for it.
        """
        if self._generations.serving is not None and not self._making_room:
            return False
        loading = self._generations.starting is not None and self._generations.starting.bundles
        return not (chosen and self._failures.empty and (loading or self._failures.empty_rests))

    def _has_room(self, bundles: tuple[BundleRef, ...]) -> bool:
        """Tell whether a generation fits in memory now; where it does not, see to it that it will, or say why not."""
        now = time.monotonic()
        if now < self._room_at:
            return False
        generations = self._generations
        verdict, reason = look_for_room(
            bundles, self._needs, generations.serving, bool(generations.ending), self._settings
        )
        broken, empty = self._failures.broken(bundles), self._failures.empty
        retry_at = now + rules.FIRST_RETRY_SECONDS
        if verdict is Verdict.DRAIN and not broken and empty and self._failures.empty_rests:
            reason, retry_at = rules.explain_problem("", empty), empty.retry_at
            verdict = Verdict.REFUSE  # nothing could take the place of what answers
        if verdict is Verdict.DRAIN and broken:  # once was enough: nobody is taken away for it again
            for ref in broken:
                self._failures.note((ref,), self._failures.of[ref].reason)
        elif verdict is Verdict.DRAIN:
            log("generation-makes-room")
            self._making_room = True
        elif verdict is Verdict.REFUSE:
            refused = rules.blame_for_memory(bundles, generations.served, self._needs)
            if refused is None:  # fewer models than now: what serves goes on
                self._room_at = retry_at
            else:
                self._failures.postpone(refused, reason, retry_at)
            log("generation-refused", model=refused.name if refused else "", reason=reason)
        return verdict is Verdict.START

    def _bury(self) -> None:
        """Draw conclusions from generations that ended or take too long."""
        self._generations.bury()
        self._bury_serving()
        starting, limit = self._generations.starting, self._settings.load_timeout_seconds
        if starting is None:
            return
        if starting.exit_status is None and time.monotonic() - starting.began > limit:
            self._fail(starting, f"not ready after {limit} s (PANTRY_LOAD_TIMEOUT_SECONDS)")
        elif starting.take_culprits() is not None:
            self._fail(starting, f"its workers died {rules.DEATHS} times before they answered; the log has the ends")
        elif starting.exit_status is not None:
            self._fail(starting, starting.failure.reason if starting.failure else starting.epitaph())

    def _bury_serving(self) -> None:
        """Draw conclusions from the generation that answers: it was lost, or its workers die again and again."""
        serving, now = self._generations.serving, time.monotonic()
        if serving is None:
            return
        if culprits := serving.take_culprits():
            self._note_failures(
                culprits, f"its workers died {rules.DEATHS} times within a minute; the log has the ends"
            )
        if serving.exit_status is None:
            return
        self._generations.serving = None
        if serving.draining:  # as it was asked to
            return
        log("generation-lost", generation=serving.number, status=serving.exit_status)
        self._losses = [*self._losses[1 - rules.DEATHS :], now]
        if serving.failure is not None:
            self._note_failures(rules.blame(serving.bundles, (), serving.failure.model), serving.failure.reason)
        elif rules.dies_too_often(self._losses, now):
            reason = f"it was lost {rules.DEATHS} times within a minute"
            self._note_failures(serving.bundles, reason)
            if not serving.bundles:
                self._failures.note_empty(reason)

    def _note_failures(self, refs: Iterable[BundleRef], reason: str) -> None:
        for ref in refs:
            self._failures.note((ref,), reason)
            log("model-failed", model=ref.name, version=ref.version, reason=reason)

    def _fail(self, generation: GenerationProcess, reason: str) -> None:
        """The generation that is to take over never will."""
        self._generations.give_up_starting()
        model = generation.failure.model if generation.failure else generation.loading
        self._failures.note(rules.blame(generation.bundles, self._generations.served, model), reason)
        if not generation.bundles:
            self._failures.note_empty(reason)
            self._making_room = False  # what answers goes on
        log("generation-failed", generation=generation.number, reason=reason)

    def _promote(self) -> None:
        """Let a generation that answers take over from the one before."""
        serving, starting = self._generations.serving, self._generations.starting
        if starting is None or not starting.ready:
            return
        if starting.bundles and serving is not None and not serving.bundles:
            # Who is told that a model is ready must not meet the generation that has none: it goes first.
            serving.drain(EMPTY_DRAIN_SECONDS)
            if serving.overdue:
                serving.kill()
            return
        log(
            "generation-serving",
            generation=starting.number,
            bundles=[f"{ref.name}/{ref.version}" for ref in starting.bundles],
            seconds=round(time.monotonic() - starting.began, 3),
        )
        self._generations.promote()
        self._failures.forget(starting.bundles)
        if starting.bundles:
            names = {ref.name for ref in starting.bundles}
            self._held = (*starting.bundles, *(ref for ref in self._held if ref.name not in names))
        self._making_room, self._failures.empty = False, None

    def _start(self, bundles: tuple[BundleRef, ...]) -> None:
        self._started += 1
        self._publish()  # the state must be there before anyone reads it
        self._generations.starting = GenerationProcess(
            self._started,
            bundles,
            str(self._volume),
            str(self._runtime),
            self._listener.fileno(),
            self._settings,
            self._exposition.environment,
            {name: seen.directory for name, seen in self._seen.items() if seen.directory},
        )
        if bundles or self._failures.empty is None:  # of its further tries, how they end is told
            log("generation-starting", generation=self._started, bundles=[f"{r.name}/{r.version}" for r in bundles])

    def _publish(self) -> None:
        """Tell everyone where each model is."""
        generations = self._generations
        serving, served = generations.serving, generations.served
        progress = generations.starting.progress() if generations.starting else {}
        if serving and (before := generations.before):
            served, progress = before.bundles, {**serving.progress(), **progress}
        models = tuple(
            rules.describe(spec, self._seen[spec.name], served, self._failures.of, progress) for spec in self._desired
        )
        self._log_changes(models)
        answers = serving is not None and not self._stopping
        awaited = self._access.awaited()
        state = ServerState(
            ready=answers and not awaited and is_ready(models, self._state.ready),
            models=models,
            problem=rules.explain_problem(self._problem, self._failures.empty, awaited),
            models_problem=self._problem,
            generation=serving.number if serving else 0,
            lost_workers=self._lost_workers,
            retired_workers=self._retired_workers,
            uptime_seconds=round(time.monotonic() - self._began, 1),
        )
        self._state = self._admin.state = state
        self._exposition.update(state, generations.roles)
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
        self._generations.end()
        log("stopped")
