"""`pantry doctor`: the chart's own objects as a cluster holds them, broken one way at a time, and what is said."""

from __future__ import annotations

import base64
import copy
import datetime as dt
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loader.doctor import diagnose
from loader.doctor import probe as probing
from loader.doctor.finding import Finding
from loader.doctor.snapshot import Inside, Probe, Snapshot
from loader.status import Model, Server
from tests.helm import ROOT, Object, Values, changed, minimal, read, render

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
LONG_AGO = "2026-06-01T10:00:00Z"
HOST = "models.example.com"
ADDRESS = "203.0.113.7"
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(*names: str, ends: dt.datetime = NOW + dt.timedelta(days=90)) -> x509.Certificate:
    """A self-signed certificate for some names."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(KEY.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - dt.timedelta(days=300)).not_valid_after(ends)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(KEY, hashes.SHA256())


def pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.DER)


def tls_secret(data: bytes, kind: str = "kubernetes.io/tls", name: str = "models-tls") -> Object:
    crt = base64.b64encode(data).decode()
    return {"kind": "Secret", "metadata": {"name": name}, "type": kind, "data": {"tls.crt": crt}}


class World:
    """A healthy release as a snapshot that a test may break.

    Attributes:
        objects: by kind, with the statuses that a cluster gives them.
        more: further fields of the snapshot.
    """

    def __init__(self, values: Values) -> None:
        self.objects: dict[str, list[Object]] = {"Event": [], "Secret": [], "Pod": []}
        for thing in copy.deepcopy(render(values)):
            thing["metadata"]["creationTimestamp"] = LONG_AGO
            self.objects.setdefault(thing["kind"], []).append(thing)
        self.objects["StorageClass"] = [
            {
                "kind": "StorageClass",
                "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default}},
                "volumeBindingMode": "WaitForFirstConsumer",
            }
            for name, default in (("standard-rwo", "true"), ("premium-rwo", "false"))
        ]
        self.objects["IngressClass"] = [{"kind": "IngressClass", "metadata": {"name": "traefik"}}]
        self.more: dict[str, Any] = {}
        self.inside: dict[str, Inside] = {}
        for kind in list(self.objects):
            for thing in self.objects[kind]:
                getattr(self, f"_{kind.lower()}", lambda _: None)(thing)

    def _deployment(self, thing: Object) -> None:
        count = thing["spec"].setdefault("replicas", 2)
        thing["status"] = {"readyReplicas": count, "conditions": []}
        for number in range(count):
            name = f"{thing['metadata']['name']}-{number}"
            self._make_pod(thing, name, "running", "True")
            models = [Model("digits", "1", "ready", 10, 10, serving="1")]
            self.inside[name] = Inside(Server(ready=True, models=models), {(8080, "/healthz"): 200})

    def _job(self, thing: Object) -> None:
        thing["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
        self._make_pod(thing, f"{thing['metadata']['name']}-x", "terminated", "False")

    def _make_pod(self, owner: Object, name: str, state: str, ready: str) -> None:
        template = copy.deepcopy(owner["spec"]["template"])
        metadata = {**template["metadata"], "name": name, "namespace": "models", "creationTimestamp": LONG_AGO}
        metadata["ownerReferences"] = [{"kind": owner["kind"], "name": owner["metadata"]["name"]}]
        status = {
            "phase": "Running" if state == "running" else "Succeeded",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": ready}],
            "containerStatuses": [
                {"name": c["name"], "image": c["image"], "restartCount": 0, "state": {state: {"exitCode": 0}}}
                for c in template["spec"]["containers"]
            ],
        }
        self.objects["Pod"].append({"kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": status})

    def _persistentvolumeclaim(self, thing: Object) -> None:
        thing["status"] = {"phase": "Bound"}

    def _ingress(self, thing: Object) -> None:
        thing["status"] = {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}
        notes = thing["metadata"].setdefault("annotations", {})
        if notes.get("kubernetes.io/ingress.class") == "gce":
            notes["ingress.kubernetes.io/url-map"] = "k8s2-um-digits"
            notes["ingress.kubernetes.io/backends"] = '{"k8s1-models-digits-pantry-80-1a2b": "HEALTHY"}'
            notes["ingress.kubernetes.io/ssl-cert"] = notes.get("ingress.gcp.kubernetes.io/pre-shared-cert", "mcrt-1")

    def _managedcertificate(self, thing: Object) -> None:
        domains = [{"domain": domain, "status": "Active"} for domain in thing["spec"]["domains"]]
        thing["status"] = {"certificateStatus": "Active", "domainStatus": domains}

    def _httproute(self, thing: Object) -> None:
        conditions = [{"type": "Accepted", "status": "True"}, {"type": "ResolvedRefs", "status": "True"}]
        thing["status"] = {
            "parents": [{"parentRef": ref, "conditions": conditions} for ref in thing["spec"]["parentRefs"]]
        }

    def _poddisruptionbudget(self, thing: Object) -> None:
        thing["status"] = {"expectedPods": 2, "currentHealthy": 2, "desiredHealthy": 1, "disruptionsAllowed": 1}

    def _horizontalpodautoscaler(self, thing: Object) -> None:
        kinds = ("AbleToScale", "ScalingActive")
        thing["status"] = {"conditions": [{"type": kind, "status": "True"} for kind in kinds]}

    def the(self, kind: str) -> Object:
        """The first object of a kind."""
        return self.objects[kind][0]

    def pod(self, component: str = "server") -> Object:
        """A pod of a component."""
        return next(
            pod
            for pod in self.objects["Pod"]
            if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component and "status" in pod
        )

    def event(self, thing: Object, reason: str, message: str, seen: str = "2026-06-01T11:58:00Z") -> None:
        """A Warning event of an object."""
        about = {"kind": thing["kind"], "name": thing["metadata"]["name"]}
        event = {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": seen, "metadata": {}}
        self.objects["Event"].append({**event, "kind": "Event", "involvedObject": about})

    def condition(self, thing: Object, kind: str, status: str, message: str = "", reason: str = "") -> None:
        """Set a condition of an object, in place of the one of that type."""
        conditions = [c for c in thing.setdefault("status", {}).get("conditions") or [] if c["type"] != kind]
        thing["status"]["conditions"] = [
            *conditions,
            {"type": kind, "status": status, "message": message, "reason": reason},
        ]

    def unready(self, thing: Object) -> Object:
        """Take a server's pod out of service."""
        self.condition(thing, "Ready", "False")
        for deployment in self.objects["Deployment"]:
            deployment["status"]["readyReplicas"] = 0
        return thing

    def container(self, thing: Object, **status: Any) -> None:
        """Change the status of a pod's container."""
        self.unready(thing)["status"]["containerStatuses"][0].update(status)

    def model(self, **fields: Any) -> None:
        """Change what the servers tell of their model."""
        model = Model(**{"name": "digits", "version": "1", "phase": "ready", **fields})
        self.inside = {name: Inside(Server(ready=True, models=[model])) for name in self.inside}

    def snapshot(self) -> Snapshot:
        """What the rules see."""
        return Snapshot("digits", "models", self.objects, inside=self.inside, now=NOW, **self.more)

    def findings(self) -> list[Finding]:
        """What is wrong."""
        return diagnose(self.snapshot())


