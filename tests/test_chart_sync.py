"""The sync Job and models.yaml: what a change of the models does, and what it leaves alone."""

from __future__ import annotations

import copy
import hashlib
import re
from typing import Any

import pytest
import yaml

from tests import helm

PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAAAA\n-----END PUBLIC KEY-----\n"
SECOND = {"models": [{"name": "digits", "version": "2", "storageUri": "gs://bucket/models/digits/2"}]}


def job(values: helm.Values) -> helm.Object:
    return helm.one(helm.render(values), "Job")


def job_name(values: helm.Values) -> str:
    return str(job(values)["metadata"]["name"])


def models_of(objects: list[helm.Object]) -> tuple[str, str]:
    """The text of models.yaml that the server gets, and that the sync gets."""
    annotations = helm.one(objects, "Job")["spec"]["template"]["metadata"]["annotations"]
    return helm.one(objects, "ConfigMap")["data"]["models.yaml"], annotations["pantry/models.yaml"]


def test_a_model_change_touches_the_configmap_and_the_job_only() -> None:
    """The Deployment and all else stay as they are, so the pod stays; `helm test` asks for the new version."""
    old, new = helm.render(helm.minimal()), helm.render(helm.minimal(SECOND), revision=2)
    unchanged = [thing for thing in old if thing in new]
    assert {thing["kind"] for thing in old if thing not in unchanged} == {"ConfigMap", "Job", "Pod"}
    assert helm.one(old, "Deployment") in unchanged


def test_rollback_is_a_render_of_the_old_values() -> None:
    """Revision 1, revision 2 and back: what comes out is what revision 1 was, Job's name included."""
    first = helm.render(helm.minimal(), revision=1)
    second = helm.render(helm.minimal(SECOND), revision=2)
    assert helm.render(helm.minimal(), revision=3) == first != second


