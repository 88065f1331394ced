"""Sync Jobs: has the present one brought the models, and if not, why?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from loader.doctor.finding import Finding, problem, warning
from loader.doctor.pods import containers, last_words
from loader.doctor.snapshot import Object, Snapshot, condition, duration, labels, name_of, one_line, parse_time, where

_RERUN = "Once the cause is gone, run `helm upgrade` with `--set-string sync.rerun=TEXT` and any new text"
_SOON = timedelta(minutes=1)  # the Job controller makes a pod at once; only refusals take longer


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the Job of each track; what the Jobs before it did is past."""
    newest: dict[str, Object] = {}
    for job in sorted(world.own("Job", "sync"), key=lambda job: str(job["metadata"].get("creationTimestamp"))):
        newest[labels(job["spec"]["template"]).get("pantry/track", "")] = job
    for job in newest.values():
        yield from _job(world, job)


def present(world: Snapshot) -> bool:
    """Tell whether a Job is still at work, or has been until just now, so that its servers may not have noticed."""
    for job in world.own("Job", "sync"):
        done = parse_time(condition(job, "Complete").get("lastTransitionTime"))
        if not _is(job, "Failed") and (not _is(job, "Complete") or world.now - done < _SOON):
            return True
    return False


def _job(world: Snapshot, job: Object) -> Iterator[Finding]:
    pods = sorted(_pods(world, job), key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    words = next(filter(None, (_words(pod) for pod in reversed(pods))), "")
    if _is(job, "Complete"):
        return
    if _is(job, "Failed"):
        failure = condition(job, "Failed")
        if failure.get("reason") == "DeadlineExceeded":
            seconds = job["spec"].get("activeDeadlineSeconds")
            says = f"the sync was ended after {seconds} s" + (f", when it had last said: {words}" if words else "")
            yield problem(where(job), says, f"Raise sync.timeoutSeconds above {seconds}; what has arrived is kept")
        else:
            says = words or one_line(failure.get("message", "and nobody says why"))
            yield problem(where(job), f"the sync failed: {says}", _RERUN)
    elif not pods and not job.get("status", {}).get("active"):
        yield from _no_pod(world, job)
    elif words and job["status"].get("failed"):
        count = job["status"]["failed"]
        yield warning(
            where(job),
            f"the sync has failed {count} times, of {job['spec'].get('backoffLimit', 6) + 1} that it may: {words}",
            f"Read `kubectl logs --follow job/{name_of(job)}`",
        )


def _no_pod(world: Snapshot, job: Object) -> Iterator[Finding]:
    if job["spec"].get("suspend"):
        yield problem(
            where(job),
            "the sync is suspended",
            f'Run `kubectl patch job {name_of(job)} --patch \'{{"spec":{{"suspend":false}}}}\'`',
        )
    elif said := next(world.warnings(job, "FailedCreate"), None):
        yield problem(
            where(job),
            f"the sync never got a pod: {said}",
            "Change what the sentence names: a quota, an admission policy, or the account in sync.serviceAccount.name",
        )
    elif world.age(job) > _SOON:
        yield problem(
            where(job),
            f"the sync has had no pod for {duration(world.age(job))}",
            f"See `kubectl describe job {name_of(job)}`; a quota of the namespace may be used up",
        )


def _pods(world: Snapshot, job: Object) -> list[Object]:
    owned = (pod for pod in world.own("Pod", "sync"))
    return [p for p in owned if any(o["name"] == name_of(job) for o in p["metadata"].get("ownerReferences") or [])]


def _words(pod: Object) -> str:
    """Return what the sync ended with: killed for memory, or its own last sentence."""
    for status in containers(pod):
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            return "it was killed for memory: raise sync.resources.limits.memory"
        if ended.get("exitCode"):
            return last_words(ended) or f"exit status {ended['exitCode']}"
    return ""


def _is(job: Object, kind: str) -> bool:
    return bool(condition(job, kind).get("status") == "True")
