"""Whether a generation fits into the memory that there is now."""

from __future__ import annotations

import os
from collections.abc import Mapping

from serving.settings import Settings
from serving.supervise import rules
from serving.supervise.generation_process import GenerationProcess
from serving.supervise.memory import descendants, pss_bytes, read_memory
from serving.supervise.messages import BundleRef
from serving.supervise.rules import Need, Verdict


def look_for_room(
    bundles: tuple[BundleRef, ...],
    needs: Mapping[BundleRef, Need],
    serving: GenerationProcess | None,
    draining: bool,
    settings: Settings,
) -> tuple[Verdict, str]:
    """Decide about a generation, and explain it where it is refused.

    Args:
        bundles: that it is to serve.
        needs: memory that each takes.
        serving: the generation that answers now.
        draining: whether another one is about to end.
        settings: of the server.
    """
    held_bundles = serving.bundles if serving else ()
    own = rules.GENERATION_BYTES + settings.workers * rules.WORKER_BYTES
    need = rules.total_need(bundles, needs, held_bundles, own)
    memory = read_memory(settings.memory_limit, os.getpid())
    if need.peak + need.mapped <= memory.free:
        return Verdict.START, ""  # without a look at every page of the other one
    held = 0
    if serving and held_bundles:  # where it makes room, a generation without models takes its place
        held = max(1, sum(map(pss_bytes, descendants(serving.pid))) - own)
    verdict = rules.judge_memory(need, memory, held, draining, settings.prefer)
    return verdict, rules.explain_refusal(need, memory, held, settings.prefer) if verdict is Verdict.REFUSE else ""
