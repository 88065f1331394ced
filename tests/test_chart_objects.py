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
LONGEST = "a" + "-release" * 6 + "-xyz"  # 53 characters: Helm takes no longer name
BINARIES = ["helm", "helm4"]

every_values_file = pytest.mark.parametrize("path", helm.VALUES_FILES, ids=lambda path: path.name)


@every_values_file
@pytest.mark.parametrize("version", ["1.30", "1.33", "1.34"])
def test_every_values_file_renders_valid_objects(path: Path, version: str) -> None:
    """Each object has only fields that this Kubernetes knows, of the right types."""
    objects = helm.render(helm.read(path))
    for thing in objects:
        helm.validate(thing, version)
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in objects]
    assert len(names) == len(set(names))


@every_values_file
def test_every_pod_is_restricted(path: Path) -> None:
    """Server, sync and test pod pass Pod Security `restricted`, and get no token and no neighbours' addresses."""
    pods = list(helm.pods(helm.render(helm.read(path))))
    assert len(pods) == 3
    for pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert helm.container(pod)["securityContext"] == RESTRICTED
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim"}
        assert helm.environment(pod)["HOME"] == "/tmp"
        assert {"name": "tmp", "mountPath": "/tmp"} in helm.container(pod)["volumeMounts"]


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
        "PANTRY_MAX_BODY_BYTES": "300000000",
        "PANTRY_DRAIN_SECONDS": "30",
        "PANTRY_KEEPALIVE_SECONDS": "620",
        "PANTRY_LOAD_TIMEOUT_SECONDS": "900",
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
    lifecycle = {"preStop": {"sleep": {"seconds": stop}}}
    assert spec["containers"][0].get("lifecycle") == (lifecycle if stop else None)
    assert helm.one(objects, "BackendConfig")["spec"]["connectionDraining"] == {"drainingTimeoutSec": stop + drain}


def test_a_long_sync_and_load_are_progress() -> None:
    """The progress deadline holds the sync's timeout and the load's with a margin, and NOTES gives --timeout more."""
    values = helm.minimal({"sync.timeoutSeconds": 7200, "server.loadTimeoutSeconds": 1800})
    assert helm.one(helm.render(values), "Deployment")["spec"]["progressDeadlineSeconds"] == 7200 + 1800 + 300
    assert "--timeout 9360s" in helm.notes(values)


def test_disk_mode_has_one_pod_at_a_time() -> None:
    """One ReadWriteOnce claim, one replica, and the old pod ends before the new one starts."""
    objects = helm.render(helm.minimal())
    spec = helm.one(objects, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    claim = helm.one(objects, "PersistentVolumeClaim")
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}}
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_a_claim_can_be_ones_own() -> None:
    """With storage.existingClaim there is no claim in the release, and both pods use that one."""
    objects = helm.render(helm.minimal({"storage.existingClaim": "mine"}))
    assert not [o for o in objects if o["kind"] == "PersistentVolumeClaim"]
    for kind in ("Deployment", "Job"):
        volumes = helm.one(objects, kind)["spec"]["template"]["spec"]["volumes"]
        assert {"name": "models", "persistentVolumeClaim": {"claimName": "mine"}} in volumes


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
@pytest.mark.parametrize("release", ["pantry", "d", LONGEST])
def test_names_fit(path: Path, release: str) -> None:
    """Whatever the release is called, its objects' names are DNS labels of at most 63 characters."""
    assert len(release) <= 53
    for thing in helm.render(helm.read(path), name=release):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", thing["metadata"]["name"]), thing["metadata"]["name"]
        assert all(len(value) <= 63 for value in thing["metadata"]["labels"].values())


def test_releases_share_no_object() -> None:
    """Releases in one namespace have no name in common, be one the other's beginning or end, or both cut short."""
    releases = ["pantry", "a", "a-pantry", "a-pantry-sync", "pantry-sync", LONGEST, LONGEST[:-1] + "q"]
    names = [
        (thing["kind"], thing["metadata"]["name"])
        for release in releases
        for thing in helm.render(helm.minimal(), name=release)
    ]
    assert len(names) == len(set(names))


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
    """A digest wins over a tag, and a tag over the chart's appVersion; all pods run the same image."""
    pods = helm.pods(helm.render(helm.minimal({"image": image})))
    assert {helm.container(pod)["image"] for pod in pods} == {reference}


@every_values_file
def test_notes_say_what_to_run_next(path: Path) -> None:
    """NOTES names the Job, how to read its sentence, the server's status, a URL and the claim that stays."""
    values = helm.read(path)
    text = helm.notes(values)
    job = helm.one(helm.render(values), "Job")["metadata"]["name"]
    for wanted in (
        f"get job {job}",
        f"logs --follow job/{job}",
        "terminated.message",
        "pantry status",
        "curl http",
        "test",
    ):
        assert wanted in text
    assert "pvc" in text or values["storage"].keys() & {"existingClaim", "keep"}


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
    named = {(thing["kind"], thing["metadata"]["name"]): thing for thing in rendered}
    assert named == {(o["kind"], o["metadata"]["name"]): o for o in helm.render(helm.read(path))}
    old = run("template", "digits", str(helm.CHART), "--kube-version", "1.29.0")
    assert old.returncode != 0
    assert "incompatible with Kubernetes v1.29.0" in old.stderr
