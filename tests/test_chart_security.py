"""What a release may do and know: no secret in its text, no token, no way out but the sync's, nothing to write to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import helm
from tests.helm import Object, Values

DIGEST = "sha256:" + "0" * 64
PINNED: Values = {
    "image.digest": DIGEST,
    "sync.image.digest": DIGEST,
    "resources": {"requests": {"cpu": 1}, "limits": {"cpu": 2, "memory": "4Gi"}},
    "sync.resources.limits": {"cpu": 1, "memory": "512Mi"},
}

# What checkov would have otherwise, by check and kind of object, and why it is as it is.
ACCEPTED = {
    **dict.fromkeys(
        [("CKV_K8S_11", kind) for kind in ("Deployment", "Job", "Pod")],
        "a limit of CPU makes a server wait while the node idles; requests share it out. resources.limits.cpu sets one",
    ),
    **dict.fromkeys(
        [("CKV_K8S_43", kind) for kind in ("Deployment", "Job", "Pod")],
        "the chart cannot know the digest of an image that its users build; image.digest pins it",
    ),
    **dict.fromkeys(
        [("CKV_K8S_15", kind) for kind in ("Deployment", "Job", "Pod")],
        "with Always a registry that is away keeps a pod from coming back on a node that has the image",
    ),
    ("CKV_K8S_8", "Pod"): "the pod of `helm test` asks and ends: there is nothing to restart",
    ("CKV_K8S_9", "Pod"): "and nobody asks it anything",
    ("CKV2_K8S_6", "Pod"): "it is there for seconds, has no token and no open port, and asks the Service alone",
}

CREDENTIAL_NAME = re.compile(r"(?i)password|passwd|secret|token|credential|api_?key|private_?key")
CREDENTIAL_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]+\.eyJ|\bghp_\w{20}|\$argon2|://[^/\s:@]+:[^/\s@]+@"
)

every_values_file = pytest.mark.parametrize("path", helm.VALUES_FILES, ids=lambda path: path.name)


def mode_of(values: Values) -> str:
    return str(values.get("storage", {}).get("mode", "disk"))


def tells(name: str, value: str) -> bool:
    """Whether a variable has a credential: by its name, unless it only says where or how long; or by its look."""
    harmless = name.endswith(("_FILE", "_SECONDS")) and re.fullmatch(r"/[-.\w/]+|\d+", value)
    return bool(CREDENTIAL_VALUE.search(value) or (value and CREDENTIAL_NAME.search(name) and not harmless))


def variables(objects: list[Object]) -> Iterator[tuple[str, str]]:
    for pod in helm.pods(objects):
        for container in helm.containers(pod):
            yield from ((e["name"], e["value"]) for e in container["env"] if "value" in e)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JWT_SECRET", "correct horse battery staple"),
        ("DB_PASSWORD", "x"),
        ("HF_TOKEN", "abc"),
        ("URL", "https://user:pass@example.com"),
        ("AWS", "AKIAIOSFODNN7EXAMPLE"),
        ("KEY_FILE", "-----BEGIN RSA PRIVATE KEY-----"),
        ("SECRET_FILE", "not a path"),
    ],
)
def test_a_credential_is_known_when_seen(name: str, value: str) -> None:
    """The judge of the next test: by name, whatever the value; by value, whatever the name."""
    assert tells(name, value)
    assert not tells("OMP_NUM_THREADS", "4")
    assert not tells("PANTRY_SIGNING_SECRET_FILE", "/etc/pantry-access/signing-secret")


@every_values_file
def test_no_secret_is_in_a_release(path: Path) -> None:
    """No Secret is made, no variable holds one, and nothing in the whole text looks like one."""
    objects = helm.render(helm.read(path))
    assert "Secret" not in helm.kinds(objects)
    assert [name for name, value in variables(objects) if tells(name, value)] == []
    text = yaml.safe_dump_all([o for o in objects if o["kind"] != "ConfigMap" or helm.component(o) != "dashboard"])
    assert CREDENTIAL_VALUE.findall(text) == []


@every_values_file
def test_no_pod_has_a_token(path: Path) -> None:
    """Neither account nor pod mounts one: Workload Identity is the metadata server's, and nobody asks Kubernetes."""
    objects = helm.render(helm.read(path))
    assert [
        o for o in objects if o["kind"] == "ServiceAccount" and o["automountServiceAccountToken"] is not False
    ] == []
    for pod in helm.pods(objects):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not [source for source in helm.volumes(pod).values() if "projected" in source]
    assert not helm.kinds(objects) & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


@every_values_file
def test_there_is_nothing_to_write_to(path: Path) -> None:
    """Every root and every mount is read-only, but /tmp and, for what syncs, the volume."""
    for pod in helm.pods(helm.render(helm.read(path))):
        for container in helm.containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert writable == {"/tmp"} | ({"/mnt/models"} if container["name"] == "sync" else set())


