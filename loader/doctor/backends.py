"""Backends of Google's load balancer: does it reach the pods, does it find them healthy, and if not, why?

Its health checks and its requests come from two ranges. It checks what the BackendConfig says that the Service's
annotation names. What it finds is in the Ingress's annotation ingress.kubernetes.io/backends.

Source: github.com/kubernetes/ingress-gce, pkg/annotations/service.go, pkg/loadbalancers/l7.go (GetLBAnnotations);
cloud.google.com/load-balancing/docs/health-checks#firewall_rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import msgspec

from loader.doctor.finding import Finding, problem
from loader.doctor.ingress import is_google, services
from loader.doctor.snapshot import Inside, Object, Snapshot, annotated, is_ready, labels, name_of, where

NEG = "cloud.google.com/neg"
BACKEND_CONFIG = "cloud.google.com/backend-config"
HEALTH = "ingress.kubernetes.io/backends"
GOOGLE = ("130.211.0.0/22", "35.191.0.0/16")


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong between Google's load balancer and the pods."""
    for ingress in filter(is_google, world.own("Ingress")):
        found = [one for service in _services(world, ingress) for one in _service(world, ingress, service)]
        yield from found
        sick = [name for name, state in _json(annotated(ingress).get(HEALTH, "")).items() if state == "UNHEALTHY"]
        for name in sick:
            reasons = [reason for service in _services(world, ingress) for reason in _reasons(world, service)]
            if not reasons and found:
                continue  # what is wrong with the Service has been said
            yield from reasons or [_unexplained(ingress, name)]


def health_check(world: Snapshot, pod: Object) -> tuple[int, str] | None:
    """Return port and path of what Google's load balancer asks a pod, or None where no such check is configured."""
    for ingress in filter(is_google, world.own("Ingress")):
        for service in _services(world, ingress):
            config = _backend_config(world, service)
            if _selects(service, pod) and config:
                check = config["spec"].get("healthCheck") or {}
                port = check.get("port") if has_groups(service) else None
                return port or container_port(pod, service), check.get("requestPath", "/")
    return None


def _service(world: Snapshot, ingress: Object, service: Object) -> Iterator[Finding]:
    if service["spec"].get("type", "ClusterIP") == "ClusterIP" and not has_groups(service):
        yield problem(
            where(service),
            f"is of type ClusterIP without network endpoint groups, so {where(ingress)} cannot reach it: expected "
            f'{NEG} with {{"ingress": true}}, or type NodePort',
            "Set gke.neg to true, or service.type to NodePort, and run `helm upgrade`",
        )
    name = _config_name(service)
    if name and "BackendConfig" in world.objects and not world.named("BackendConfig", name):
        yield problem(
            where(service),
            f"names the BackendConfig {name!r} in {BACKEND_CONFIG}, and there is none in this namespace",
            "Run `helm upgrade` to make it again, or remove the annotation from service.annotations",
        )


def _reasons(world: Snapshot, service: Object) -> Iterator[Finding]:
    """Yield why the load balancer finds nothing healthy behind a Service, as far as can be told from here."""
    pods = [pod for pod in world.pods() if _selects(service, pod)]
    unhealthy = "is UNHEALTHY to Google's load balancer, which answers 502"
    if not any(map(is_ready, pods)):
        count = f"none of its {len(pods)} pods is ready" if pods else "no pod is behind it"
        yield problem(
            where(service), f"{unhealthy}: {count}", "See what is said of the pods and models; it recovers with them"
        )
        return
    config = _backend_config(world, service)
    for pod in pods:
        check, inside = health_check(world, pod), world.inside.get(name_of(pod), Inside())
        got = inside.answers.get(check, 200) if check else 200
        if config and check and got != 200:
            answered = f"got {got}" if got else "nobody answers"
            yield problem(
                where(config),
                f"the Service {name_of(service)} {unhealthy}: its health check asks port {check[0]} for {check[1]}, "
                f"expected 200, {answered}",
                "Set healthCheck.requestPath in gke.backendConfig to /healthz, or remove healthCheck from it",
            )
            break
    if has_groups(service):
        policies = [policy for policy in world.objects.get("NetworkPolicy", ()) if _isolates(policy, pods[0])]
        let_in = {
            google for policy in policies for google in _lets_in(policy, pods[0], container_port(pods[0], service))
        }
        if policies and (kept := [google for google in GOOGLE if google not in let_in]):
            yield problem(
                ", ".join(map(where, policies)),
                f"the Service {name_of(service)} {unhealthy}: {' and '.join(kept)}, from where Google's health checks "
                "and requests come, may not come in",
                "Add these as ipBlocks to networkPolicy.server.from",
            )


