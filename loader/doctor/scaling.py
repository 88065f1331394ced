"""Disruption budgets and autoscalers: may pods be evicted, and can their number follow the load?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from loader.doctor.finding import Finding, problem, warning
from loader.doctor.snapshot import Snapshot, condition, name_of, one_line, parse_time, where

_SOON = timedelta(minutes=5)  # pods that have just started have no metrics yet


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with PodDisruptionBudgets and HorizontalPodAutoscalers."""
    for budget in world.own("PodDisruptionBudget"):
        status = budget.get("status", {})
        expected, healthy = status.get("expectedPods", 0), status.get("currentHealthy", 0)
        if not expected or status.get("disruptionsAllowed", 0):
            continue
        if healthy < expected:
            yield warning(
                where(budget),
                f"permits no eviction while only {healthy} of {expected} pods are ready: a drained node waits",
                "See why the others are not ready; evictions go on when they are",
            )
        else:
            yield problem(
                where(budget),
                f"permits no eviction: all {expected} pods are ready, and {status.get('desiredHealthy')} have to be; "
                "a node pool's upgrade would wait for ever",
                "Raise replicas, or set podDisruptionBudget.maxUnavailable to 1 or more",
            )
    for scaler in world.own("HorizontalPodAutoscaler"):
        for kind, hint in (
            ("AbleToScale", f"See `kubectl describe hpa {name_of(scaler)}`"),
            (
                "ScalingActive",
                "CPU needs metrics-server and resources.requests.cpu; autoscaling.queueMetric needs its adapter",
            ),
        ):
            found = condition(scaler, kind)
            if found.get("status") == "False" and found.get("reason") != "ScalingDisabled":
                since = world.now - parse_time(found.get("lastTransitionTime"))
                say = problem if since > _SOON else warning
                yield say(where(scaler), f"does not scale: {one_line(found.get('message', ''))}", hint)