def gke(changes: Values | None = None) -> World:
    """The release of values-gke.yaml."""
    return World(changed(read(ROOT / "values-gke.yaml"), changes or {}))


def simple(changes: Values | None = None) -> World:
    """The release of the least values."""
    return World(minimal(changes))


def traefik(changes: Values | None = None) -> World:
    """A release behind another controller, with a certificate in a Secret."""
    tls = {"enabled": True, "secretName": "models-tls"}
    ingress = {"enabled": True, "className": "traefik", "hosts": [HOST], "tls": tls}
    world = simple({"ingress": ingress, **(changes or {})})
    world.objects["Secret"] = [tls_secret(pem(certificate(HOST)))]
    return world


def scaled() -> World:
    """Replicas, a budget, an autoscaler, a claim that many nodes mount."""
    return simple(
        {
            "storage.mode": "shared",
            "storage.storageClassName": "premium-rwo",
            "replicas": 2,
            "autoscaling": {"enabled": True},
        }
    )


def routed() -> World:
    """A release behind a Gateway."""
    return simple({"gateway": {"enabled": True, "parentRefs": [{"name": "external", "namespace": "infra"}]}})


@pytest.mark.parametrize(
    "make",
    [gke, simple, traefik, scaled, routed, lambda: gke({"gke.managedCertificate": True, "gke.preSharedCerts": []})],
)
def test_a_healthy_release(make: Callable[[], World]) -> None:
    """Nothing is said of a release that is well."""
    assert make().findings() == []


BREAKS: list[tuple[Callable[[], World], str, tuple[str, ...], Callable[[World], Any]]] = []


def breaks(make: Callable[[], World], place: str, *words: str) -> Callable[[Callable[[World], Any]], None]:
    """Note a way to break a release, the object that is to be named, and words that are to be said."""

    def note(function: Callable[[World], Any]) -> None:
        BREAKS.append((make, place, words, function))

    return note


def gone(world: World, kind: str) -> None:
    world.objects[kind] = []


def no_address(world: World) -> Object:
    ingress = world.the("Ingress")
    ingress["status"] = {"loadBalancer": {}}
    return ingress


def annotate(thing: Object, **notes: str | None) -> None:
    """Set annotations by their last part; None removes."""
    for key in list(thing["metadata"]["annotations"]):
        if (last := key.rpartition("/")[2].replace("-", "_").replace(".", "_")) in notes:
            if (value := notes[last]) is None:
                del thing["metadata"]["annotations"][key]
            else:
                thing["metadata"]["annotations"][key] = value


def sick(world: World) -> None:
    annotate(world.the("Ingress"), backends='{"k8s1-models-digits-pantry-80-1a2b": "UNHEALTHY"}')


@breaks(
    gke, "Ingress/digits-pantry", "has no address, 2 hours after", "named 'pantry-ip'", "addresses create pantry-ip"
)
def _(world: World) -> None:
    no_address(world)


@breaks(gke, "Ingress/digits-pantry", "doesn't translate to an existing static IP", "gke.staticIpName")
def _(world: World) -> None:
    said = "Error syncing to GCP: the given static IP name pantry-ip doesn't translate to an existing static IP."
    world.event(no_address(world), "Sync", said)


