"""Models: does every server answer with the versions that are desired?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from loader.bundle.errors import ModelsInvalid
from loader.bundle.models import parse_models
from loader.doctor import sync
from loader.doctor.finding import Finding, problem, warning
from loader.doctor.pods import server_runs
from loader.doctor.snapshot import Object, Snapshot, annotated, duration, is_ready, name_of, one_line, where
from loader.report import human_bytes
from loader.status import Model, Server

_SOON = timedelta(minutes=2)  # a supervisor answers within seconds
_KEY = "pantry/models.yaml"


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the models, as the servers tell it."""
    for pod in world.pods():
        inside = world.inside.get(name_of(pod))
        if inside and inside.server:
            yield from _server(world, pod, inside.server)
        elif server_runs(pod) and not is_ready(pod):
            say = problem if world.age(pod) > _SOON else warning
            said = next(world.warnings(pod, "Unhealthy"), "no model answers yet")
            yield say(
                where(pod),
                f"is not ready, {duration(world.age(pod))} after its start: {said}",
                f"Ask it: `kubectl exec {name_of(pod)} -- pantry status http://127.0.0.1:8081`",
            )


def _server(world: Snapshot, pod: Object, server: Server) -> Iterator[Finding]:
    if server.problem:
        yield problem(
            where(pod),
            f"its server says of itself: {one_line(server.problem)}",
            "Do what the sentence says; the table of failures in docs/operations.md has every one",
        )
    for model in server.models:
        yield from _model(world, pod, model)
    told = {model.name: model.version for model in server.models}
    for name, version in _desired(world, pod).items():
        if told.get(name) != version:
            yield warning(
                where(pod),
                f"model {name} is to be version {version}, and the pod knows of {told.get(name) or 'none'}",
                "Wait: a changed ConfigMap takes a minute or two to reach a running pod",
            )


def _model(world: Snapshot, pod: Object, model: Model) -> Iterator[Finding]:
    instead = f"version {model.serving} answers" if model.serving else "nothing answers for it"
    what = f"model {model.name} is to be version {model.version}"
    if model.phase == "failed":
        yield problem(
            where(pod),
            f"{what}, which is failed: {one_line(model.reason)}; {instead}",
            "Do what the sentence says; the table of failures in docs/operations.md has every one",
        )
    elif model.serving == model.version or (model.on_demand and model.phase == "waiting"):
        return
    elif model.phase == "waiting" and "Job" in world.objects and not sync.present(world):
        yield problem(
            where(pod),
            f"{what}, which is not on its volume, and no sync is at work; {instead}",
            "Run it again: `helm upgrade` with `--set-string sync.rerun=TEXT`. With storage.mode custom, put it there",
        )
    else:
        amount = f", {human_bytes(model.bytes)} of {human_bytes(model.total_bytes)}" if model.total_bytes else ""
        yield warning(where(pod), f"{what}, which is {model.phase}{amount}; {instead}", "Wait: it is on its way")


def _desired(world: Snapshot, pod: Object) -> dict[str, str]:
    """Return the versions of the models.yaml that a pod mounts: of a ConfigMap, or of its own annotation."""
    text = annotated(pod).get(_KEY, "")
    for volume in pod["spec"].get("volumes") or []:
        if (config := world.named("ConfigMap", (volume.get("configMap") or {}).get("name", ""))) is not None:
            text = (config.get("data") or {}).get("models.yaml", text)
    try:
        return {spec.name: spec.version for spec in parse_models(text)} if text else {}
    except ModelsInvalid:  # the server says so itself, better
        return {}
