"""Deployments and pods: what keeps one from starting, or ends it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import msgspec

from loader.doctor.finding import Finding, problem, warning
from loader.doctor.snapshot import Object, Snapshot, condition, duration, is_ready, name_of, one_line, parse_time, where

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_CANNOT_BEGIN = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
# The value of the chart behind a label that nodes are chosen by.
_NODE_LABELS = {
    "cloud.google.com/gke-nodepool": "gke.nodePool",
    "cloud.google.com/machine-family": "gke.machineFamily",
    "cloud.google.com/compute-class": "gke.computeClass",
    "cloud.google.com/gke-accelerator": "gke.accelerator",
    "cloud.google.com/gke-gpu-driver-version": "gke.gpuDriverVersion",
    "cloud.google.com/gke-spot": "gke.spot",
}
_SOON = timedelta(minutes=1)  # until then a volume or a node may be on its way
_OOM_MATTERS = timedelta(hours=1)  # longer ago, it was another model or another load


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the release's Deployments and pods."""
    yield from _deployments(world)
    for component in ("server", "sync"):
        for pod in world.pods(component):
            if pod["status"].get("phase") in ("Pending", "Running"):
                yield from _pod(world, pod)


def _deployments(world: Snapshot) -> Iterator[Finding]:
    deployments = world.own("Deployment", "server")
    if not deployments:
        yield problem(
            f"release {world.release}",
            "has no Deployment, so nobody serves",
            "Bring it back with `helm upgrade` or `helm rollback`",
        )
    for deployment in deployments:
        if deployment["spec"].get("replicas") == 0:
            yield problem(
                where(deployment),
                "is scaled to 0 replicas, so nobody serves",
                f"Run `kubectl scale --replicas=1 {where(deployment).lower()}`, or `helm upgrade` with `replicas` set",
            )
        failure = condition(deployment, "ReplicaFailure")
        if failure.get("status") == "True":
            yield problem(
                where(deployment),
                f"gets no pod: {one_line(failure.get('message', ''))}",
                "Change what the sentence names: a quota, an admission policy, or a value that it refuses",
            )


