"""What the supervisor decides, without any I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum, auto
from typing import Literal

import msgspec

from loader.bundle.models import ModelSpec
from loader.bundle.sync_status import SyncStatus
from serving.state import ModelState, Phase
from serving.supervise.memory import Memory
from serving.supervise.messages import BundleRef, Message

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 60.0, 3600.0
DEATHS, DEATHS_SECONDS = 5, 60.0  # workers that die as often in that time make a generation failed
GENERATION_BYTES, WORKER_BYTES = 64 << 20, 16 << 20  # of interpreters and libraries, models left out


class Failure(msgspec.Struct, frozen=True):
    """Why a bundle, or a generation without any, could not be had; how often it was tried; when to try again.

    Attributes:
        reason: one sentence.
        attempts: that failed.
        retry_at: monotonic seconds.
    """

    reason: str
    attempts: int
    retry_at: float


class Need(msgspec.Struct, frozen=True):
    """Memory that a bundle takes, in bytes.

    Attributes:
        peak: at most, while it is loaded.
        kept: afterwards.
        mapped: of files, on top; shared by all workers and by all generations that have the bundle.
        measured: when it was packed; otherwise guessed from its size.
    """

    peak: int = 0
    kept: int = 0
    mapped: int = 0
    measured: bool = False


class Sighting(msgspec.Struct, frozen=True):
    """What the volume has of a desired version.

    Attributes:
        ref: the bundle, or None where it is not there, or not the pinned one.
        size: bytes of its assets.
        problem: why a bundle that is there cannot be used, or "".
        sync: what the loader says.
        need: memory that it takes.
        directory: where it is, if not where its name says.
    """

    ref: BundleRef | None = None
    size: int = 0
    problem: str = ""
    sync: SyncStatus | None = None
    need: Need = Need()
    directory: str = ""


class Verdict(Enum):
    """What to do about a generation that should be started."""

    START = auto()
    WAIT = auto()  # until a generation that is draining has given its memory back
    DRAIN = auto()  # the one that serves: the new one takes its place after a pause
    REFUSE = auto()


def choose_bundles(
    desired: Collection[ModelSpec],
    seen: Mapping[str, Sighting],
    serving: Collection[BundleRef],
    failed: Collection[BundleRef],
    wanted: Collection[str],
) -> tuple[BundleRef, ...]:
    """Choose the bundles that should be served now.

    A desired version that is there and has not failed is served; otherwise the version that answers now goes on; a
    model that is no longer desired goes.

    Args:
        desired: from models.yaml.
        seen: what the volume has, by model.
        serving: the bundles that answer now, or that did before they had to make room or were lost.
        failed: bundles that could not be loaded and whose time to be tried again has not come.
        wanted: on-demand models that someone has asked for.
    """
    held = {ref.name: ref for ref in serving}
    chosen = []
    for spec in desired:
        ref = seen[spec.name].ref
        asked = not spec.on_demand or spec.name in wanted or spec.name in held
        if ref is not None and asked and ref not in failed:
            chosen.append(ref)
        elif spec.name in held and held[spec.name] not in failed:
            chosen.append(held[spec.name])
    return tuple(chosen)


def describe(
    spec: ModelSpec,
    sighting: Sighting,
    serving: Collection[BundleRef],
    failures: Mapping[BundleRef, Failure],
    progress: Mapping[BundleRef, Message],
) -> ModelState:
    """Say where a desired version is.

    Args:
        spec: the desired version.
        sighting: what the volume has of it.
        serving: the bundles that answer now.
        failures: bundles that could not be loaded.
        progress: the last message about each bundle that is being loaded.
    """
    held = next((ref for ref in serving if ref.name == spec.name), None)

    def state(phase: Phase, done: int = 0, total: int = 0, reason: str = "") -> ModelState:
        return ModelState(
            spec.name, spec.version, phase, done, total, reason, held.version if held else None, spec.on_demand
        )

    ref, sync = sighting.ref, sighting.sync
    if sighting.problem:
        return state(Phase.FAILED, reason=sighting.problem)
    if ref is not None:
        if ref in serving and ref not in failures:
            return state(Phase.READY, sighting.size, sighting.size)
        if ref in progress:
            message = progress[ref]
            return state(message.phase, message.bytes, sighting.size)
        if ref in failures:
            return state(Phase.FAILED, reason=failures[ref].reason)
        return state(Phase.WAITING if spec.on_demand else Phase.LOADING, 0, sighting.size)
    if sync is None or sync.phase == "synced":
        return state(Phase.WAITING)
    return state(Phase(sync.phase), sync.bytes, sync.total_bytes, sync.reason)


def next_failure(previous: Failure | None, reason: str, now: float) -> Failure:
    """Return a failure that is tried again later and later: it is no crash loop, and nothing stays down for ever."""
    attempts = previous.attempts + 1 if previous else 1
    return Failure(reason, attempts, now + min(FIRST_RETRY_SECONDS * 2 ** (attempts - 1), LAST_RETRY_SECONDS))


def explain_problem(of_models: str, empty: Failure | None, access: str = "") -> str:
    """Say what is wrong with the server as a whole, or "".

    Args:
        of_models: what is wrong with models.yaml, or "".
        empty: why there is no generation without models, where one should answer.
        access: why nobody may ask yet, or "".
    """
    told = (
        of_models,
        f"the generation without models does not start: {empty.reason}" if empty else "",
        f"nobody may ask yet: {access}" if access else "",
    )
    return "; ".join(filter(None, told))


def blame(bundles: Collection[BundleRef], serving: Collection[BundleRef], loading: str) -> tuple[BundleRef, ...]:
    """Tell which bundles made a generation fail that could not say so itself.

    Args:
        bundles: that it was to serve.
        serving: that answer now, and so can be loaded.
        loading: the model that it was loading last, or "".
    """
    suspects = [ref for ref in bundles if ref.name == loading] or [ref for ref in bundles if ref not in serving]
    return tuple(suspects or bundles)


def total_need(
    bundles: Iterable[BundleRef], needs: Mapping[BundleRef, Need], shared: Collection[BundleRef], own: int = 0
) -> Need:
    """Add up the memory that bundles take which are loaded one after the other.

    Args:
        bundles: in the order of loading.
        needs: of each; nothing where one is missing.
        shared: bundles whose mapped files are in memory already, for another generation.
        own: bytes that the generation takes without any.
    """
    peak = kept = own
    mapped = 0
    measured = True
    for ref in bundles:
        need = needs.get(ref, Need())
        peak, kept = max(peak, kept + need.peak), kept + need.kept
        mapped += 0 if ref in shared else need.mapped
        measured = measured and need.measured
    return Need(max(peak, kept), kept, mapped, measured)


def judge_memory(
    need: Need,
    memory: Memory,
    held: int,
    draining: bool,
    prefer: Literal["availability", "resources"],
) -> Verdict:
    """Decide whether a generation may be started, so that the system never has to kill a process for its memory.

    A guess refuses nothing while nobody has anything to lose: the first generation is tried.

    Args:
        need: of the new generation as a whole.
        memory: of the container.
        held: bytes that the generation has which answers now; 0 where none has models.
        draining: whether another generation is about to give its memory back.
        prefer: what matters more where old and new do not fit together: to answer all the time, or to get along with
            the memory that there is.
    """
    wanted = need.peak + need.mapped
    if wanted <= memory.free:
        return Verdict.START
    if draining:
        return Verdict.WAIT
    if not held:
        return Verdict.REFUSE if need.measured else Verdict.START
    if prefer == "resources" and (wanted <= memory.free + held or not need.measured):
        return Verdict.DRAIN
    return Verdict.REFUSE


def explain_refusal(need: Need, memory: Memory, held: int, prefer: str) -> str:
    """Say in one sentence why a generation is not started, with the numbers and what to change."""
    guess = "" if need.measured else " (a guess by the size of the bundle; `pantry pack` measures it)"
    beside = " beside the version that goes on serving" if held else ""
    text = (
        f"needs {_mebibytes(need.peak + need.mapped)} of memory{guess}{beside}: {_mebibytes(memory.free)} of "
        f"{_mebibytes(memory.limit)} are free. Raise the container's memory limit"
    )
    return (
        f"{text}, or set PANTRY_PREFER=resources to stop the old version first"
        if held and prefer != "resources"
        else text
    )


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"


def blame_for_memory(
    bundles: Collection[BundleRef], serving: Collection[BundleRef], needs: Mapping[BundleRef, Need]
) -> BundleRef | None:
    """Tell which bundle has to wait where a generation does not fit: the largest new one, or None where none is new."""
    new = [ref for ref in bundles if ref not in serving]
    return max(new, key=lambda ref: needs.get(ref, Need()).peak + needs.get(ref, Need()).mapped, default=None)


def dies_too_often(deaths: Collection[float], now: float) -> bool:
    """Tell whether workers died so often that replacing them helps nobody.

    Args:
        deaths: when workers died, monotonic seconds.
        now: monotonic seconds.
    """
    return sum(now - death < DEATHS_SECONDS for death in deaths) >= DEATHS


def growth_bound(worker_memory: int, limit: int, workers: int) -> int:
    """Return the bytes that a worker may grow by before it is replaced.

    Args:
        worker_memory: as set, or 0.
        limit: of the container's memory; workers that grow may take half of it together where nothing is set.
        workers: that share it.
    """
    return worker_memory or limit // (2 * workers)