def _unexplained(ingress: Object, backend: str) -> Finding:
    return problem(
        where(ingress),
        f"its backend {backend} is UNHEALTHY to Google's load balancer, although its pods are ready and answer",
        f"A firewall of the network may keep {' and '.join(GOOGLE)} out; "
        f"see `gcloud compute backend-services get-health {backend} --global`",
    )


def _isolates(policy: Object, pod: Object) -> bool:
    """Tell whether a policy is one of those that a connection to a pod needs the leave of."""
    spec = policy["spec"]
    return "Ingress" in spec.get("policyTypes", ["Ingress"]) and _matches(spec.get("podSelector") or {}, labels(pod))


def _lets_in(policy: Object, pod: Object, port: int) -> Iterator[str]:
    """Yield the ranges of Google's that may come to a pod's port by a policy."""
    ports = {None, port, *_port_names(pod, port)}
    for rule in policy["spec"].get("ingress") or []:
        if rule.get("ports") and not any(one.get("port") in ports for one in rule["ports"]):
            continue
        blocks = [peer["ipBlock"]["cidr"] for peer in rule.get("from") or [] if "ipBlock" in peer]
        yield from (google for google in GOOGLE if not rule.get("from") or any(_holds(b, google) for b in blocks))


def _holds(cidr: str, inner: str) -> bool:
    outer = ipaddress.ip_network(cidr, strict=False)
    return isinstance(outer, ipaddress.IPv4Network) and ipaddress.IPv4Network(inner).subnet_of(outer)


def _matches(selector: Object, have: dict[str, str]) -> bool:
    """Tell whether a selector without expressions takes labels; one with them is given the benefit of the doubt."""
    return not selector.get("matchExpressions") and (selector.get("matchLabels") or {}).items() <= have.items()


def _selects(service: Object, pod: Object) -> bool:
    selector: dict[str, str] = service["spec"].get("selector") or {}
    return bool(selector) and selector.items() <= labels(pod).items()


def has_groups(service: Object) -> bool:
    """Tell whether a Service asks for network endpoint groups."""
    return bool(_json(annotated(service).get(NEG, "")).get("ingress"))


def container_port(pod: Object, service: Object) -> int:
    """Return the number of the pod's port behind a Service's first port."""
    target = service["spec"]["ports"][0].get("targetPort", service["spec"]["ports"][0]["port"])
    named = {p.get("name"): p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports") or []}
    return int(named.get(target, target) if isinstance(target, str) else target)


def _port_names(pod: Object, number: int) -> list[str]:
    ports = (port for container in pod["spec"]["containers"] for port in container.get("ports") or [])
    return [port["name"] for port in ports if port["containerPort"] == number and "name" in port]


def _services(world: Snapshot, ingress: Object) -> list[Object]:
    return [found for name in services(ingress) if (found := world.named("Service", name))]


def _backend_config(world: Snapshot, service: Object) -> Object | None:
    return world.named("BackendConfig", _config_name(service) or "")


def _config_name(service: Object) -> str | None:
    """Return the BackendConfig of a Service's first port: by the port's name or number, or the default."""
    names = _json(annotated(service).get(BACKEND_CONFIG, ""))
    port = service["spec"]["ports"][0]
    by_port = names.get("ports") or {}
    found = by_port.get(port.get("name")) or by_port.get(str(port["port"])) or names.get("default")
    return str(found) if found else None


def _json(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except msgspec.DecodeError:  # "Unknown", or somebody's typing: as good as nothing
        return {}
