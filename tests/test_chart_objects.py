"""The objects that the chart renders: valid, restricted, named and numbered right."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests import helm

RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
BINARIES = ["helm", "helm4"]

every_values_file = pytest.mark.parametrize("path", helm.VALUES_FILES, ids=lambda path: path.name)


@every_values_file
def test_every_pod_is_restricted(path: Path) -> None:
    """Server, sync and test pod pass Pod Security `restricted`, and get no token and no neighbours' addresses."""
    for pod in helm.pods(helm.render(helm.read(path))):
        spec = pod["spec"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in helm.containers(pod):
            assert container["securityContext"] == RESTRICTED
            assert {"name": "HOME", "value": "/tmp"} in container["env"]
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_server_has_the_command_environment_and_ports_of_the_image() -> None:
    """The chart knows the image through these alone, and numbers never come out as 3e+08."""
    pod = helm.one(helm.render(helm.minimal({"server.maxBodyBytes": 300000000})), "Deployment")["spec"]["template"]
    server = helm.container(pod)
    assert server["command"] == ["pantry-serve"]
    assert server["args"] == [
        *("--models", "/etc/pantry/models.yaml", "--volume", "/mnt/models"),
        *("--bind", "0.0.0.0:8080", "--admin", "0.0.0.0:8081"),
    ]
    assert helm.environment(pod) == {
        "HOME": "/tmp",
        "PANTRY_WORKERS": "1",
        "PANTRY_THREADS": "8",
        "PANTRY_MAX_QUEUE": "128",
        "PANTRY_PREDICT_SECONDS": "30",
        "PANTRY_REQUEST_SECONDS": "30",
        "PANTRY_MAX_BODY_BYTES": "300000000",
        "PANTRY_DRAIN_SECONDS": "30",
        "PANTRY_KEEPALIVE_SECONDS": "620",
        "PANTRY_LOAD_TIMEOUT_SECONDS": "900",
        "PANTRY_PREFER": "availability",
    }
    assert [(p["name"], p["containerPort"]) for p in server["ports"]] == [("http", 8080), ("admin", 8081)]
    assert (
        server["startupProbe"]["httpGet"] == server["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "admin"}
    )
    assert server["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    mounts = {m["name"]: m for m in server["volumeMounts"]}
    assert mounts["models"] == {"name": "models", "mountPath": "/mnt/models", "readOnly": True}
    assert mounts["desired"] == {"name": "desired", "mountPath": "/etc/pantry", "readOnly": True}


def test_large_numbers_stay_integers() -> None:
    """Bytes given as plain numbers are not rounded and not printed with an exponent."""
    size = 107374182400
    objects = helm.render(
        helm.minimal({"storage.size": size, "resources": {"limits": {"memory": size}}, "sync.timeoutSeconds": 10000000})
    )
    assert helm.one(objects, "PersistentVolumeClaim")["spec"]["resources"]["requests"]["storage"] == str(size)
    server = helm.container(helm.one(objects, "Deployment")["spec"]["template"])
    assert server["resources"]["limits"]["memory"] == size
    assert helm.one(objects, "Job")["spec"]["activeDeadlineSeconds"] == 10000000
    assert helm.one(objects, "Deployment")["spec"]["progressDeadlineSeconds"] == 10001200


@pytest.mark.parametrize(("stop", "drain"), [(15, 30), (0, 5), (60, 600)])
def test_a_stopping_pod_has_time_to_drain(stop: int, drain: int) -> None:
    """The grace period holds preStop and drain with a margin, and the load balancer drains as long."""
    values = helm.minimal({"server.preStopSeconds": stop, "server.drainSeconds": drain, "gke.enabled": True})
    objects = helm.render(values)
    spec = helm.one(objects, "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == stop + drain + 15
    lifecycle = {"preStop": {"exec": {"command": ["sleep", str(stop)]}}}  # Kubernetes' own sleep came with 1.30
    assert spec["containers"][0].get("lifecycle") == (lifecycle if stop else None)
    assert helm.one(objects, "BackendConfig")["spec"]["connectionDraining"] == {"drainingTimeoutSec": stop + drain}


def test_a_long_sync_and_load_are_progress() -> None:
    """The progress deadline holds the sync's timeout and the load's with a margin, and NOTES gives --timeout more."""
    values = helm.minimal({"sync.timeoutSeconds": 7200, "server.loadTimeoutSeconds": 1800})
    assert helm.one(helm.render(values), "Deployment")["spec"]["progressDeadlineSeconds"] == 7200 + 1800 + 300
    assert "--timeout 9360s" in helm.notes(values)
    custom = {"storage": {"mode": "custom", "custom": {"emptyDir": {}}}, "models": [{"name": "digits", "version": "1"}]}
    unsynced = helm.changed(values, custom)
    assert helm.one(helm.render(unsynced), "Deployment")["spec"]["progressDeadlineSeconds"] == 1800 + 300


def test_selectors_are_frozen() -> None:
    """A Deployment's selector is immutable: these labels are for ever, and pods carry no others."""
    labels = {
        "app.kubernetes.io/name": "pantry",
        "app.kubernetes.io/instance": "digits",
        "app.kubernetes.io/component": "server",
    }
    objects = helm.render(helm.minimal())
    deployment = helm.one(objects, "Deployment")["spec"]
    assert deployment["selector"] == {"matchLabels": labels | {"pantry/track": "stable"}}
    assert deployment["template"]["metadata"] == {"labels": labels | {"pantry/track": "stable"}}
    assert helm.one(objects, "Service")["spec"]["selector"] == labels


def test_only_servers_match_the_service() -> None:
    """Google takes its health check from any pod that matches: neither sync nor test pods do."""
    objects = helm.render(helm.minimal())
    selector = helm.one(objects, "Service")["spec"]["selector"].items()
    matching = [p["metadata"]["labels"] for p in helm.pods(objects) if selector <= p["metadata"]["labels"].items()]
    assert [labels["app.kubernetes.io/component"] for labels in matching] == ["server"]


def test_a_new_chart_version_restarts_nothing(tmp_path: Path) -> None:
    """Chart versions are on the objects only: neither the pod template nor the Job's name knows them."""
    copied = tmp_path / "pantry"
    shutil.copytree(helm.CHART, copied)
    about = yaml.safe_load((copied / "Chart.yaml").read_text())
    (copied / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "9.9.9+build"}))
    old, new = helm.render(helm.minimal()), helm.render(helm.minimal(), chart=copied)
    assert helm.one(new, "Deployment")["metadata"]["labels"]["helm.sh/chart"] == "pantry-9.9.9_build"
    assert helm.one(old, "Deployment")["spec"] == helm.one(new, "Deployment")["spec"]
    assert helm.one(old, "Job")["metadata"]["name"] == helm.one(new, "Job")["metadata"]["name"]


@every_values_file
@pytest.mark.parametrize("release", ["pantry", "d", "e" * 40, "e" * 41, "e" * 50, helm.LONGEST])
def test_names_fit(path: Path, release: str) -> None:
    """Whatever the release is called, its objects' names are DNS labels of at most 63 characters."""
    assert len(release) <= 53
    for thing in helm.render(helm.read(path), name=release):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", thing["metadata"]["name"]), thing["metadata"]["name"]
        assert all(len(value) <= 63 for value in thing["metadata"]["labels"].values())


@every_values_file
def test_releases_share_no_object(path: Path) -> None:
    """Releases in one namespace have no name in common, be one the other's beginning or end, or both cut short."""
    releases = ["pantry", "a", "a-pantry", "a-pantry-sync", "a-sync", "a-canary", "pantry-sync", helm.LONGEST]
    releases.append(helm.LONGEST[:-1] + "q")
    values = helm.read(path)
    values.get("sync", {}).pop("serviceAccount", None)
    names = [helm.key(thing) for release in releases for thing in helm.render(values, name=release)]
    assert len(names) == len(set(names))


def test_releases_select_no_pods_of_each_other() -> None:
    """Services, policies and Deployments of one release leave the pods of another alone."""
    values = helm.read(helm.CHART / "ci/gateway-canary-values.yaml")
    one, other = helm.render(values, name="a"), helm.render(values, name="a-pantry")
    selectors = [o["spec"]["selector"] for o in one if o["kind"] == "Service"]
    selectors += [
        o["spec"]["selector"]["matchLabels"] for o in one if o["kind"] in ("Deployment", "PodDisruptionBudget")
    ]
    selectors += [o["spec"]["podSelector"]["matchLabels"] for o in one if o["kind"] == "NetworkPolicy"]
    assert len(selectors) == 8
    for selector in selectors:
        assert not [pod for pod in helm.pods(other) if selector.items() <= pod["metadata"]["labels"].items()]


def test_scheduling_values_reach_the_server() -> None:
    """Node pools, accelerators and everything plain end up in the server's pod, and the GPU with its toleration."""
    pod = helm.one(helm.render(helm.read(helm.CHART / "ci/gpu-values.yaml")), "Deployment")["spec"]["template"]
    spec, gpu = pod["spec"], {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-spot": "true",
    }
    assert gpu in spec["tolerations"]
    assert len(spec["tolerations"]) == 3
    assert helm.container(pod)["resources"]["limits"] == {"memory": "48Gi", "nvidia.com/gpu": 1}
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("serving", "nvidia")
    assert spec["affinity"]
    assert spec["topologySpreadConstraints"]
    assert helm.environment(pod)["OMP_NUM_THREADS"] == "4"


def test_node_pool_is_a_node_selector() -> None:
    """gke.nodePool sends the server to that pool of nodes."""
    spec = helm.one(helm.render(helm.minimal({"gke.nodePool": "highmem"})), "Deployment")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"cloud.google.com/gke-nodepool": "highmem"}
    assert "tolerations" not in spec


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({"repository": "r/p"}, "r/p:0.1.0"),
        ({"repository": "r/p", "tag": 7}, "r/p:7"),
        ({"repository": "r/p", "tag": "x", "digest": "sha256:" + "0" * 64}, "r/p@sha256:" + "0" * 64),
    ],
)
def test_image_is_pinned_by_digest_tag_or_chart(image: helm.Values, reference: str) -> None:
    """A digest wins over a tag, and a tag over the chart's appVersion; of the sync's image as of the server's."""
    objects = helm.render(helm.minimal({"image": image}))
    for kind in ("Deployment", "Pod"):
        (pod,) = helm.pods([helm.one(objects, kind)])
        assert helm.container(pod)["image"] == reference
    synced = helm.one(helm.render(helm.minimal({"sync.image": image})), "Job")["spec"]["template"]
    assert helm.container(synced)["image"] == reference


