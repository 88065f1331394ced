"""The four modes of storage: which volume, who syncs, how pods are replaced, and what a new model changes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests import helm
from tests.helm import Object, Values

CLAIM = {"persistentVolumeClaim": {"claimName": "bundles", "readOnly": True}}
MODES: dict[str, Values] = {
    "disk": {},
    "shared": {"storage.mode": "shared", "storage.storageClassName": "standard-rwx", "replicas": 3},
    "ephemeral": {"storage.mode": "ephemeral", "replicas": 3},
    "custom": {
        "storage.mode": "custom",
        "storage.custom": CLAIM,
        "replicas": 3,
        "models": [{"name": "digits", "version": "1"}],
    },
}
SWAP, ROLLING = ("disk", "shared"), ("ephemeral", "custom")

in_every_mode = pytest.mark.parametrize("mode", MODES)


def values(mode: str, changes: Values | None = None) -> Values:
    return helm.minimal(MODES[mode] | (changes or {}))


def objects(mode: str, changes: Values | None = None) -> list[Object]:
    return helm.render(values(mode, changes))


def deployment(mode: str, changes: Values | None = None) -> Object:
    spec = helm.one(objects(mode, changes), "Deployment")["spec"]
    assert isinstance(spec, dict)
    return spec


def next_model(mode: str) -> Values:
    """The same release with the model's next version."""
    made = values(mode)
    made["models"][0] |= {"version": "2"} | ({} if mode == "custom" else {"storageUri": "gs://bucket/models/digits/2"})
    return made


def synced_by(mode: str, changes: Values | None = None) -> Object:
    """The pod that syncs."""
    if mode in SWAP:
        return next(helm.pods([helm.one(objects(mode, changes), "Job")]))
    template = deployment(mode, changes)["template"]
    assert isinstance(template, dict)
    return template


