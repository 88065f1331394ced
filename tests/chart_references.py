"""What the objects of a release say of one another is true: names lead somewhere, ports resolve, nothing is twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests import helm
from tests.chart_rules import doubles, pod_of, ports, selects
from tests.helm import Object

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

# Sources of volumes that are the user's to make: by the kind of object, what the values may name.
THEIRS = {"Secret": {"theirs", "digits-tokens", "digits-users"}, "PersistentVolumeClaim": {"theirs", "faces-disk"}}


def broken(objects: list[Object]) -> list[str]:
    """Each thing that is wrong, as a sentence with the object's name."""
    found = [f"{'/'.join(name)} is there twice" for name in doubles_of(objects)]
    for thing in objects:
        wrong = [*untidy(thing), *dangling(thing, objects)]
        if thing["kind"] in ("Deployment", "Job", "Pod"):
            wrong += in_a_pod(pod_of(thing), objects)
        found += [f"{'/'.join(helm.key(thing))}: {sentence}" for sentence in wrong]
    return found


def doubles_of(objects: list[Object]) -> set[tuple[str, str]]:
    names = [helm.key(thing) for thing in objects]
    return {name for name in names if names.count(name) > 1}


def nulls(value: Any, path: str = "") -> Iterator[str]:
    """Where there is nothing: an API server may take that for a default, or for a wish to have none."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from nulls(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from nulls(inner, f"{path}[{i}]")


def untidy(thing: Object) -> Iterator[str]:
    """What is wrong with an object's name, labels and annotations."""
    metadata = thing["metadata"]
    if not NAME.fullmatch(metadata["name"]):
        yield "the name is no DNS label"
    for key, value in metadata.get("labels", {}).items():
        if not LABEL.fullmatch(value):
            yield f"the label {key} is {value}"
    if metadata.get("annotations", {}) == {} and "annotations" in metadata:
        yield "annotations are empty"
    if not all(isinstance(value, str) for value in metadata.get("annotations", {}).values()):
        yield "an annotation is no text"
    yield from (f"{path} is null" for path in nulls(thing))


def named_by(thing: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of every object of the release that this one names."""
    spec, annotations = thing.get("spec", {}), thing["metadata"].get("annotations", {})
    match thing["kind"]:
        case "Ingress":
            yield from (("Service", service["name"]) for service in backends_of(spec))
            for key, kind in (
                ("networking.gke.io/managed-certificates", "ManagedCertificate"),
                ("networking.gke.io/v1beta1.FrontendConfig", "FrontendConfig"),
            ):
                if key in annotations:
                    yield kind, annotations[key]
        case "HTTPRoute":
            yield from (("Service", backend["name"]) for rule in spec["rules"] for backend in rule["backendRefs"])
        case "HealthCheckPolicy" | "GCPBackendPolicy":
            yield spec["targetRef"]["kind"], spec["targetRef"]["name"]
        case "HorizontalPodAutoscaler":
            yield spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]
        case "Service" if "cloud.google.com/backend-config" in annotations:
            yield "BackendConfig", json.loads(annotations["cloud.google.com/backend-config"])["default"]


def dangling(thing: Object, objects: list[Object]) -> Iterator[str]:
    """What an object names or selects, and is not there; and ports that are nobody's."""
    there = {helm.key(o) for o in objects}
    yield from (f"{kind} {name} is not there" for kind, name in named_by(thing) if (kind, name) not in there)
    spec, pods = thing.get("spec", {}), list(helm.pods(objects))
    match thing["kind"]:
        case "Service":
            wanted = [port["targetPort"] for port in spec["ports"]]
            yield from unresolved(wanted, spec["selector"], pods)
        case "NetworkPolicy":
            wanted = [port["port"] for rule in spec["ingress"] for port in rule.get("ports", [])]
            yield from unresolved(wanted, spec["podSelector"]["matchLabels"], pods)
        case "PodMonitoring":
            wanted = [endpoint["port"] for endpoint in spec["endpoints"]]
            yield from unresolved(wanted, spec["selector"]["matchLabels"], pods)
        case "PodDisruptionBudget":
            yield from unresolved([], spec["selector"]["matchLabels"], pods)
        case "ServiceMonitor":
            services = [o for o in objects if o["kind"] == "Service"]
            chosen = [s for s in services if selects(spec["selector"]["matchLabels"], s)]
            if [port["name"] for s in chosen for port in s["spec"]["ports"]] != [e["port"] for e in spec["endpoints"]]:
                yield "no Service, or several, or another port"
        case "Ingress":
            asked = {service["port"]["name"] for service in backends_of(spec)}
            if asked != {"http"}:
                yield f"asks the ports {asked}"
        case "HTTPRoute":
            named = {
                (o["metadata"]["name"], p["port"])
                for o in objects
                if o["kind"] == "Service"
                for p in o["spec"]["ports"]
            }
            for backend in spec["rules"][0]["backendRefs"]:
                if (backend["name"], backend["port"]) not in named:
                    yield f"{backend['name']} has no port {backend['port']}"


def backends_of(spec: Object) -> list[Object]:
    """The Services of an Ingress."""
    backends = [path["backend"] for rule in spec.get("rules", []) for path in rule["http"]["paths"]]
    return [b["service"] for b in [*backends, *([spec["defaultBackend"]] if "defaultBackend" in spec else [])]]


def unresolved(wanted: list[object], selector: Object, pods: list[Object]) -> Iterator[str]:
    """Ports that the selected pods do not have, or that there are no such pods."""
    chosen = [pod for pod in pods if selects(selector, pod)]
    if not chosen:
        yield "selects no pod"
    for pod in chosen:
        open_there = {port for container in helm.containers(pod) for port in ports(container)}
        yield from (f"no container has the port {port}" for port in wanted if port not in open_there)


def in_a_pod(pod: Object, objects: list[Object]) -> Iterator[str]:
    """Volumes, mounts and accounts that do not fit together."""
    spec, there = pod["spec"], {helm.key(o) for o in objects}
    names = [volume["name"] for volume in spec["volumes"]]
    yield from (f"the volume {name} is there twice" for name in doubles(names))
    mounted = {mount["name"] for container in helm.containers(pod) for mount in container.get("volumeMounts", [])}
    if mounted != set(names):
        yield f"volumes and mounts differ by {mounted ^ set(names)}"
    for container in helm.containers(pod):
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        yield from (f"{container['name']} mounts {path} twice" for path in doubles(paths))
    for name, source in helm.volumes(pod).items():
        for kind, field, key in (
            ("ConfigMap", "configMap", "name"),
            ("Secret", "secret", "secretName"),
            ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
        ):
            if field in source and (kind, source[field][key]) not in there | {(kind, n) for n in THEIRS.get(kind, ())}:
                yield f"the volume {name} is a {kind} {source[field][key]} that is not there"
        for item in source.get("downwardAPI", {}).get("items", []):
            path = item["fieldRef"]["fieldPath"]
            if path not in {f"metadata.annotations['{key}']" for key in pod["metadata"].get("annotations", {})}:
                yield f"the volume {name} shows {path}, which is not there"
