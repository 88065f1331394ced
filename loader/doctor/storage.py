"""Claims: is there a volume for the models, and if not, why?"""

from __future__ import annotations

from collections.abc import Iterator

from loader.doctor.finding import Finding, problem, warning
from loader.doctor.snapshot import Object, Snapshot, annotated, name_of, where

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_CLASS_HINT = (
    "Set storage.storageClassName to one that `kubectl get storageclass` lists; a claim that exists keeps its own"
)


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the claims that the release's pods mount."""
    for name in _wanted(world):
        if "PersistentVolumeClaim" in world.objects and not world.named("PersistentVolumeClaim", name):
            yield problem(
                f"PersistentVolumeClaim/{name}",
                "does not exist, and the server's pod waits for it",
                "Create it, or set storage.existingClaim to one that exists, or to nothing for one of the chart's own",
            )
    for claim in world.objects.get("PersistentVolumeClaim", ()):
        if name_of(claim) in _wanted(world) | _ephemeral(world) or claim in world.own("PersistentVolumeClaim"):
            yield from _claim(world, claim)


def _claim(world: Snapshot, claim: Object) -> Iterator[Finding]:
    phase = claim.get("status", {}).get("phase")
    if phase == "Lost":
        yield problem(
            where(claim),
            "has lost its volume",
            "Restore the volume, or delete the claim and let the sync fill a new one",
        )
    if phase != "Pending":
        return
    classes = world.objects.get("StorageClass")
    wanted = claim["spec"].get("storageClassName")
    known = ", ".join(name_of(one) for one in classes or ()) or "none"
    if classes is not None and wanted and not world.named("StorageClass", wanted):
        yield problem(where(claim), f"is pending: expected a storage class {wanted!r}, got {known}", _CLASS_HINT)
    elif classes is not None and not wanted and not any(annotated(c).get(_DEFAULT_CLASS) == "true" for c in classes):
        yield problem(
            where(claim), f"is pending: it names no storage class, and none of {known} is the default", _CLASS_HINT
        )
    elif said := next(world.warnings(claim), None):
        yield problem(
            where(claim),
            f"is pending, because no volume can be made: {said}",
            "Give storage.storageClassName a class that can, or the project the quota that it lacks",
        )
    elif not _waits_for_its_pod(world, wanted):
        yield warning(
            where(claim), "is pending, and nobody says why", f"See `kubectl describe pvc {name_of(claim)}` in a minute"
        )


def _waits_for_its_pod(world: Snapshot, wanted: str | None) -> bool:
    """Tell whether the volume is made only once its pod has a node: then what keeps the pod says it all."""
    kind = world.named("StorageClass", wanted or "")
    return kind is not None and kind.get("volumeBindingMode") == "WaitForFirstConsumer"


def _wanted(world: Snapshot) -> set[str]:
    return {
        volume["persistentVolumeClaim"]["claimName"]
        for deployment in world.own("Deployment")
        for volume in deployment["spec"]["template"]["spec"].get("volumes") or []
        if "persistentVolumeClaim" in volume
    }


def _ephemeral(world: Snapshot) -> set[str]:
    """Return the names of the claims that Kubernetes makes for a pod of its own."""
    return {
        f"{name_of(pod)}-{volume['name']}"
        for pod in world.pods()
        for volume in pod["spec"].get("volumes") or []
        if "ephemeral" in volume
    }
