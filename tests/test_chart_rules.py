"""The rules by which rendered objects are judged: each finds what it is there to find."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest

from tests import helm
from tests.chart_references import broken
from tests.chart_rules import LINTER, lint, unrestricted
from tests.helm import Object

# What kube-linter checks by default: its internal/defaultchecks/default_checks.go, and the Jobs' of later versions.
ON_BY_DEFAULT = """
dangling-service deprecated-service-account-field docker-sock drop-net-raw-capability duplicate-env-var env-var-secret
host-ipc host-network host-pid invalid-target-ports job-ttl-seconds-after-finished latest-tag liveness-port
mismatching-selector no-anti-affinity no-extensions-v1beta no-read-only-root-fs non-existent-service-account
pdb-max-unavailable pdb-min-available pdb-unhealthy-pod-eviction-policy privilege-escalation-container
privileged-container readiness-port run-as-non-root sensitive-host-mounts ssh-port startup-port unsafe-sysctls
unset-cpu-requirements unset-memory-requirements
"""

SERVER = "Deployment/spec/template/spec"
CONTAINER = f"{SERVER}/containers/0"
CONTEXT = f"{CONTAINER}/securityContext"
DOCKER = [{"name": "docker", "hostPath": {"path": "/var/run/docker.sock"}}]

# What is put where, and the check that is to find it.
LINT = [
    ("dangling-service", "Service/spec/selector", {"a": "b"}),
    ("deprecated-service-account-field", f"{SERVER}/serviceAccount", "digits-pantry"),
    ("docker-sock", f"{SERVER}/volumes", DOCKER),
    ("drop-net-raw-capability", f"{CONTEXT}/capabilities", {"drop": ["CHOWN"]}),
    ("duplicate-env-var", f"{CONTAINER}/env", [{"name": "A", "value": "b"}] * 2),
    ("env-var-secret", f"{CONTAINER}/env", [{"name": "MY_SECRET", "value": "b"}]),
    ("host-ipc", f"{SERVER}/hostIPC", True),
    ("host-network", f"{SERVER}/hostNetwork", True),
    ("host-pid", f"{SERVER}/hostPID", True),
    ("invalid-target-ports", f"{CONTAINER}/ports/0/name", "a-name-of-16-chars"),
    ("invalid-target-ports", "Service/spec/ports/0/targetPort", "8080-"),
    ("job-ttl-seconds-after-finished", "Job/metadata/annotations", {}),
    ("latest-tag", f"{CONTAINER}/image", "registry.example.com:5000/pantry"),
    ("latest-tag", f"{CONTAINER}/image", "registry.example.com/pantry:latest"),
    ("liveness-port", f"{CONTAINER}/livenessProbe/httpGet/port", "other"),
    ("mismatching-selector", "Deployment/spec/selector/matchLabels", {"a": "b"}),
    ("no-anti-affinity", f"{SERVER}/affinity", {}),
    ("no-extensions-v1beta", "Deployment/apiVersion", "extensions/v1beta1"),
    ("no-read-only-root-fs", f"{CONTEXT}/readOnlyRootFilesystem", False),
    ("non-existent-service-account", f"{SERVER}/serviceAccountName", "other"),
    ("pdb-max-unavailable", "PodDisruptionBudget/spec/maxUnavailable", 0),
    ("pdb-min-available", "PodDisruptionBudget/spec/minAvailable", 3),
    ("pdb-unhealthy-pod-eviction-policy", "PodDisruptionBudget/spec/unhealthyPodEvictionPolicy", "IfHealthyBudget"),
    ("privilege-escalation-container", f"{CONTEXT}/allowPrivilegeEscalation", True),
    ("privilege-escalation-container", f"{CONTEXT}/capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ("privileged-container", f"{CONTEXT}/privileged", True),
    ("readiness-port", f"{CONTAINER}/readinessProbe/httpGet/port", 8082),
    ("run-as-non-root", f"{SERVER}/securityContext", {"runAsNonRoot": True, "runAsUser": 0}),
    ("sensitive-host-mounts", f"{SERVER}/volumes", [{"name": "etc", "hostPath": {"path": "/etc"}}]),
    ("ssh-port", f"{CONTAINER}/ports/0/containerPort", 22),
    ("startup-port", f"{CONTAINER}/startupProbe/httpGet/port", "other"),
    ("unsafe-sysctls", f"{SERVER}/securityContext/sysctls", [{"name": "net.core.somaxconn", "value": "1"}]),
    ("unset-cpu-requirements", f"{CONTAINER}/resources/requests", {"memory": "1Gi"}),
    ("unset-memory-requirements", f"{CONTAINER}/resources/limits", {"cpu": "1"}),
]

RESTRICTED = [
    ("hostNetwork", f"{SERVER}/hostNetwork", True),
    ("volume hostPath", f"{SERVER}/volumes", DOCKER),
    ("the pod's sysctls", f"{SERVER}/securityContext/sysctls", []),
    ("server: privileged", f"{CONTEXT}/privileged", True),
    ("server: allowPrivilegeEscalation", CONTEXT, {"capabilities": {"drop": ["ALL"]}}),
    ("server: runAsNonRoot", f"{SERVER}/securityContext/runAsNonRoot", False),
    ("server: runAsUser", f"{CONTEXT}/runAsUser", 0),
    ("server: seccompProfile", f"{SERVER}/securityContext/seccompProfile", {"type": "Unconfined"}),
    ("server: capabilities", f"{CONTEXT}/capabilities", {"drop": ["NET_RAW"]}),
    ("server: capabilities", f"{CONTEXT}/capabilities", {"drop": ["ALL"], "add": ["CHOWN"]}),
    ("server: procMount", f"{CONTEXT}/procMount", "Unmasked"),
    ("server: hostPort", f"{CONTAINER}/ports/0/hostPort", 8080),
    ("server: a handler's host", f"{CONTAINER}/livenessProbe/httpGet/host", "192.0.2.1"),
]

FILES = "downwardAPI/items/0/fieldRef/fieldPath"
NOTES = "metadata/annotations"
REFERENCES: list[tuple[str, str, Any]] = [
    ("the name is no DNS label", "Service/metadata/name", "Digits"),
    ("the label a is b/", "Service/metadata/labels/a", "b/"),
    ("spec.type is null", "Service/spec/type", None),
    ("Service other is not there", "Ingress/spec/defaultBackend/service/name", "other"),
    (
        "FrontendConfig other is not there",
        "Ingress/metadata/annotations/networking.gke.io~v1beta1.FrontendConfig",
        "other",
    ),
    ("ManagedCertificate a is not there", "Ingress/metadata/annotations/networking.gke.io~managed-certificates", "a"),
    ("asks the ports", "Ingress/spec/defaultBackend/service/port/name", "admin"),
    ("BackendConfig b is not", f"Service/{NOTES}/cloud.google.com~backend-config", '{"default": "b"}'),
    ("Deployment other is not there", "HorizontalPodAutoscaler/spec/scaleTargetRef/name", "other"),
    ("selects no pod", "NetworkPolicy/spec/podSelector/matchLabels", {"a": "b"}),
    ("selects no pod", "PodDisruptionBudget/spec/selector/matchLabels", {"a": "b"}),
    ("no container has the port web", "NetworkPolicy/spec/ingress/0/ports/0/port", "web"),
    ("no container has the port web", "PodMonitoring/spec/endpoints/0/port", "web"),
    ("no container has the port web", "Service/spec/ports/0/targetPort", "web"),
    ("volumes and mounts differ", f"{CONTAINER}/volumeMounts", []),
    ("the volume models is there twice", f"{SERVER}/volumes/1/name", "models"),
    ("server mounts /tmp twice", f"{CONTAINER}/volumeMounts/0/mountPath", "/tmp"),
    ("a PersistentVolumeClaim other that is not there", f"{SERVER}/volumes/0/persistentVolumeClaim/claimName", "other"),
    ("a ConfigMap other that is not there", f"{SERVER}/volumes/1/configMap/name", "other"),
    ("which is not there", f"Job/spec/template/spec/volumes/1/{FILES}", "metadata.annotations['a']"),
    ("Service other is not there", "HTTPRoute/spec/rules/0/backendRefs/0/name", "other"),
    ("has no port 81", "HTTPRoute/spec/rules/0/backendRefs/0/port", 81),
    ("Service other is not there", "HealthCheckPolicy/spec/targetRef/name", "other"),
    ("no Service, or several, or another port", "ServiceMonitor/spec/endpoints/0/port", "http"),
    ("ConfigMap/digits-pantry is there twice", "ConfigMap/metadata/name", "digits-pantry"),
]


GOOGLE = {
    "gke": {"enabled": True, "preSharedCerts": ["a"]},
    "ingress": {"enabled": True, "hosts": ["a.test"]},
    "autoscaling": {"enabled": True, "minReplicas": 3},
    "monitoring": {"podMonitoring": True, "dashboard": True},
}


@functools.cache
def good() -> list[Object]:
    """Two releases with one of everything, in which nothing is wrong."""
    shared, canary = (helm.read(helm.CHART / f"ci/{name}-values.yaml") for name in ("shared", "gateway-canary"))
    canary["monitoring"] = {"serviceMonitor": True}
    return helm.render(shared | GOOGLE) + helm.render(canary, name="faces")


def with_fault(path: str, value: Any) -> list[Object]:
    """The same with a value put into the first object of a kind: KIND/field/index/…, with ~ for a slash."""
    objects = copy.deepcopy(good())
    kind, *parents, last = (step.replace("~", "/") for step in path.split("/"))
    inner: Any = next(o for o in objects if o["kind"] == kind)
    for step in parents:
        inner = inner[int(step)] if isinstance(inner, list) else inner.setdefault(step, {})
    inner[last] = value
    return objects


def faults(table: list[tuple[str, str, Any]]) -> Callable[[Any], Any]:
    names = [f"{finding}: {path}"[:80] for finding, path, _ in table]
    return pytest.mark.parametrize(("finding", "path", "value"), table, ids=names)


def test_good_releases_have_no_faults() -> None:
    """So that what is found below is what was put there."""
    assert lint(good()) == broken(good()) == [wrong for pod in helm.pods(good()) for wrong in unrestricted(pod)] == []


def test_every_check_of_kube_linter_has_a_rule() -> None:
    """The rules are its default checks, all of them, and each is seen to fail below."""
    assert sorted(LINTER) == ON_BY_DEFAULT.split() == sorted({name for name, _, _ in LINT})


@faults(LINT)
def test_a_rule_finds_its_fault(finding: str, path: str, value: Any) -> None:
    """One fault in a good release is found by the check that is for it."""
    assert finding in {found.split(":")[0] for found in lint(with_fault(path, value))}


def test_an_annotation_silences_a_check() -> None:
    """As kube-linter's own: for one object, one check."""
    objects = with_fault(f"{CONTEXT}/privileged", True)
    helm.named(objects, "Deployment", "digits-pantry")["metadata"]["annotations"] = {
        "ignore-check.kube-linter.io/privileged-container": "so"
    }
    assert not [found for found in lint(objects) if found.startswith("privileged-container")]


@faults(RESTRICTED)
def test_pod_security_finds_its_fault(finding: str, path: str, value: Any) -> None:
    """One field that Pod Security `restricted` forbids is found."""
    assert finding in unrestricted(next(helm.pods(with_fault(path, value))))


@faults(REFERENCES)
def test_a_broken_reference_is_found(finding: str, path: str, value: Any) -> None:
    """One name, port or selector that leads nowhere is found."""
    assert [sentence for sentence in broken(with_fault(path, value)) if finding in sentence]