@every_values_file
def test_each_role_has_its_own_way_out(path: Path) -> None:
    """A server has none; a sync has names, its bucket and its identity: no rule is for every place or every port."""
    values = helm.read(path)
    objects = helm.render(values)
    policies = [o["spec"] for o in objects if o["kind"] == "NetworkPolicy"]
    if not values.get("networkPolicy", {}).get("enabled", True):
        assert policies == []
        return
    for pod in helm.pods(objects):
        labels = pod["metadata"]["labels"]
        chosen = [p for p in policies if p["podSelector"]["matchLabels"].items() <= labels.items()]
        role = labels["app.kubernetes.io/component"]
        assert len(chosen) == (0 if role == "test" else 1)
        for policy in chosen:
            assert policy["policyTypes"] == ["Ingress", "Egress"]
            if role == "server" and mode_of(values) in {"disk", "shared"}:
                assert policy["egress"] == []
            elif mode_of(values) != "custom":
                assert all(rule["to"] and rule["ports"] for rule in policy["egress"])
                assert {"port": 53, "protocol": "UDP"} in policy["egress"][0]["ports"]


@every_values_file
def test_a_pod_is_given_the_time_it_needs_to_stop(path: Path) -> None:
    """preStop and drain fit into the grace period with five seconds to spare, and the load balancer drains as long."""
    objects = helm.render(helm.read(path))
    for thing in (o for o in objects if o["kind"] == "Deployment"):
        pod = thing["spec"]["template"]
        command = helm.container(pod).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
        needed = int(command[-1]) + int(helm.environment(pod)["PANTRY_DRAIN_SECONDS"])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= needed + 5
        for policy in (o["spec"] for o in objects if o["kind"] in ("BackendConfig", "GCPBackendPolicy")):
            draining = policy.get("default", policy)["connectionDraining"]["drainingTimeoutSec"]
            assert draining >= needed


@every_values_file
def test_images_can_be_pinned(path: Path) -> None:
    """With the two digests every container of every pod runs what they name."""
    for pod in helm.pods(helm.render(helm.changed(helm.read(path), PINNED))):
        assert all(container["image"].endswith(DIGEST) for container in helm.containers(pod))


def written(directory: Path, **changes: Values) -> None:
    """A file of objects for each file of values, and for each with some values changed."""
    for path in helm.VALUES_FILES:
        values = helm.read(path)
        objects = helm.render(values)
        if name := values.get("sync", {}).get("serviceAccount", {}).get("name"):  # one that is there already
            objects.append(helm.one(objects, "ServiceAccount") | {"metadata": {"name": name, "namespace": "models"}})
        (directory / path.name).write_text(yaml.safe_dump_all(objects))
        for name, change in changes.items():
            pinned = helm.render(helm.changed(values, change), name=name)
            (directory / f"{name}-{path.name}").write_text(yaml.safe_dump_all(pinned))


def binary(name: str, how: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"no {name} on PATH: {how}")
    return found


def test_kube_linter_finds_nothing(tmp_path: Path) -> None:
    """Its default checks, by itself, on every values file; test_chart_matrix.py has them as rules of our own."""
    linter = binary("kube-linter", "see docs.kubelinter.io; tests/chart_rules.py has its checks")
    written(tmp_path)
    done = subprocess.run([linter, "lint", str(tmp_path)], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def checkov_on(directory: Path) -> list[dict[str, Any]]:
    """The failed checks of a directory of objects."""
    command = [binary("checkov", "`pip install checkov`, in an environment of its own"), "--directory", str(directory)]
    done = subprocess.run(
        [*command, "--framework", "kubernetes", "--output", "json", "--compact", "--skip-download"],
        text=True,
        capture_output=True,
        check=False,
        env=os.environ | {"LOG_LEVEL": "CRITICAL"},
    )
    report = json.loads(done.stdout)
    assert report["summary"]["resource_count"] > 100
    assert report["summary"]["parsing_errors"] == report["summary"]["skipped"] == 0
    failed: list[dict[str, Any]] = report["results"]["failed_checks"]
    return failed


def test_checkov_finds_only_what_is_accepted(tmp_path: Path) -> None:
    """Every failure has its reason above, and every reason its failure; pinned and limited, the test's are left."""
    written(tmp_path, pinned=PINNED)
    failed = checkov_on(tmp_path)
    found = {(f["check_id"], f["resource"].split(".")[0]) for f in failed}
    assert found == set(ACCEPTED)
    pinned = {(f["check_id"], f["resource"].split(".")[0]) for f in failed if "/pinned-" in f["file_path"]}
    assert pinned == {("CKV_K8S_8", "Pod"), ("CKV_K8S_9", "Pod"), ("CKV2_K8S_6", "Pod"), ("CKV_K8S_11", "Pod")}
