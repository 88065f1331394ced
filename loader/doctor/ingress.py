"""Ingresses: has a controller taken them, have they an address, and is a port open?

Google's controller says what it cannot do in Warning events of the Ingress, reasons Sync and Translate, and records
what it made in annotations ingress.kubernetes.io/*, after a sync that succeeded.

Source: github.com/kubernetes/ingress-gce, pkg/loadbalancers/l7.go (edgeHop), addresses.go (getEffectiveIP).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loader.doctor.finding import Finding, problem, warning
from loader.doctor.snapshot import Object, Snapshot, annotated, duration, name_of, where

CLASS = "kubernetes.io/ingress.class"
STATIC_IP = "kubernetes.io/ingress.global-static-ip-name"
ALLOW_HTTP = "kubernetes.io/ingress.allow-http"
PRE_SHARED = "ingress.gcp.kubernetes.io/pre-shared-cert"
MANAGED = "networking.gke.io/managed-certificates"
FRONTEND = "networking.gke.io/v1beta1.FrontendConfig"
_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the release's Ingresses themselves."""
    for ingress in world.own("Ingress"):
        found = [*_class(world, ingress), *_ports(world, ingress)]
        if not found and not addresses(ingress):
            found = [_no_address(world, ingress)]
        yield from found
        if not found:  # else the controller's own words are of the same
            for said in world.warnings(ingress):
                yield warning(
                    where(ingress),
                    f"its controller said of late: {said}",
                    f"See `kubectl describe ingress {name_of(ingress)}`",
                )


def _class(world: Snapshot, ingress: Object) -> Iterator[Finding]:
    classes = world.objects.get("IngressClass")
    wanted = ingress["spec"].get("ingressClassName")
    if classes is None or addresses(ingress):
        return
    known = ", ".join(name_of(one) for one in classes) or "none"
    if wanted and not world.named("IngressClass", wanted):
        yield problem(
            where(ingress),
            f"no controller takes it: expected an IngressClass {wanted!r}, got {known}",
            "Set ingress.className to one that `kubectl get ingressclass` lists, or install its controller",
        )
    elif not wanted and CLASS not in annotated(ingress) and not _has_default(classes):
        yield problem(
            where(ingress),
            f"no controller takes it: it names no class, and of {known} none is the default",
            "Set ingress.className, or gke.enabled on GKE",
        )


def _has_default(classes: Sequence[Object]) -> bool:
    return any(annotated(one).get(_DEFAULT_CLASS) == "true" for one in classes)


def _ports(world: Snapshot, ingress: Object) -> Iterator[Finding]:
    if not is_google(ingress) or http_open(ingress):
        return
    if not wants_tls(ingress):
        yield problem(
            where(ingress),
            f"opens no port: {ALLOW_HTTP} is false, and it has no certificate for HTTPS",
            "Give it one: gke.preSharedCerts, gke.managedCertificate or ingress.tls.secretName",
        )
    frontend = world.named("FrontendConfig", annotated(ingress).get(FRONTEND, ""))
    if frontend and (frontend["spec"].get("redirectToHttps") or {}).get("enabled"):
        yield problem(
            where(ingress),
            f"plain HTTP is closed, so {where(frontend)} redirects nothing: expected {ALLOW_HTTP} true, got false",
            f"Remove {ALLOW_HTTP} from ingress.annotations, or set gke.redirectToHttps to false",
        )


def _no_address(world: Snapshot, ingress: Object) -> Finding:
    since = f"has no address, {duration(world.age(ingress))} after it was made"
    said = next(world.warnings(ingress), "")
    reserved = annotated(ingress).get(STATIC_IP)
    if not is_google(ingress):
        name = ingress["spec"].get("ingressClassName") or annotated(ingress).get(CLASS, "the default")
        return problem(
            where(ingress),
            f"{since}: the controller of class {name} has not taken it" + (f": {said}" if said else ""),
            "See that the controller runs, and its log; some publish an address only where they are told to",
        )
    if reserved and (not said or "static IP" in said or reserved in said):
        return problem(
            where(ingress),
            f"{since}: expected a reserved global address named {reserved!r}, and there seems to be none"
            + (f": {said}" if said else "; where there is one, it takes up to five minutes"),
            f"Reserve it with `gcloud compute addresses create {reserved} --global`, "
            "or set gke.staticIpName to one that `gcloud compute addresses list --global` shows",
        )
    return problem(
        where(ingress),
        f"{since}: " + (said or "Google's controller has not said why; it takes up to five minutes"),
        f"See `kubectl describe ingress {name_of(ingress)}`; the cluster's add-on HttpLoadBalancing has to be on",
    )


def is_google(ingress: Object) -> bool:
    """Tell whether an Ingress is for Google's controller, which goes by the annotation."""
    return annotated(ingress).get(CLASS, "") in ("gce", "gce-internal")


def addresses(ingress: Object) -> list[str]:
    """Return the addresses, or names, that a controller has given an Ingress."""
    given = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return [one.get("ip") or one["hostname"] for one in given if one.get("ip") or one.get("hostname")]


def hosts(ingress: Object) -> list[str]:
    """Return the hosts that an Ingress has rules for; none means every one."""
    return [rule["host"] for rule in ingress["spec"].get("rules") or [] if rule.get("host")]


def services(ingress: Object) -> list[str]:
    """Return the names of the Services behind an Ingress."""
    spec = ingress["spec"]
    paths = [path for rule in spec.get("rules") or [] for path in (rule.get("http") or {}).get("paths") or []]
    backends = [path["backend"] for path in paths] + ([spec["defaultBackend"]] if "defaultBackend" in spec else [])
    return list(dict.fromkeys(backend["service"]["name"] for backend in backends if "service" in backend))


def listed(ingress: Object, annotation: str) -> list[str]:
    """Return the names in an annotation that has several, with commas between."""
    return [name.strip() for name in annotated(ingress).get(annotation, "").split(",") if name.strip()]


def wants_tls(ingress: Object) -> bool:
    """Tell whether an Ingress names a certificate of any kind."""
    return bool(ingress["spec"].get("tls") or listed(ingress, PRE_SHARED) or listed(ingress, MANAGED))


def http_open(ingress: Object) -> bool:
    """Tell whether an Ingress may answer plain HTTP."""
    return annotated(ingress).get(ALLOW_HTTP) != "false"