def test_the_sync_keeps_its_image() -> None:
    """It is the server's repository at the chart's own version, whatever the server's tag or digest is."""
    image = {"repository": "r/p", "tag": "x", "digest": "sha256:" + "0" * 64}
    job = helm.one(helm.render(helm.minimal({"image": image})), "Job")
    assert helm.container(job["spec"]["template"])["image"] == "r/p:0.1.0"


@every_values_file
def test_notes_say_what_to_run_next(path: Path) -> None:
    """NOTES names each Job, how to read its sentence, the server's status, a URL, the doctor and the claim."""
    values = helm.read(path)
    text, objects = helm.notes(values), helm.render(values)
    for job in (thing["metadata"]["name"] for thing in objects if thing["kind"] == "Job"):
        assert f"logs --follow job/{job}" in text
    wanted = ["pantry status", "curl http", "helm test digits", "pantry doctor digits", "--timeout"]
    if "Job" in helm.kinds(objects):
        wanted += ["get jobs", "terminated.message", "--wait-for-jobs", "sync.rerun", "claim"]
    elif values["storage"]["mode"] == "ephemeral":
        wanted += ["--container sync"]
    else:
        wanted += ["describe pods"]
    assert [words for words in wanted if words not in text] == []
    assert ("get jobs" in text) is ("Job" in helm.kinds(objects))


@every_values_file
@pytest.mark.parametrize("binary", BINARIES)
def test_helm_itself_takes_every_values_file(path: Path, binary: str) -> None:
    """Helm 3 and Helm 4 lint and template every values file, and refuse a Kubernetes that is too old."""
    if not shutil.which(binary):
        pytest.skip(f"no {binary} on PATH: the same chart is rendered by Helm's library in the other tests")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([binary, *words, "--values", str(path)], text=True, capture_output=True, check=False)

    lint = run("lint", "--strict", "--kube-version", "1.34.0", str(helm.CHART))
    assert lint.returncode == 0, lint.stdout + lint.stderr
    template = run("template", "digits", str(helm.CHART), "--namespace", "models", "--kube-version", "1.34.0")
    assert template.returncode == 0, template.stderr
    rendered = [thing for thing in yaml.load_all(template.stdout, helm.UniqueKeys) if thing]
    assert {helm.key(thing): thing for thing in rendered} == {helm.key(o): o for o in helm.render(helm.read(path))}
    old = run("template", "digits", str(helm.CHART), "--kube-version", "1.27.0")
    assert old.returncode != 0
    assert "incompatible with Kubernetes v1.27.0" in old.stderr