@breaks(gke, "Ingress/digits-pantry", "quota exceeded", "kubectl describe ingress")
def _(world: World) -> None:
    world.event(no_address(world), "Sync", "googleapi: Error 403: quota exceeded")


@breaks(
    gke,
    "Ingress/digits-pantry",
    "does not have the pre-shared certificate 'pantry-cert'",
    "got other",
    "gke.preSharedCerts",
)
def _(world: World) -> None:
    annotate(world.the("Ingress"), ssl_cert="other")


@breaks(gke, "Ingress/digits-pantry", "certificate 'pantry-cert': Error syncing", "was not found")
def _(world: World) -> None:
    annotate(world.the("Ingress"), ssl_cert=None, url_map=None)
    said = "Error syncing to GCP: The resource 'projects/p/global/sslCertificates/pantry-cert' was not found"
    world.event(world.the("Ingress"), "Sync", said)


@breaks(gke, "203.0.113.7:443", "connection refused", "it is to use pantry-cert", "ssl-certificates create pantry-cert")
def _(world: World) -> None:
    annotate(world.the("Ingress"), ssl_cert=None, url_map=None)
    refused = Probe("digits-pantry", HOST, ADDRESS, https="connection refused", refused=frozenset({443}))
    world.more["probes"] = [refused]


@breaks(gke, "Service/digits-pantry", "ClusterIP without network endpoint groups", "gke.neg")
def _(world: World) -> None:
    world.the("Service")["spec"]["type"] = "ClusterIP"
    annotate(world.the("Service"), neg=None)


@breaks(gke, "Service/digits-pantry", "BackendConfig 'digits-pantry'", "there is none")
def _(world: World) -> None:
    gone(world, "BackendConfig")
    sick(world)


@breaks(gke, "Service/digits-pantry", "UNHEALTHY", "none of its 1 pods is ready")
def _(world: World) -> None:
    sick(world)
    world.unready(world.pod())


@breaks(
    gke, "BackendConfig/digits-pantry", "asks port 8080 for /nope, expected 200, got 404", "healthCheck.requestPath"
)
def _(world: World) -> None:
    sick(world)
    world.the("BackendConfig")["spec"]["healthCheck"]["requestPath"] = "/nope"
    world.inside["digits-pantry-0"] = replace(world.inside["digits-pantry-0"], answers={(8080, "/nope"): 404})


@breaks(gke, "BackendConfig/digits-pantry", "asks port 9999 for /healthz, expected 200, nobody answers")
def _(world: World) -> None:
    sick(world)
    world.the("BackendConfig")["spec"]["healthCheck"]["port"] = 9999
    world.inside["digits-pantry-0"] = replace(world.inside["digits-pantry-0"], answers={(9999, "/healthz"): 0})


@breaks(
    gke,
    "NetworkPolicy/digits-pantry",
    "UNHEALTHY",
    ": 35.191.0.0/16, from where",
    "may not come in",
    "networkPolicy.server.from",
)
def _(world: World) -> None:
    sick(world)
    peers = world.the("NetworkPolicy")["spec"]["ingress"][0]["from"]
    peers[:] = [peer for peer in peers if peer.get("ipBlock", {}).get("cidr") != "35.191.0.0/16"]


@breaks(gke, "Ingress/digits-pantry", "k8s1-models-digits-pantry-80-1a2b is UNHEALTHY", "get-health")
def _(world: World) -> None:
    sick(world)


@breaks(lambda: gke({"gke.redirectToHttps": False}), "Ingress/digits-pantry", "opens no port", "gke.preSharedCerts")
def _(world: World) -> None:
    annotate(world.the("Ingress"), pre_shared_cert=None)


@breaks(gke, "Ingress/digits-pantry", "plain HTTP is closed, so FrontendConfig/digits-pantry", "gke.redirectToHttps")
def _(world: World) -> None:
    world.the("Ingress")["metadata"]["annotations"]["kubernetes.io/ingress.allow-http"] = "false"


def managed() -> World:
    """With a certificate that Google issues."""
    return gke({"gke.managedCertificate": True, "gke.preSharedCerts": []})


@breaks(managed, "ManagedCertificate/digits-pantry", "does not exist", "gke.managedCertificate")
def _(world: World) -> None:
    gone(world, "ManagedCertificate")


@breaks(
    managed,
    "ManagedCertificate/digits-pantry",
    "not Active but Provisioning",
    f"{HOST} is FailedNotVisible",
    "A record",
)
def _(world: World) -> None:
    failed = [{"domain": HOST, "status": "FailedNotVisible"}]
    world.the("ManagedCertificate")["status"] = {"certificateStatus": "Provisioning", "domainStatus": failed}


@breaks(managed, "ManagedCertificate/digits-pantry", f"expected {HOST}, got other.example.com")
def _(world: World) -> None:
    world.the("ManagedCertificate")["spec"]["domains"] = ["other.example.com"]


@breaks(traefik, "Secret/models-tls", "does not exist", "kubectl create secret tls models-tls")
def _(world: World) -> None:
    gone(world, "Secret")


