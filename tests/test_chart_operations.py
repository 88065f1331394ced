"""What those who run a release ask for: evictions, scaling, metrics, access, and things of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import helm
from tests.chart_rules import lint
from tests.helm import Object, Values

SHARED: Values = {"storage.mode": "shared", "storage.storageClassName": "standard-rwx"}
SCALED = SHARED | {"autoscaling.enabled": True}


def render(changes: Values) -> list[Object]:
    return helm.render(helm.minimal(changes))


def server(objects: list[Object]) -> Object:
    pod = helm.one(objects, "Deployment")["spec"]["template"]
    assert isinstance(pod, dict)
    return pod


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({}, False),
        (SHARED | {"replicas": 2}, True),
        (SCALED, True),
        (SCALED | {"autoscaling.minReplicas": 1, "replicas": 5}, False),
        (SHARED | {"replicas": 2, "podDisruptionBudget.enabled": False}, False),
    ],
)
def test_a_budget_comes_with_the_second_pod(changes: Values, there: bool) -> None:
    """With one pod it could only keep a node from being drained; with several they are evicted one at a time."""
    objects = render(changes)
    assert ("PodDisruptionBudget" in helm.kinds(objects)) is there
    if there:
        spec = helm.one(objects, "PodDisruptionBudget")["spec"]
        assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_a_budget_can_be_a_share() -> None:
    """In percent of a large release."""
    objects = render(SHARED | {"replicas": 100, "podDisruptionBudget.maxUnavailable": "10%"})
    assert helm.one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == "10%"


def test_an_autoscaler_sets_the_replicas_alone() -> None:
    """The Deployment then names no number, or every `helm upgrade` would scale it back."""
    objects = render(SCALED | {"replicas": 7})
    assert "replicas" not in helm.one(objects, "Deployment")["spec"]
    spec = helm.one(objects, "HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits-pantry"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 10)
    target = {"type": "Utilization", "averageUtilization": 70}
    assert spec["metrics"] == [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    assert "behavior" not in spec


def test_an_autoscaler_can_go_by_the_queue() -> None:
    """By a metric of the pods, by whatever else is written as Kubernetes writes it, and as fast as one says."""
    more = {"type": "External", "external": {"metric": {"name": "a"}, "target": {"type": "Value", "value": "1"}}}
    slow = {"scaleDown": {"stabilizationWindowSeconds": 600}}
    queue = {"enabled": True, "cpuPercent": 0, "queueMetric": "wait", "metrics": [more], "behavior": slow}
    spec = helm.one(render(SHARED | {"autoscaling": queue}), "HorizontalPodAutoscaler")["spec"]
    by_queue = {"metric": {"name": "wait"}, "target": {"type": "AverageValue", "averageValue": "50m"}}
    assert spec["metrics"] == [{"type": "Pods", "pods": by_queue}, more]
    assert spec["behavior"] == slow


def test_google_scrapes_every_server() -> None:
    """A PodMonitoring for the admin port, and Google's collectors may come in."""
    objects = render({"monitoring.podMonitoring": True})
    spec = helm.one(objects, "PodMonitoring")["spec"]
    assert spec["endpoints"] == [{"port": "admin", "path": "/metrics", "interval": "30s"}]
    assert spec["selector"]["matchLabels"].items() < server(objects)["metadata"]["labels"].items()
    admin = helm.one(objects, "NetworkPolicy", "server")["spec"]["ingress"][1]
    (collectors,) = (peer["namespaceSelector"] for peer in admin["from"] if "namespaceSelector" in peer)
    (expression,) = collectors["matchExpressions"]
    assert set(expression["values"]) == {"gke-gmp-system", "gmp-system"}


def test_prometheus_scrapes_through_a_service_of_its_own() -> None:
    """Without an address, of pods that are not ready too; clients' Service does not lead to the admin port."""
    objects = render({"monitoring": {"serviceMonitor": True, "intervalSeconds": 15, "labels": {"release": "prom"}}})
    monitor, service = helm.one(objects, "ServiceMonitor"), helm.one(objects, "Service", "admin")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert monitor["spec"]["endpoints"] == [{"port": "admin", "path": "/metrics", "interval": "15s"}]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["ports"] == [{"name": "admin", "port": 8081, "targetPort": "admin"}]
    clients = helm.one(objects, "Service", "server")
    assert not monitor["spec"]["selector"]["matchLabels"].items() <= clients["metadata"]["labels"].items()
    assert [port["targetPort"] for port in clients["spec"]["ports"]] == ["http"]


