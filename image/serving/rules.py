"""What the supervisor decides, without any I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from loader.bundle.models import ModelSpec
from loader.bundle.sync_status import SyncStatus
from serving.messages import BundleRef, Message
from serving.state import ModelState, Phase

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 60.0, 3600.0


class Failure(msgspec.Struct, frozen=True):
    """Why a bundle could not be loaded, how often it was tried, and when (monotonic seconds) to try again."""

    reason: str
    attempts: int
    retry_at: float


class Sighting(msgspec.Struct, frozen=True):
    """What the volume has of a desired version.

    Attributes:
        ref: the bundle, or None where it is not there, or not the pinned one.
        size: bytes of its assets.
        problem: why a bundle that is there cannot be used, or "".
        sync: what the loader says.
    """

    ref: BundleRef | None = None
    size: int = 0
    problem: str = ""
    sync: SyncStatus | None = None


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
        serving: the bundles that answer now.
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
        if ref in serving:
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


def blame(bundles: Collection[BundleRef], serving: Collection[BundleRef], loading: str) -> tuple[BundleRef, ...]:
    """Tell which bundles made a generation fail that could not say so itself.

    Args:
        bundles: that it was to serve.
        serving: that answer now, and so can be loaded.
        loading: the model that it was loading last, or "".
    """
    suspects = [ref for ref in bundles if ref.name == loading] or [ref for ref in bundles if ref not in serving]
    return tuple(suspects or bundles)