@breaks(traefik, "Secret/models-tls", "expected kubernetes.io/tls, got Opaque")
def _(world: World) -> None:
    world.objects["Secret"] = [tls_secret(pem(certificate(HOST)), "Opaque")]


@breaks(traefik, "Secret/models-tls", "expired on 2026-05-31")
def _(world: World) -> None:
    world.objects["Secret"] = [tls_secret(pem(certificate(HOST, ends=NOW - dt.timedelta(days=1))))]


@breaks(traefik, "Secret/models-tls", f"expected {HOST}, got other.example.com, *.example.org")
def _(world: World) -> None:
    world.objects["Secret"] = [tls_secret(pem(certificate("other.example.com", "*.example.org")))]


@breaks(traefik, "Secret/models-tls", f"expected {HOST}, got no name at all")
def _(world: World) -> None:
    world.objects["Secret"] = [tls_secret(pem(certificate()))]


@breaks(traefik, "Secret/models-tls", "has no certificate in tls.crt")
def _(world: World) -> None:
    world.objects["Secret"] = [tls_secret(b"-----BEGIN nothing-----")]


@breaks(traefik, "Ingress/digits-pantry", "expected an IngressClass 'traefik', got nginx", "ingress.className")
def _(world: World) -> None:
    no_address(world)
    world.objects["IngressClass"] = [{"kind": "IngressClass", "metadata": {"name": "nginx"}}]


@breaks(traefik, "Ingress/digits-pantry", "has no address", "the controller of class traefik")
def _(world: World) -> None:
    no_address(world)


@breaks(
    lambda: traefik({"ingress.className": ""}),
    "Ingress/digits-pantry",
    "names no class, and of traefik none is the default",
)
def _(world: World) -> None:
    no_address(world)


@breaks(traefik, f"Ingress/digits-pantry at {ADDRESS}:443", f"expected {HOST}, got wrong.example.com")
def _(world: World) -> None:
    served = der(certificate("wrong.example.com"))
    world.more["probes"] = [Probe("digits-pantry", HOST, ADDRESS, certificate=served, resolves=(ADDRESS,))]


@breaks(simple, "PersistentVolumeClaim/digits-pantry", "expected a storage class 'fast', got standard-rwo, premium-rwo")
def _(world: World) -> None:
    world.the("PersistentVolumeClaim")["status"] = {"phase": "Pending"}
    world.the("PersistentVolumeClaim")["spec"]["storageClassName"] = "fast"


@breaks(
    simple, "PersistentVolumeClaim/digits-pantry", "names no storage class, and none of standard-rwo is the default"
)
def _(world: World) -> None:
    world.the("PersistentVolumeClaim")["status"] = {"phase": "Pending"}
    world.objects["StorageClass"] = [{"kind": "StorageClass", "metadata": {"name": "standard-rwo"}}]


@breaks(simple, "PersistentVolumeClaim/digits-pantry", "no volume can be made: quota SSD_TOTAL_GB")
def _(world: World) -> None:
    claim = world.the("PersistentVolumeClaim")
    claim["status"] = {"phase": "Pending"}
    claim["spec"]["storageClassName"] = "premium-rwo"
    world.event(claim, "ProvisioningFailed", "quota SSD_TOTAL_GB exceeded")


@breaks(
    lambda: simple({"storage.existingClaim": "mine"}),
    "PersistentVolumeClaim/mine",
    "does not exist",
    "storage.existingClaim",
)
def _(world: World) -> None:
    gone(world, "PersistentVolumeClaim")


@breaks(
    gke, "Pod/digits-pantry-0", "0/3 nodes are available", "label cloud.google.com/gke-nodepool=highmem", "gke.nodePool"
)
def _(world: World) -> None:
    world.objects["Node"] = [
        {"kind": "Node", "metadata": {"name": "a", "labels": {"cloud.google.com/gke-nodepool": "small"}}}
    ]
    pod = world.unready(world.pod())
    pod["status"]["phase"] = "Pending"
    world.condition(pod, "PodScheduled", "False", "0/3 nodes are available: 3 didn't match.", "Unschedulable")


@breaks(
    simple, "Pod/digits-pantry-0", "the image pantry:0.1.0 cannot be pulled: no such host", "Correct image.repository"
)
def _(world: World) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "no such host"}
    world.container(world.pod(), image="pantry:0.1.0", state={"waiting": waiting})


@breaks(simple, "Pod/digits-pantry-sync", "cannot be pulled", "Correct sync.image.repository")
def _(world: World) -> None:
    job = world.the("Job")
    job["status"] = {"active": 1}
    pod = world.pod("sync")
    pod["status"]["phase"] = "Pending"
    pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ErrImagePull", "message": "denied"}}


@breaks(
    simple,
    "Pod/digits-pantry-0",
    "killed for memory 2 minutes ago at its limit of 4Gi (3 restarts)",
    "resources.limits.memory above 4Gi",
)
def _(world: World) -> None:
    last = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-06-01T11:58:00Z"}}
    world.container(world.pod(), restartCount=3, state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=last)