def test_the_dashboard_is_the_file_of_the_chart() -> None:
    """Under the label by which Grafana's sidecar finds it, byte for byte JSON."""
    dashboard = helm.one(render({"monitoring.dashboard": True}), "ConfigMap", "dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    ((name, text),) = dashboard["data"].items()
    assert name == "digits-pantry.json"
    assert json.loads(text) == json.loads((helm.CHART / "files/dashboard.json").read_text())


@pytest.mark.parametrize(
    ("mode", "variables"),
    [
        ("tokens", {"PANTRY_ACCESS": "tokens", "PANTRY_TOKENS_FILE": "/etc/pantry-access/tokens"}),
        (
            "users",
            {
                "PANTRY_ACCESS": "users",
                "PANTRY_USERS_FILE": "/etc/pantry-access/users",
                "PANTRY_SIGNING_SECRET_FILE": "/etc/pantry-access/signing-secret",
                "PANTRY_TOKEN_SECONDS": "60",
            },
        ),
    ],
)
def test_who_may_ask_is_in_a_secret_of_ones_own(mode: str, variables: dict[str, str]) -> None:
    """Files of a Secret that the chart neither makes nor reads, read-only, for the server's group alone."""
    objects = render({"access": {"mode": mode, "secretName": "mine", "tokenSeconds": 60}})
    pod = server(objects)
    assert helm.volumes(pod)["access"] == {"secret": {"secretName": "mine", "defaultMode": 0o440}}
    mount = helm.mounts(helm.container(pod))["access"]
    assert mount == {"name": "access", "mountPath": "/etc/pantry-access", "readOnly": True}
    assert variables.items() <= helm.environment(pod).items()
    assert "Secret" not in helm.kinds(objects)


ACCESS: dict[str, Any] = {"mode": "users", "storageUris": {"users": "gs://b/people", "signing-secret": "gs://b/secret"}}


@pytest.mark.parametrize("mode", ["disk", "shared", "ephemeral"])
def test_who_may_ask_may_come_from_the_bucket(mode: str) -> None:
    """The sync brings it to the volume, under names of this release; the server waits for it, and reads it there."""
    objects = render({"access": ACCESS, "storage": {"mode": mode, "storageClassName": "rwx"}})
    pod = server(objects)
    (sync,) = [
        container for each in helm.pods(objects) for container in helm.containers(each) if container["name"] == "sync"
    ]
    files = {"USERS": "digits-pantry-users", "SIGNING_SECRET": "digits-pantry-signing-secret"}
    uris = dict(zip(files.values(), ("gs://b/people", "gs://b/secret"), strict=True))
    assert {f"--access={name}={uri}" for name, uri in uris.items()} <= set(sync["args"])
    assert {
        "PANTRY_ACCESS": "users",
        "PANTRY_ACCESS_FILES": "synced",
        **{f"PANTRY_{key}_FILE": f"/mnt/models/.access/{name}" for key, name in files.items()},
    }.items() <= helm.environment(pod).items()
    assert "access" not in helm.volumes(pod)


def test_other_users_in_the_bucket_restart_no_pod() -> None:
    """A Job brings them; the server follows the file."""
    other = {**ACCESS, "storageUris": {**ACCESS["storageUris"], "users": "gs://b/people-2"}}
    before, after = render({"access": ACCESS}), render({"access": other})
    assert server(before) == server(after)
    assert helm.one(before, "Job")["metadata"]["name"] != helm.one(after, "Job")["metadata"]["name"]


def test_nobody_has_to_show_anything_by_default() -> None:
    """Then no Secret is mounted, and no variable says where one is."""
    pod = server(render({}))
    assert "access" not in helm.volumes(pod)
    assert not [name for name in helm.environment(pod) if "ACCESS" in name or "TOKEN" in name]


def test_the_sync_and_its_job_have_no_secret() -> None:
    """Clients' secrets are the server's and, to ask it, the test's."""
    objects = render({"access": {"mode": "tokens", "secretName": "mine"}})
    (job,) = helm.pods([helm.one(objects, "Job")])
    assert "access" not in helm.volumes(job)
    assert helm.environment(helm.one(objects, "Pod"))["PANTRY_TOKENS_FILE"] == "/etc/pantry-access/tokens"


def test_ones_own_things_are_in_the_servers_pod() -> None:
    """Variables, volumes, mounts, sidecars, labels and annotations, each beside the chart's own."""
    sidecar = {"name": "sidecar", "image": "registry.example.com/sidecar:1"}
    objects = render(
        {
            "server.extraEnv": [
                {"name": "A", "value": 1},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "a"}}},
            ],
            "server.extraVolumes": [{"name": "more", "emptyDir": {}}],
            "server.extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "server.extraContainers": [sidecar],
            "server.podLabels": {"team": "vision"},
            "server.podAnnotations": {"mine": "too"},
        }
    )
    pod = server(objects)
    first, second = pod["spec"]["containers"]
    assert first["env"][-2:] == [
        {"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "a"}}},
    ]
    assert helm.mounts(first)["more"] == {"name": "more", "mountPath": "/more"}
    assert helm.volumes(pod)["more"] == {"emptyDir": {}}
    assert second == sidecar
    assert pod["metadata"]["labels"]["team"] == "vision"
    assert pod["metadata"]["annotations"] == {"mine": "too"}
    assert "team" not in helm.one(objects, "Deployment")["spec"]["selector"]["matchLabels"]


def test_ones_own_annotations_are_beside_the_models() -> None:
    """Where models.yaml is an annotation of the pod, too."""
    objects = render({"storage.mode": "ephemeral", "server.podAnnotations": {"mine": "too"}})
    assert set(server(objects)["metadata"]["annotations"]) == {"mine", "pantry/models.yaml"}


def test_ones_own_things_are_in_the_syncs_pod() -> None:
    """A certificate authority, for example: variable, volume and mount, of the Job and of the init container alike."""
    more = {
        "sync.extraEnv": [{"name": "SSL_CERT_FILE", "value": "/ca/ca.pem"}],
        "sync.extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "sync.extraVolumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
    }
    (job,) = helm.pods([helm.one(render(more), "Job")])
    ephemeral = server(render(more | {"storage.mode": "ephemeral"}))
    for pod, sync in ((job, helm.container(job)), (ephemeral, ephemeral["spec"]["initContainers"][0])):
        assert {"name": "SSL_CERT_FILE", "value": "/ca/ca.pem"} in sync["env"]
        assert helm.volumes(pod)["ca"] == {"configMap": {"name": "ca"}}
        assert helm.mounts(sync)["ca"]["mountPath"] == "/ca"


def test_objects_of_ones_own_come_with_the_release() -> None:
    """Maps and texts, with what stands in braces filled in; the release's own names are at hand."""
    objects = render(
        {
            "extraObjects": [
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-tokens"}},
                'apiVersion: v1\nkind: Secret\nmetadata: {name: "{{ include "pantry.fullname" . }}-more"}',
            ]
        }
    )
    names = [o["metadata"]["name"] for o in objects if o["kind"] == "Secret"]
    assert names == ["digits-tokens", "digits-pantry-more"]


def test_labels_of_ones_own_are_on_every_object_and_no_pod() -> None:
    """So that a changed one restarts nothing and runs no sync."""
    values = helm.read(helm.CHART / "ci/shared-values.yaml")
    old, new = helm.render(values), helm.render(values | {"commonLabels": {"team": "speech"}})
    assert {o["metadata"]["labels"]["team"] for o in new} == {"speech"}
    assert [helm.key(o) for o in old] == [helm.key(o) for o in new]
    for before, after in zip(old, new, strict=True):
        assert {k: v for k, v in before.items() if k != "metadata"} == {
            k: v for k, v in after.items() if k != "metadata"
        }


def test_pods_of_several_replicas_are_kept_apart() -> None:
    """On nodes of their own where there are some, unless one says how to spread them."""
    objects = render(SHARED | {"replicas": 3})
    apart = server(objects)["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert apart[0]["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    spread = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    told = server(render(SHARED | {"replicas": 3, "topologySpreadConstraints": [spread]}))["spec"]
    assert told["topologySpreadConstraints"] == [spread]
    assert "affinity" not in told
    assert lint(objects) == []


@pytest.mark.parametrize(
    ("value", "label", "text"),
    [
        ({"gke.nodePool": "highmem"}, "cloud.google.com/gke-nodepool", "highmem"),
        ({"gke.machineFamily": "n2"}, "cloud.google.com/machine-family", "n2"),
        ({"gke.computeClass": "Balanced"}, "cloud.google.com/compute-class", "Balanced"),
        ({"gke.accelerator": "nvidia-l4", "gpu.count": 1}, "cloud.google.com/gke-accelerator", "nvidia-l4"),
        ({"gke.gpuDriverVersion": "latest"}, "cloud.google.com/gke-gpu-driver-version", "latest"),
        ({"gke.spot": True}, "cloud.google.com/gke-spot", "true"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_kind_of_node_is_a_label(value: Values, label: str, text: str) -> None:
    """Each sends the server to such nodes, beside one's own selector."""
    spec = server(render(value | {"nodeSelector": {"mine": "too"}}))["spec"]
    assert spec["nodeSelector"] == {"mine": "too", label: text}
    if "gke.spot" in value:
        spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        assert spec["tolerations"] == [spot]