def _pod(world: Snapshot, pod: Object) -> Iterator[Finding]:
    scheduled = condition(pod, "PodScheduled")
    if _has_no_node(pod):
        if _component(pod) != "sync" or not any(map(_has_no_node, world.pods())):  # else it only follows the server
            yield _unscheduled(world, pod, one_line(scheduled.get("message", "")))
        return
    statuses = containers(pod)
    for status in statuses:
        yield from _container(pod, status, world)
    syncing = any(status["name"] == "sync" and "running" in (status.get("state") or {}) for status in statuses)
    if syncing and _component(pod) == "server":  # in a volume of its own; what a Job's sync does is told by the models
        yield warning(
            where(pod),
            "its init container brings the models",
            f"Wait, or follow it: `kubectl logs --follow --container sync {name_of(pod)}`",
        )
    waiting = [status for status in statuses if status.get("state", {}).get("waiting")]
    if waiting and waiting[0]["state"]["waiting"].get("reason") in ("ContainerCreating", "PodInitializing"):
        for said in list(world.warnings(pod, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"))[:1]:
            yield problem(
                where(pod),
                f"cannot begin: {said}",
                "Create what is missing, or free the volume: it is on one node at a time",
            )


def _unscheduled(world: Snapshot, pod: Object, said: str) -> Finding:
    """Say why no node takes a pod: in the scheduler's words, and which of its labels no node has."""
    nodes = world.objects.get("Node")
    selector: dict[str, str] = pod["spec"].get("nodeSelector") or {}
    nowhere = [
        (key, value)
        for key, value in selector.items()
        if nodes is not None and not any((n["metadata"].get("labels") or {}).get(key) == value for n in nodes)
    ]
    says = f"has no node: {said}"
    if scaler := next(world.warnings(pod, "NotTriggerScaleUp"), None):
        says += f"; {scaler}"
    if nowhere:
        wanted = ", ".join(f"{key}={value}" for key, value in nowhere)
        values = ", ".join(dict.fromkeys(_NODE_LABELS.get(key, "nodeSelector") for key, _ in nowhere))
        return problem(
            where(pod), f"{says}; no node has the label {wanted}", f"Correct {values}, or add such a node pool"
        )
    if _component(pod) == "sync":
        hint = "On a disk the sync goes to the server's node: leave it room there, or lower sync.resources.requests"
    else:
        hint = "Make room for resources.requests, or lower them; for taints, set tolerations"
    say = problem if world.age(pod) > _SOON else warning
    return say(where(pod), says, hint)


def _has_no_node(pod: Object) -> bool:
    return bool(condition(pod, "PodScheduled").get("status") == "False")


def _container(pod: Object, status: Object, world: Snapshot) -> Iterator[Finding]:
    name = status["name"]
    waiting = status.get("state", {}).get("waiting") or {}
    reason, said = waiting.get("reason"), one_line(waiting.get("message", ""))
    value = "sync." if name == "sync" else ""
    if reason in _IMAGE:
        told = next((t for t in world.warnings(pod, "Failed") if "pull" in t), said)
        yield problem(
            where(pod),
            f"the image {status.get('image')} cannot be pulled: {told}",
            f"Correct {value}image.repository and tag, push the image there, or name a pull secret in imagePullSecrets",
        )
    elif reason in _CANNOT_BEGIN:
        yield problem(
            where(pod),
            f"container {name} cannot be made: {said}",
            "Create the Secret or ConfigMap that it names, or correct its value",
        )
    else:
        yield from _ended(pod, status, value, world)


def _ended(pod: Object, status: Object, value: str, world: Snapshot) -> Iterator[Finding]:
    """Say how a container that is started again and again ends; a Job's pod is not, and its Job says it."""
    name = status["name"]
    last = (status.get("lastState") or {}).get("terminated") or (status.get("state") or {}).get("terminated") or {}
    looping = ((status.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    if pod["spec"].get("restartPolicy") == "Never" or not last or (last.get("exitCode") == 0 and not looping):
        return
    ago = world.now - parse_time(last.get("finishedAt"), default=world.now)
    restarts = status.get("restartCount", 0)
    if last.get("reason") == "OOMKilled" and (looping or ago < _OOM_MATTERS):
        limit = _memory_limit(pod, name)
        say = warning if is_ready(pod) else problem
        yield say(
            where(pod),
            f"container {name} was killed for memory {duration(ago)} ago at its limit of {limit} ({restarts} restarts)",
            f"Raise {value}resources.limits.memory above {limit}; a swap needs the old and the new model at once",
        )
    elif looping:
        words = last_words(last)
        yield problem(
            where(pod),
            f"container {name} ends again and again ({restarts} restarts), last with exit status {last.get('exitCode')}"
            + (f": {words}" if words else ""),
            ("Do what the sentence says, or read" if words else "Read")
            + f" `kubectl logs --previous --container {name} {name_of(pod)}`",
        )


def containers(pod: Object) -> list[Object]:
    """Return the statuses of a pod's containers, in the order in which they start."""
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def server_runs(pod: Object) -> bool:
    """Tell whether a pod's server can be asked, ready or not."""
    return any(c["name"] == "server" and "running" in (c.get("state") or {}) for c in containers(pod))


def last_words(terminated: Object) -> str:
    """Return why a container ended: our commands report in JSON lines. After what failed, others may have gone well."""
    lines = (terminated.get("message") or "").strip().splitlines()
    events = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):
            events.append(msgspec.json.decode(line.encode(), type=_Event))
    said = [event for event in events if event.phase == "failed"] or events
    return one_line(said[-1].message if said else "".join(lines[-1:]))


class _Event(msgspec.Struct):
    message: str
    phase: str = ""


def _memory_limit(pod: Object, container: str) -> str:
    specs = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    spec: Object = next((spec for spec in specs if spec["name"] == container), {})
    return str(((spec.get("resources") or {}).get("limits") or {}).get("memory", "the node's memory"))


def _component(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])