@breaks(
    simple,
    "Pod/digits-pantry-0",
    "ends again and again (5 restarts), last with exit status 2",
    "kubectl logs --previous",
)
def _(world: World) -> None:
    last = {"terminated": {"reason": "Error", "exitCode": 2, "finishedAt": "2026-06-01T11:58:00Z"}}
    world.container(world.pod(), restartCount=5, state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=last)


@breaks(simple, "Pod/digits-pantry-0", 'container server cannot be made: secret "tokens" not found')
def _(world: World) -> None:
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "tokens" not found'}
    world.container(world.pod(), state={"waiting": waiting})


@breaks(simple, "Pod/digits-pantry-0", "cannot begin: Multi-Attach error")
def _(world: World) -> None:
    world.event(world.pod(), "FailedAttachVolume", "Multi-Attach error for volume pvc-1")
    world.container(world.pod(), state={"waiting": {"reason": "ContainerCreating"}})


@breaks(simple, "Deployment/digits-pantry", "scaled to 0 replicas", "kubectl scale")
def _(world: World) -> None:
    world.the("Deployment")["spec"]["replicas"] = 0


@breaks(simple, "Deployment/digits-pantry", "gets no pod: exceeded quota")
def _(world: World) -> None:
    world.condition(world.the("Deployment"), "ReplicaFailure", "True", "exceeded quota: cpu")


@breaks(simple, "release digits", "has no Deployment")
def _(world: World) -> None:
    gone(world, "Deployment")