@pytest.mark.parametrize(
    "changes",
    [
        SECOND,
        {"sync.image.tag": "0.2.0"},
        {"image.repository": "elsewhere/pantry"},
        {"sync.pack": True, "sync.resources": {"limits": {"memory": "8Gi"}}},
        {"sync.publicKeys": [PUBLIC_KEY]},
        {"sync.retain": 3},
        {"sync.timeoutSeconds": 60},
        {"sync.backoffLimit": 1},
        {"sync.rerun": "again"},
        {"sync.extraEnv": [{"name": "A", "value": "b"}]},
        {"sync.resources": {"limits": {"memory": "1Gi"}}},
        {"tolerations": [{"key": "spot", "operator": "Exists"}]},
        {"gpu.count": 1},
        {"storage.existingClaim": "mine"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_job_runs_again_when_anything_in_it_changes(changes: helm.Values) -> None:
    """A changed spec has a changed name: no immutable Job is ever edited, and a longer timeout gets a new try."""
    assert job_name(helm.minimal(changes)) != job_name(helm.minimal())


@pytest.mark.parametrize(
    "changes",
    [
        {"image.tag": "0.2.0"},
        {"image.digest": "sha256:" + "0" * 64},
        {"server.workers": 4},
        {"access": {"mode": "tokens", "secretName": "tokens"}},
        {"resources": {"limits": {"memory": "8Gi"}}},
        {"gke.nodePool": "highmem"},
        {"gke.enabled": True},
        {"ingress": {"enabled": True, "hosts": ["a.test"], "tls": {"secretName": "a"}}},
        {"networkPolicy.enabled": False},
        {"sync.serviceAccount.annotations": {"a": "b"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_job_stays_when_nothing_in_it_changes(changes: helm.Values) -> None:
    """A change of the server or the network runs no sync."""
    assert job(helm.minimal(changes)) == job(helm.minimal())


def test_the_name_ends_in_a_digest_of_the_spec() -> None:
    """Ten hexadecimal digits, in which the template with its models takes part."""
    assert re.fullmatch(r"digits-pantry-sync-[0-9a-f]{10}", job_name(helm.minimal()))
    names = {job_name(helm.minimal({"sync.rerun": str(n)})) for n in range(20)}
    assert len(names) == 20


def test_the_sync_reads_a_models_yaml_of_its_own() -> None:
    """It comes from the pod's annotation, which no upgrade changes under a running Job, not from the ConfigMap."""
    objects = helm.render(helm.minimal())
    pod = helm.one(objects, "Job")["spec"]["template"]
    served, synced = models_of(objects)
    assert served == synced
    volumes = {v.pop("name"): v for v in copy.deepcopy(pod["spec"]["volumes"])}
    (item,) = volumes["desired"]["downwardAPI"]["items"]
    assert item == {
        "path": "models.yaml",
        "fieldRef": {"fieldPath": "metadata.annotations['pantry/models.yaml']"},
    }
    assert not any("configMap" in volume for volume in volumes.values())
    mounts = {m["name"]: m for m in helm.container(pod)["volumeMounts"]}
    assert mounts["desired"]["mountPath"] == "/etc/pantry"
    assert mounts["models"] == {"name": "models", "mountPath": "/mnt/models"}


def test_models_yaml_says_what_the_values_say() -> None:
    """Every field arrives, versions as text, and load is eager unless told."""
    digest = "sha256:" + hashlib.sha256(b"").hexdigest()
    models = [
        {"name": "digits", "version": 2, "storageUri": "gs://b/d/2", "digest": digest},
        {"name": "null", "version": "no", "storageUri": 'file:///a"b', "load": "on-demand"},
    ]
    served, synced = models_of(helm.render(helm.minimal({"models": models})))
    assert served == synced
    assert yaml.safe_load(served)["models"] == [
        {"name": "digits", "version": "2", "storageUri": "gs://b/d/2", "digest": digest, "load": "eager"},
        {"name": "null", "version": "no", "storageUri": 'file:///a"b', "load": "on-demand"},
    ]


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (2, "2"),
        (2.0, "2"),
        ("1.10", "1.10"),
        (300000000, "300000000"),
        (20261121101530, "20261121101530"),
        ("0e1", "0e1"),
    ],
)
def test_versions_are_text(version: Any, text: str) -> None:
    """`--set models[0].version=2` gives a number; the bundle's name is "2" all the same, and never 3e+08."""
    models = [{"name": "digits", "version": version, "storageUri": "gs://b/d"}]
    served, _ = models_of(helm.render(helm.minimal({"models": models})))
    assert yaml.safe_load(served)["models"][0]["version"] == text


def test_the_job_says_why_and_knows_when_to_give_up() -> None:
    """Drained nodes count for nothing, wrong use ends it at once, and the pod's status ends with the sentence."""
    spec = job(helm.minimal())["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (6, 3600)
    assert "ttlSecondsAfterFinished" not in spec
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore", "FailJob"]
    assert spec["podFailurePolicy"]["rules"][0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert spec["podFailurePolicy"]["rules"][1] == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "sync", "operator": "In", "values": [2]},
        "onPodConditions": [],  # Kubernetes 1.28 documents it as required
    }
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    sync = helm.container(spec["template"])
    assert sync["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert sync["command"] == ["pantry"]
    assert sync["args"] == [
        *("sync", "--json", "--models=/etc/pantry/models.yaml", "--volume=/mnt/models", "--retain=2"),
    ]


def test_the_job_is_no_hook_and_tells_its_models() -> None:
    """`kubectl describe job` shows what it syncs, and Helm treats it as any object."""
    metadata = job(helm.minimal())["metadata"]
    assert metadata["annotations"]["pantry/models"] == "digits=1"
    assert not any(key.startswith("helm.sh/hook") for key in metadata["annotations"])
    assert metadata["labels"]["app.kubernetes.io/component"] == "sync"


@pytest.mark.parametrize("path", helm.VALUES_FILES, ids=lambda path: path.name)
def test_the_job_of_a_disk_goes_where_the_server_is(path: Any) -> None:
    """Required affinity to exactly the server's labels, every toleration of the server, and few resources."""
    objects = helm.render(helm.read(path))
    mode = helm.read(path).get("storage", {}).get("mode", "disk")
    for thing in objects:
        if thing["kind"] != "Job":
            continue
        server, pod = helm.named(objects, "Deployment", "digits-pantry")["spec"], thing["spec"]["template"]
        if mode == "disk":
            (term,) = pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert term == {"topologyKey": "kubernetes.io/hostname", "labelSelector": server["selector"]}
            assert pod["spec"].get("tolerations") == server["template"]["spec"].get("tolerations")
        assert helm.container(pod)["resources"] == {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"memory": "512Mi"},
        }
    assert ("Job" in helm.kinds(objects)) is (mode in {"disk", "shared"})


def test_public_keys_come_with_the_pod() -> None:
    """Each is an annotation, a file and an argument, so that nobody exchanges one under a running sync."""
    pod = job(helm.minimal({"sync.publicKeys": [PUBLIC_KEY, PUBLIC_KEY.replace("AAAAA", "BBBBB")]}))["spec"]["template"]
    files = {
        item["path"]: item["fieldRef"]["fieldPath"] for item in helm.volumes(pod)["desired"]["downwardAPI"]["items"]
    }
    for i in range(2):
        name = f"public-key-{i}.pem"
        assert f"--public-key=/etc/pantry/{name}" in helm.container(pod)["args"]
        assert files[name] == f"metadata.annotations['pantry/{name}']"
    assert pod["metadata"]["annotations"]["pantry/public-key-0.pem"] == PUBLIC_KEY


def test_packing_is_asked_for() -> None:
    """sync.pack is an argument; by default the sync only streams."""
    packing = {"sync": {"pack": True, "resources": {"limits": {"memory": "8Gi"}}}}
    assert "--pack" in helm.container(job(helm.minimal(packing))["spec"]["template"])["args"]
    assert "--pack" not in helm.container(job(helm.minimal())["spec"]["template"])["args"]


def test_the_job_tolerates_gpu_nodes_though_it_asks_for_no_gpu() -> None:
    """On GKE only pods that ask for a GPU get this toleration by themselves."""
    pod = job(helm.minimal({"gpu.count": 1}))["spec"]["template"]
    assert pod["spec"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "nvidia.com/gpu" not in helm.container(pod)["resources"]["limits"]


def test_only_the_sync_has_a_cloud_identity() -> None:
    """Workload Identity's annotation is on the sync's account; the server has an account with nothing on it."""
    identity = {"iam.gke.io/gcp-service-account": "reader@project.iam.gserviceaccount.com"}
    objects = helm.render(helm.minimal({"sync.serviceAccount.annotations": identity}))
    server, sync = helm.one(objects, "ServiceAccount", "server"), helm.one(objects, "ServiceAccount", "sync")
    assert sync["metadata"]["annotations"] == identity
    assert "annotations" not in server["metadata"]
    for kind, account in (("Deployment", server), ("Job", sync)):
        pod = helm.one(objects, kind)["spec"]["template"]
        assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
        assert account["automountServiceAccountToken"] is False


def test_the_sync_can_use_an_account_of_ones_own() -> None:
    """With create: false the chart makes none and uses the named one, for the sync alone."""
    objects = helm.render(helm.minimal({"sync.serviceAccount": {"create": False, "name": "reader"}}))
    assert helm.one(objects, "Job")["spec"]["template"]["spec"]["serviceAccountName"] == "reader"
    assert helm.component(helm.one(objects, "ServiceAccount")) == "server"