@pytest.mark.parametrize(("mode", "access"), [("disk", "ReadWriteOnce"), ("shared", "ReadWriteMany")])
def test_one_claim_outlives_the_release(mode: str, access: str) -> None:
    """Server and sync mount one claim, which `helm uninstall` keeps unless told not to."""
    rendered = objects(mode)
    claim = helm.one(rendered, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == [access]
    assert claim["spec"]["resources"] == {"requests": {"storage": "20Gi"}}
    assert claim["spec"].get("storageClassName") == values(mode).get("storage", {}).get("storageClassName")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    for kind in ("Deployment", "Job"):
        volume = helm.volumes(helm.one(rendered, kind)["spec"]["template"])["models"]
        assert volume == {"persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
    unkept = helm.one(objects(mode, {"storage.keep": False}), "PersistentVolumeClaim")
    assert "annotations" not in unkept["metadata"]


@pytest.mark.parametrize("mode", SWAP)
def test_a_claim_can_be_ones_own(mode: str) -> None:
    """With storage.existingClaim there is no claim in the release, and both pods use that one."""
    rendered = objects(mode, {"storage.existingClaim": "mine", "storage.storageClassName": ""})
    assert "PersistentVolumeClaim" not in helm.kinds(rendered)
    for kind in ("Deployment", "Job"):
        volumes = helm.volumes(helm.one(rendered, kind)["spec"]["template"])
        assert volumes["models"] == {"persistentVolumeClaim": {"claimName": "mine"}}


def test_ephemeral_pods_have_a_claim_each() -> None:
    """Of the size and class asked for; it comes and goes with the pod, and no claim is the release's."""
    rendered = objects("ephemeral", {"storage.size": "1Ti", "storage.storageClassName": "premium-rwo"})
    volume = helm.volumes(helm.one(rendered, "Deployment")["spec"]["template"])["models"]
    assert volume["ephemeral"]["volumeClaimTemplate"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "premium-rwo",
        "resources": {"requests": {"storage": "1Ti"}},
    }
    assert not helm.kinds(rendered) & {"PersistentVolumeClaim", "Job", "ConfigMap"}


def test_a_volume_of_ones_own_is_taken_as_it_is() -> None:
    """Any source; the server finds NAME/VERSION/ on it by file: addresses, and nothing of the release syncs."""
    rendered = objects("custom")
    pod = helm.one(rendered, "Deployment")["spec"]["template"]
    assert helm.volumes(pod)["models"] == CLAIM
    assert "initContainers" not in pod["spec"]
    assert not helm.kinds(rendered) & {"PersistentVolumeClaim", "Job", "ConfigMap"}
    (model,) = yaml.safe_load(pod["metadata"]["annotations"]["pantry/models.yaml"])["models"]
    assert model["storageUri"] == "file:///mnt/models/digits/1"


@in_every_mode
def test_the_server_reads_and_the_sync_writes(mode: str) -> None:
    """The server's container mounts the volume read-only in every mode; only what syncs may write it."""
    pod = deployment(mode)["template"]
    assert helm.mounts(helm.container(pod))["models"] == {
        "name": "models",
        "mountPath": "/mnt/models",
        "readOnly": True,
    }
    writers = [
        container["name"]
        for pod in helm.pods(objects(mode))
        for container in helm.containers(pod)
        if not helm.mounts(container).get("models", {"readOnly": True}).get("readOnly")
    ]
    assert writers == ([] if mode == "custom" else ["sync"])


def test_ephemeral_pods_sync_with_an_init_container() -> None:
    """The Job's container, but with the server's image and one bundle a model, as the volume is new."""
    (sync,) = deployment("ephemeral", {"image.tag": "7", "sync.image.tag": "6"})["template"]["spec"]["initContainers"]
    job = helm.container(synced_by("disk"))
    assert sync["image"] == "pantry:7"
    assert "--retain=1" in sync["args"]
    changed = {"image": sync["image"], "args": [arg for arg in sync["args"] if "--retain" not in arg]}
    assert sync | changed == job | {"image": sync["image"], "args": [a for a in job["args"] if "--retain" not in a]}


@pytest.mark.parametrize(("mode", "kind"), [("disk", "Recreate"), *((m, "RollingUpdate") for m in list(MODES)[1:])])
def test_pods_are_replaced_as_the_volume_allows(mode: str, kind: str) -> None:
    """Two pods may not get one disk; with any other volume a new pod serves before an old one goes."""
    strategy = deployment(mode)["strategy"]
    assert strategy["type"] == kind
    if kind == "RollingUpdate":
        assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize(
    ("changes", "surge", "unavailable"),
    [
        ({"gpu.count": 1}, 0, 1),
        ({"gpu.count": 1, "replicas": 1}, 1, 0),
        ({"gpu.count": 1, "rollout.maxSurge": 1, "rollout.maxUnavailable": 0}, 1, 0),
        ({"rollout.maxSurge": "25%", "rollout.maxUnavailable": "10%"}, "25%", "10%"),
        ({"rollout.maxSurge": 0, "rollout.maxUnavailable": 1}, 0, 1),
    ],
)
def test_a_rolling_update_fits_the_nodes(changes: Values, surge: Any, unavailable: Any) -> None:
    """Few pools have a GPU to spare, so that several pods with GPUs are replaced one by one; or as one says."""
    assert deployment("shared", changes)["strategy"]["rollingUpdate"] == {
        "maxSurge": surge,
        "maxUnavailable": unavailable,
    }


@in_every_mode
def test_only_what_syncs_has_the_identity(mode: str) -> None:
    """The bucket's account is the sync's; in ephemeral mode that is the server's pod, in custom there is none."""
    identity = {"iam.gke.io/gcp-service-account": "reader@project.iam.gserviceaccount.com"}
    rendered = objects(mode, {"sync.serviceAccount.annotations": identity})
    annotated = [o["metadata"]["name"] for o in rendered if o["metadata"].get("annotations") == identity]
    assert annotated == ([] if mode == "custom" else ["digits-pantry-sync"])
    server = helm.one(rendered, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    assert server == ("digits-pantry-sync" if mode == "ephemeral" else "digits-pantry")
    assert helm.one(rendered, "Pod")["spec"]["serviceAccountName"] == "digits-pantry"


def test_a_mounted_bucket_can_have_the_servers_identity() -> None:
    """In custom mode, where the pod's account is what mounts it."""
    identity = {"iam.gke.io/gcp-service-account": "reader@project.iam.gserviceaccount.com"}
    (account,) = (
        o for o in objects("custom", {"server.serviceAccount.annotations": identity}) if "Account" in o["kind"]
    )
    assert account["metadata"]["annotations"] == identity
    assert account["automountServiceAccountToken"] is False


@in_every_mode
def test_only_what_syncs_reaches_the_bucket(mode: str) -> None:
    """The server has no way out, unless it is the pod that syncs, or is given one in custom mode."""
    way_out = [{"ports": [{"port": 443, "protocol": "TCP"}]}]
    rendered = objects(mode, {"networkPolicy.server.egress": way_out} if mode == "custom" else {})
    server = helm.one(rendered, "NetworkPolicy", "server")["spec"]
    synced = helm.one(objects("disk"), "NetworkPolicy", "sync")["spec"]["egress"]
    assert server["policyTypes"] == ["Ingress", "Egress"]
    assert server["egress"] == {"ephemeral": synced, "custom": way_out}.get(mode, [])
    policies = [helm.component(o) for o in rendered if o["kind"] == "NetworkPolicy"]
    assert policies == (["server", "sync"] if mode in SWAP else ["server"])
    assert helm.one(objects("custom"), "NetworkPolicy")["spec"]["egress"] == []


@pytest.mark.parametrize("mode", SWAP)
def test_a_new_model_is_swapped_inside_the_pods(mode: str) -> None:
    """In disk and shared the pods stay: ConfigMap, Job and test are all that changes."""
    old, new = objects(mode), helm.render(next_model(mode), revision=2)
    changed = [thing for thing in old if thing not in new]
    assert {thing["kind"] for thing in changed} == {"ConfigMap", "Job", "Pod"}
    assert "annotations" not in helm.one(new, "Deployment")["spec"]["template"]["metadata"]
    assert helm.volumes(helm.one(new, "Deployment")["spec"]["template"])["desired"] == {
        "configMap": {"name": "digits-pantry"}
    }


@pytest.mark.parametrize("mode", [*ROLLING, "shared"])
def test_a_new_model_comes_with_new_pods(mode: str) -> None:
    """In ephemeral and custom, and where told: models.yaml is the pod's own, so that old pods keep the old one."""
    rolling = {"rollout": {"model": "rolling"}}
    old, new = helm.render(values(mode) | rolling), helm.render(next_model(mode) | rolling, revision=2)
    before, after = (helm.one(rendered, "Deployment")["spec"]["template"] for rendered in (old, new))
    assert before["spec"] == after["spec"]
    for pod, version in ((before, "1"), (after, "2")):
        (model,) = yaml.safe_load(pod["metadata"]["annotations"]["pantry/models.yaml"])["models"]
        assert model["version"] == version
        assert helm.volumes(pod)["desired"]["downwardAPI"]["items"] == [
            {"path": "models.yaml", "fieldRef": {"fieldPath": "metadata.annotations['pantry/models.yaml']"}}
        ]
    assert "ConfigMap" not in helm.kinds(old)


def test_a_volume_of_ones_own_can_swap() -> None:
    """Where every version is on it already, a ConfigMap changes and the pods stay."""
    swap = {"rollout": {"model": "swap"}}
    old, new = helm.render(values("custom") | swap), helm.render(next_model("custom") | swap, revision=2)
    assert helm.one(old, "Deployment") == helm.one(new, "Deployment")
    assert helm.one(old, "ConfigMap") != helm.one(new, "ConfigMap")


@in_every_mode
@pytest.mark.parametrize("gpu", [0, 1])
def test_the_number_of_replicas_restarts_no_pod(mode: str, gpu: int) -> None:
    """Scaling leaves the pod template as it is, from none to a hundred."""
    counts = (0, 1) if mode == "disk" else (0, 1, 2, 100)
    templates = [deployment(mode, {"replicas": n, "gpu.count": gpu})["template"] for n in counts]
    assert all(template == templates[0] for template in templates)
    if mode != "disk":
        scaled = deployment(mode, {"autoscaling.enabled": True, "gpu.count": gpu})
        assert scaled["template"] == templates[0]


def test_a_new_image_moves_no_bytes() -> None:
    """It restarts the pods of every mode, and in disk and shared the Job stays what it was."""
    for mode in MODES:
        old, new = objects(mode), objects(mode, {"image.tag": "next"})
        assert helm.one(old, "Deployment") != helm.one(new, "Deployment")
        assert [o for o in old if o["kind"] == "Job"] == [o for o in new if o["kind"] == "Job"]


def test_a_shared_sync_goes_where_it_is_told() -> None:
    """No node of a shared volume is special: own selector and tolerations, and none of the server's."""
    place = {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}], "gpu.count": 1}
    sync = {"sync.nodeSelector": {"pool": "cheap"}, "sync.tolerations": [{"key": "cheap", "operator": "Exists"}]}
    spec = synced_by("shared", place | sync)["spec"]
    assert spec["nodeSelector"] == {"pool": "cheap"}
    assert spec["tolerations"] == [{"key": "cheap", "operator": "Exists"}]
    assert "affinity" not in spec
    beside = synced_by("disk", place | sync)["spec"]
    assert "nodeSelector" not in beside
    assert [t["key"] for t in beside["tolerations"]] == ["cheap", "gpu", "nvidia.com/gpu"]