def failed_job(world: World, reason: str, message: str) -> Object:
    job = world.the("Job")
    job["status"] = {"failed": 7, "conditions": []}
    world.condition(job, "Failed", "True", "Job has reached the specified backoff limit", reason)
    pod = world.pod("sync")
    pod["status"]["phase"] = "Failed"
    pod["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 1, "message": message}}
    return job


@breaks(simple, "Job/digits-pantry-sync", "the sync failed: digits 1: gs://b/x holds no objects", "sync.rerun")
def _(world: World) -> None:
    lines = [
        {"phase": "syncing", "message": "begins"},
        {"phase": "failed", "message": "digits 1: gs://b/x holds no objects"},
        {"phase": "synced", "message": "faces 1: on the volume already"},
    ]
    failed_job(world, "BackoffLimitExceeded", "\n".join(map(json.dumps, lines)))


@breaks(simple, "Job/digits-pantry-sync", "ended after 3600 s, when it had last said: half way", "sync.timeoutSeconds")
def _(world: World) -> None:
    failed_job(world, "DeadlineExceeded", "half way")


@breaks(simple, "Job/digits-pantry-sync", "killed for memory: raise sync.resources.limits.memory")
def _(world: World) -> None:
    failed_job(world, "BackoffLimitExceeded", "")
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    world.pod("sync")["status"]["containerStatuses"][0]["state"] = {"terminated": ended}


@breaks(
    simple, "Job/digits-pantry-sync", 'never got a pod: serviceaccount "reader" not found', "sync.serviceAccount.name"
)
def _(world: World) -> None:
    job = world.the("Job")
    job["status"] = {}
    world.objects["Pod"].remove(world.pod("sync"))
    world.event(job, "FailedCreate", 'serviceaccount "reader" not found')


@breaks(simple, "Job/digits-pantry-sync", "has had no pod for 2 hours")
def _(world: World) -> None:
    world.the("Job")["status"] = {}
    world.objects["Pod"].remove(world.pod("sync"))


@breaks(
    simple,
    "Pod/digits-pantry-0",
    "to be version 2, which is failed: it needs numpy; version 1 answers",
    "docs/operations.md",
)
def _(world: World) -> None:
    world.model(version="2", phase="failed", reason="it needs numpy.", serving="1")


@breaks(simple, "Pod/digits-pantry-0", "not on its volume, and no sync is at work; nothing answers", "sync.rerun")
def _(world: World) -> None:
    world.model(phase="waiting")


@breaks(simple, "Pod/digits-pantry-0", "its server says of itself: models.yaml", "names 'digits' twice")
def _(world: World) -> None:
    server = world.inside["digits-pantry-0"].server
    assert server is not None
    server.problem = "models.yaml names 'digits' twice"


@breaks(simple, "Pod/digits-pantry-0", "not ready, 2 hours after its start: Readiness probe failed", "pantry status")
def _(world: World) -> None:
    world.inside.clear()
    world.event(world.unready(world.pod()), "Unhealthy", "Readiness probe failed: connection refused")


@breaks(scaled, "PodDisruptionBudget/digits-pantry", "permits no eviction: all 2 pods are ready, and 2 have to be")
def _(world: World) -> None:
    world.the("PodDisruptionBudget")["status"].update(desiredHealthy=2, disruptionsAllowed=0)


@breaks(scaled, "HorizontalPodAutoscaler/digits-pantry", "does not scale: no metrics returned", "metrics-server")
def _(world: World) -> None:
    world.condition(
        world.the("HorizontalPodAutoscaler"), "ScalingActive", "False", "no metrics returned", "FailedGetResourceMetric"
    )


@breaks(
    routed,
    "HTTPRoute/digits-pantry",
    "Accepted is False at the Gateway infra/external: NotAllowedByListeners",
    "gateway.parentRefs",
)
def _(world: World) -> None:
    refused = {"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners", "message": "no"}
    world.the("HTTPRoute")["status"]["parents"][0]["conditions"] = [refused]


@breaks(routed, "HTTPRoute/digits-pantry", "ResolvedRefs is False", "BackendNotFound")
def _(world: World) -> None:
    refused = {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "no"}
    world.the("HTTPRoute")["status"]["parents"][0]["conditions"] = [refused]


@breaks(routed, "HTTPRoute/digits-pantry", "no controller took it for the Gateway infra/external")
def _(world: World) -> None:
    world.the("HTTPRoute")["status"] = {}


@pytest.mark.parametrize(("make", "place", "words", "do"), BREAKS, ids=[f"{b[1]}-{b[2][0]}" for b in BREAKS])
def test_what_is_broken_is_said(
    make: Callable[[], World], place: str, words: tuple[str, ...], do: Callable[[World], Any]
) -> None:
    """One sentence names the object, what was expected and got, and the next step; it is a problem."""
    world = make()
    do(world)
    found = world.findings()
    lines = [f"{one.where}: {one.says}. {one.hint}." for one in found if one.severity == "problem"]
    fitting = [line for line in lines if line.startswith(place) and all(word in line for word in words)]
    assert len(fitting) == 1, found
    assert ".." not in fitting[0]
    assert "\n" not in fitting[0]


@pytest.mark.parametrize(
    ("make", "place", "words", "do"),
    [
        (simple, "Pod/digits-pantry-0", "is loading, 5 bytes of 10 bytes; version 0 answers", lambda w: w.model(
            version="1", phase="loading", bytes=5, total_bytes=10, serving="0")),
        (simple, "Pod/digits-pantry-0", "is to be version 1, and the pod knows of 0", lambda w: w.model(
            version="0", serving="0")),
        (simple, "Deployment/digits-pantry", "0 of 1 pods are ready", lambda w: w.container(
            w.pod(), state={"waiting": {"reason": "ContainerCreating"}})),
        (scaled, "PodDisruptionBudget/digits-pantry", "only 1 of 2 pods are ready", lambda w: w.the(
            "PodDisruptionBudget")["status"].update(currentHealthy=1, disruptionsAllowed=0)),
        (traefik, "Secret/models-tls", "expires in 3 days", lambda w: w.objects.update(
            Secret=[tls_secret(pem(certificate(HOST, ends=NOW + dt.timedelta(days=3, hours=1))))])),
        (gke, "Ingress/digits-pantry", "its controller said of late: backend timed out", lambda w: w.event(
            w.the("Ingress"), "Sync", "backend timed out")),
        (gke, HOST, "is not known to DNS here", lambda w: w.more.update(
            probes=[Probe("digits-pantry", HOST, ADDRESS, resolves=())])),
        (gke, HOST, "leads to 192.0.2.1: expected the Ingress's address 203.0.113.7", lambda w: w.more.update(
            probes=[Probe("digits-pantry", HOST, ADDRESS, resolves=("192.0.2.1",))])),
        (gke, f"{ADDRESS}:443", "no answer from here: timed out", lambda w: w.more.update(
            probes=[Probe("digits-pantry", HOST, ADDRESS, https="timed out after 3 s")])),
        (gke, f"{ADDRESS}:80", "plain HTTP is refused", lambda w: w.more.update(
            probes=[Probe("digits-pantry", HOST, ADDRESS, refused=frozenset({80}))])),
        (scaled, "HorizontalPodAutoscaler/digits-pantry", "does not scale: too young", lambda w: w.the(
            "HorizontalPodAutoscaler")["status"].update(conditions=[{"type": "ScalingActive", "status": "False",
            "message": "too young", "lastTransitionTime": "2026-06-01T11:59:00Z"}])),
        (simple, "nodes", "could not be read", lambda w: w.more.update(unread={"nodes": "forbidden"})),
    ],
)  # fmt: skip
def test_warnings(make: Callable[[], World], place: str, words: str, do: Callable[[World], Any]) -> None:
    """What is on its way, or may be wrong elsewhere, is a warning, and no problem."""
    world = make()
    do(world)
    (found,) = world.findings()
    assert (found.severity, found.where) == ("warning", place)
    assert words in found.says


@pytest.mark.parametrize(
    ("make", "do"),
    [
        (gke, lambda w: w.event(w.the("Ingress"), "Sync", "an old story", seen="2026-06-01T11:00:00Z")),
        (simple, lambda w: w.model(phase="waiting", on_demand=True)),
        (gke, lambda w: annotate(w.the("Ingress"), ssl_cert=None, url_map=None)),  # nobody knows yet
        (traefik, lambda w: w.objects.update(Secret=[tls_secret(pem(certificate("*.example.com")))])),
        (simple, lambda w: [w.objects.pop(kind) for kind in ("StorageClass", "IngressClass", "ConfigMap")]),
    ],
)
def test_what_is_no_ground_for_complaint(make: Callable[[], World], do: Callable[[World], Any]) -> None:
    """Old events, a model that waits for its first request, and what cannot be known, are passed over in silence."""
    world = make()
    do(world)
    assert world.findings() == []


def test_a_young_pod_without_a_node() -> None:
    """A volume may be on its way for a minute; the sync, which follows the server, is not told of beside it."""
    world = simple()
    world.the("Deployment")["status"]["readyReplicas"] = 0
    world.the("Job")["status"] = {"active": 1}
    for pod in (world.pod(), world.pod("sync")):
        pod["status"] = {"phase": "Pending"}
        pod["metadata"]["creationTimestamp"] = "2026-06-01T11:59:30Z"
        world.condition(pod, "PodScheduled", "False", "the claim is being bound", "Unschedulable")
    (found,) = world.findings()
    assert (found.severity, found.where) == ("warning", "Pod/digits-pantry-0")
    world.pod()["metadata"]["creationTimestamp"] = LONG_AGO
    (found,) = world.findings()
    assert (found.severity, found.says) == ("problem", "has no node: the claim is being bound")


def test_a_certificate_is_judged_once() -> None:
    """What is wrong with a Secret's certificate is not said again of the address that serves it."""
    world = traefik()
    soon = certificate(HOST, ends=NOW + dt.timedelta(days=3))
    world.objects["Secret"] = [tls_secret(b"none", name="other"), tls_secret(pem(soon))]
    world.more["probes"] = [Probe("digits-pantry", HOST, ADDRESS, certificate=der(soon), resolves=(ADDRESS,))]
    assert [one.where for one in world.findings()] == ["Secret/models-tls"]


def test_policies_add_up() -> None:
    """What one policy does not let in, another may: then the load balancer's trouble is elsewhere."""
    world = gke()
    sick(world)
    own = world.the("NetworkPolicy")
    own["spec"]["ingress"] = []
    assert [one.where for one in world.findings()] == ["NetworkPolicy/digits-pantry"]
    rule = {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}
    other = {"kind": "NetworkPolicy", "metadata": {"name": "all"}, "spec": {"podSelector": {}, "ingress": [rule]}}
    world.objects["NetworkPolicy"].append(other)
    (found,) = world.findings()
    assert (found.where, "A firewall of the network" in found.hint) == ("Ingress/digits-pantry", True)


def test_replicas_with_one_trouble_are_one_finding() -> None:
    """What is so of several pods is said once, of all of them."""
    world = scaled()
    world.model(version="1", phase="failed", reason="it needs numpy")
    (found,) = world.findings()
    assert found.where == "Pod/digits-pantry-0, Pod/digits-pantry-1"


KUBECTL = r"""#!{python}
# Answers from files as kubectl does: KIND.json, or nothing of that kind; a file KIND.denied refuses. As kubectl may,
# it loses what a command printed as often as the file `losses` has letters.
import json, pathlib, sys
here = pathlib.Path(__file__).parent
pairs = {{"--namespace", "--context", "--selector", "--output", "--container", "--verbs"}}
words = list(zip(["", *sys.argv[1:]], sys.argv[1:]))
verb, *rest = [word for before, word in words if not word.startswith("-") and before not in pairs]
(here / "calls").open("a").write(" ".join(sys.argv[1:]) + "\n")
if verb == "api-resources":
    print("deployments.apps pods nodes jobs.batch services events configmaps".replace(" ", "\n"))
    print("persistentvolumeclaims\nstorageclasses.storage.k8s.io")
    print("ingresses.networking.k8s.io ingressclasses.networking.k8s.io".replace(" ", "\n"))
elif verb == "exec" and (here / "losses").exists() and (here / "losses").read_text():
    (here / "losses").write_text((here / "losses").read_text()[1:])
elif verb == "exec" and "pantry" in rest:
    denied = (here / "exec.denied").exists()
    sys.exit("error: pods is forbidden") if denied else print((here / "status.json").read_text())
elif verb == "exec":
    print(200)
elif (here / f"{{rest[0]}}.denied").exists():
    sys.exit(f"Error from server (Forbidden): {{rest[0]}} is forbidden")
elif rest[0] == "secret":
    print(((here / "secret.json").read_text()))
else:
    path = here / f"{{rest[0]}}.json"
    print(path.read_text() if path.exists() else json.dumps({{"items": []}}))
"""
FILES = {
    "Deployment": "deployments.apps",
    "Pod": "pods",
    "Job": "jobs.batch",
    "Service": "services",
    "StorageClass": "storageclasses.storage.k8s.io",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "ConfigMap": "configmaps",
    "Ingress": "ingresses.networking.k8s.io",
    "IngressClass": "ingressclasses.networking.k8s.io",
    "Event": "events",
}
STATUS = {
    "ready": True,
    "models": [{"name": "digits", "version": "1", "phase": "ready", "serving": "1", "onDemand": False}],
}


@pytest.fixture(name="cluster")
def fake_cluster(tmp_path: Path) -> Path:
    """A folder with a kubectl that answers from the files in it: a healthy release behind Traefik."""
    world = traefik()
    world.objects["Secret"] = [tls_secret(pem(certificate(HOST, ends=dt.datetime.now(dt.UTC) + dt.timedelta(days=90))))]
    for kind, name in FILES.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"items": world.objects.get(kind, [])}))
    (tmp_path / "secret.json").write_text(json.dumps(world.the("Secret")))
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    (tmp_path / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (tmp_path / "kubectl").chmod(0o755)
    return tmp_path


def doctor(path: Path, *arguments: str, release: str = "digits") -> subprocess.CompletedProcess[str]:
    """Run the command with a folder as its PATH."""
    command = [sys.executable, "-m", "loader.cli", "doctor", release, "--no-probe", *arguments]
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_on_a_healthy_release(cluster: Path) -> None:
    """It exits 0 and says so; namespace and context go to every kubectl."""
    done = doctor(cluster, "--namespace", "models", "--context", "there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "digits: nothing is wrong\n", "")
    calls = (cluster / "calls").read_text().splitlines()
    assert all("--namespace models --context there" in call for call in calls)
    assert any(
        "exec digits-pantry-0 --container server -- pantry status --json http://127.0.0.1:8081" in c for c in calls
    )
    assert doctor(cluster, "--json").stdout == ""


def test_the_command_on_a_broken_release(cluster: Path) -> None:
    """It exits 1 with a sentence and a hint beneath, or a JSON line."""
    (cluster / "secret.json").write_text("")
    done = doctor(cluster)
    assert done.returncode == 1
    says, hint = done.stdout.splitlines()
    assert says.startswith(
        "problem: Secret/models-tls: does not exist, and Ingress/digits-pantry takes its certificate"
    )
    assert hint.startswith("         Make it with `kubectl create secret tls models-tls")
    done = doctor(cluster, "--json")
    assert (done.returncode, json.loads(done.stdout)["where"]) == (1, "Secret/models-tls")


def test_what_kubectl_loses_is_asked_again(cluster: Path) -> None:
    """An exec that prints nothing and exits 0 is no answer; where it stays so, that is said of the server's status."""
    (cluster / "losses").write_text("xx")
    assert doctor(cluster, "--json").stdout == ""
    (cluster / "losses").write_text("xxx")
    (found,) = map(json.loads, doctor(cluster, "--json").stdout.splitlines())
    assert (found["severity"], "kubectl exec printed nothing, 3 times" in found["says"]) == ("warning", True)


def test_what_may_not_be_read_is_said(cluster: Path) -> None:
    """What this account may not read is a warning, and the rest is judged."""
    for name in ("exec", "storageclasses.storage.k8s.io", "secret"):
        (cluster / f"{name}.denied").touch()
    done = doctor(cluster, "--json")
    assert done.returncode == 0
    (found,) = map(json.loads, done.stdout.splitlines())
    assert found["severity"] == "warning"
    assert found["where"] == "storageclasses, Secret/models-tls, the status of Pod/digits-pantry-0"
    assert "storageclasses.storage.k8s.io is forbidden" in found["says"]


def test_no_such_release(cluster: Path) -> None:
    """A release that is not there is wrong use, with a hint of where to look."""
    done = doctor(cluster, release="faces")
    assert done.returncode == 2
    assert "there is no release faces of Pantry in the context's namespace. `helm list --all-namespaces`" in done.stderr


def test_no_access(cluster: Path) -> None:
    """Without the right to read Deployments nothing can be said: wrong use, in kubectl's own words."""
    (cluster / "deployments.apps.denied").touch()
    done = doctor(cluster)
    assert done.returncode == 2
    assert "kubectl cannot read release digits: Error from server (Forbidden)" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_kubectl(tmp_path: Path) -> None:
    """Without kubectl there is a hint where to get it."""
    done = doctor(tmp_path)
    assert done.returncode == 2
    assert "there is no kubectl on the PATH. Install it: https://" in done.stderr


@pytest.fixture(name="served")
def tls_server(tmp_path: Path) -> Iterator[tuple[int, x509.Certificate]]:
    """A TLS server on loopback: its port and certificate."""
    cert = certificate("localhost", ends=dt.datetime.now(dt.UTC) + dt.timedelta(days=90))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "both.pem").write_bytes(pem(cert) + KEY.private_bytes(serialization.Encoding.PEM, *private))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as secure:
                secure.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1], cert
        thread.join()


def probed(monkeypatch: pytest.MonkeyPatch, https: int) -> Probe:
    """What a probe of this machine gets, with other ports in place of 443 and 80."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    monkeypatch.setattr(probing, "HTTPS", https or closed)
    monkeypatch.setattr(probing, "HTTP", closed)
    world = traefik({"ingress.hosts": ["localhost", "*.example.com"]})
    world.the("Ingress")["status"]["loadBalancer"]["ingress"] = [{"ip": "127.0.0.1"}]
    (probe,) = probing.probes(world.snapshot())
    return probe


def test_a_probe_of_what_answers(served: tuple[int, x509.Certificate], monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe gets the certificate, whoever signed it, and what DNS knows; a wildcard is no host to ask for."""
    port, cert = served
    probe = probed(monkeypatch, port)
    assert (probe.host, probe.https, probe.http) == ("localhost", "", "connection refused")
    assert probe.certificate == der(cert)
    assert "127.0.0.1" in (probe.resolves or ())


def test_a_probe_of_what_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe tells a port that refuses from one that is silent."""
    probe = probed(monkeypatch, 0)
    assert probe.https == "connection refused"
    assert len(probe.refused) == 1
    assert probe.certificate == b""
