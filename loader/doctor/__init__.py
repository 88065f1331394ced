"""Doctor: reads a Helm release through kubectl, and says in sentences what is wrong with it and what to do.

kubectl.py and probe.py ask; every other module is rules, functions from a snapshot to findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from loader.doctor import backends, certificates, gateway, ingress, models, pods, reach, scaling, storage, sync
from loader.doctor.finding import Finding, Severity, warning
from loader.doctor.kubectl import read
from loader.doctor.probe import probes
from loader.doctor.snapshot import Snapshot, where

# In the order in which a release comes up, so that causes come before what follows from them.
_RULES = (storage, pods, sync, models, scaling, ingress, gateway, certificates, backends, reach)


def examine(release: str, namespace: str | None, context: str | None, *, probe: bool) -> list[Finding]:
    """Read a release and return what is wrong with it; nothing where all is well.

    Args:
        release: as Helm calls it.
        namespace: the context's own where it is None.
        context: of the kubeconfig; the current one where it is None.
        probe: also ask the Ingress's address, from this machine.

    Raises:
        ReleaseUnreadable: there is no kubectl, no access, or no such release.
    """
    world = read(release, namespace, context)
    if probe:
        world = replace(world, probes=list(probes(world)))
    return diagnose(world)


def diagnose(world: Snapshot) -> list[Finding]:
    """Return what is wrong with a snapshot, problems first."""
    found = [finding for rules in _RULES for finding in rules.findings(world)]
    found += list(_unready(world, found))
    if world.unread:
        first = next(iter(world.unread.values()))
        says = f"could not be read, so what depends on it was not looked at: {first}"
        found.append(warning(", ".join(world.unread), says, "Ask with an account that may"))
    return sorted(_joined(found), key=lambda finding: finding.severity)  # stable, and p comes before w


def _unready(world: Snapshot, found: list[Finding]) -> Iterator[Finding]:
    """Yield the Deployments that lack ready pods where no rule knows why: silence would pass for health."""
    for deployment in world.own("Deployment", "server"):
        wanted, ready = deployment["spec"].get("replicas", 1), (deployment.get("status") or {}).get("readyReplicas", 0)
        if ready < wanted and not any(finding.where.startswith("Pod/") for finding in found):
            yield warning(
                where(deployment),
                f"{ready} of {wanted} pods are ready, and nothing says yet what the others wait for",
                "Wait a minute and ask again; `kubectl get pods` shows how far they are",
            )


def _joined(findings: Iterable[Finding]) -> list[Finding]:
    """Say once what is so of several objects, as of the replicas of one Deployment."""
    places: dict[tuple[Severity, str, str], list[str]] = {}
    for one in findings:
        key = (one.severity, one.says, one.hint)
        places.setdefault(key, []).append(one.where)
    return [
        Finding(severity, ", ".join(dict.fromkeys(names)), says, hint)
        for (severity, says, hint), names in places.items()
    ]
