"""A second track with its own versions: beside the stable one, which it never restarts, and ended by a promotion."""

from __future__ import annotations

import pytest
import yaml

from tests import helm
from tests.helm import Object, Values, model

MODELS = [model(), model(name="faces", version="7", storageUri="gs://bucket/faces/7")]
NEXT = model(version="2", storageUri="gs://bucket/digits/2")
ON: Values = {"canary.enabled": True, "canary.models": [NEXT]}
GATEWAY: Values = {"gateway": {"enabled": True, "parentRefs": [{"name": "external"}]}}
MODES: dict[str, Values] = {
    "disk": {},
    "shared": {"storage.mode": "shared", "storage.storageClassName": "rwx", "replicas": 3},
    "ephemeral": {"storage.mode": "ephemeral", "replicas": 3},
    "custom": {"storage": {"mode": "custom", "custom": {"emptyDir": {}}}, "replicas": 3},
}
in_every_mode = pytest.mark.parametrize("mode", MODES)


def values(mode: str, changes: Values | None = None) -> Values:
    made = helm.minimal({"models": MODELS} | MODES[mode] | (changes or {}))
    if mode == "custom":
        for entry in made["models"] + made.get("canary", {}).get("models", []):
            entry.pop("storageUri", None)
    return made


def render(mode: str, changes: Values | None = None) -> list[Object]:
    return helm.render(values(mode, changes))


def versions(text: str) -> dict[str, str]:
    """What a models.yaml asks for."""
    return {entry["name"]: entry["version"] for entry in yaml.safe_load(text)["models"]}


def served(objects: list[Object], name: str) -> dict[str, str]:
    """What the pods of a Deployment are asked to serve."""
    pod = helm.named(objects, "Deployment", name)["spec"]["template"]
    desired = helm.volumes(pod)["desired"]
    if "configMap" in desired:
        return versions(helm.named(objects, "ConfigMap", desired["configMap"]["name"])["data"]["models.yaml"])
    return versions(pod["metadata"]["annotations"]["pantry/models.yaml"])


@in_every_mode
def test_the_canary_serves_the_tried_versions_and_the_rest(mode: str) -> None:
    """Its models are the stable track's with the tried ones in their places, so that it answers for every model."""
    objects = render(mode, ON)
    assert served(objects, "digits-pantry") == {"digits": "1", "faces": "7"}
    assert served(objects, "digits-pantry-canary") == {"digits": "2", "faces": "7"}


@in_every_mode
def test_the_stable_track_knows_of_no_canary(mode: str) -> None:
    """Its Deployment, ConfigMap and Job, and the claim, are the same before, during and after a canary."""
    before, during = render(mode), render(mode, ON)
    kinds = ("Deployment", "ConfigMap", "Job", "PersistentVolumeClaim", "ServiceAccount", "NetworkPolicy")
    stable = [thing for thing in before if thing["kind"] in kinds]
    assert [thing for thing in stable if thing not in during] == []
    assert render(mode, ON | {"canary.enabled": False}) == before
    added = {helm.key(thing) for thing in during} - {helm.key(thing) for thing in before}
    assert ("Deployment", "digits-pantry-canary") in added
    assert {kind for kind, _ in added} <= {"Deployment", "ConfigMap", "Job"}


@in_every_mode
@pytest.mark.parametrize("more", [{}, GATEWAY], ids=["", "gateway"])
def test_a_promotion_renders_what_the_finished_values_render(mode: str, more: Values) -> None:
    """canary.promote is the tried versions in `models`, and no canary: same Job by name, same ConfigMap, same pods."""
    promoted = render(mode, ON | more | {"canary.promote": True})
    assert promoted == render(mode, more | {"models": [NEXT, MODELS[1]]})


@pytest.mark.parametrize("mode", ["disk", "shared"])
def test_a_promotion_swaps_inside_the_stable_pods(mode: str) -> None:
    """No pod of the stable track restarts, and its sync finds on the volume what the canary's brought."""
    trying, promoted = render(mode, ON), render(mode, ON | {"canary.promote": True})
    assert helm.named(trying, "Deployment", "digits-pantry") == helm.named(promoted, "Deployment", "digits-pantry")
    assert served(promoted, "digits-pantry") == {"digits": "2", "faces": "7"}


def test_the_tracks_are_told_apart_by_one_label() -> None:
    """Each Deployment owns its own pods, and both tracks' pods are servers to Service, policy and budget."""
    objects = render("shared", ON)
    labels = {
        track: helm.named(objects, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        for track, name in (("stable", "digits-pantry"), ("canary", "digits-pantry-canary"))
    }
    for track, its in labels.items():
        name = "digits-pantry" if track == "stable" else "digits-pantry-canary"
        assert helm.named(objects, "Deployment", name)["spec"]["selector"]["matchLabels"] == its
        assert its["pantry/track"] == track
    assert labels["stable"] | {"pantry/track": "canary"} == labels["canary"]
    servers = helm.named(objects, "Service", "digits-pantry")["spec"]["selector"]
    assert servers == {k: v for k, v in labels["stable"].items() if k != "pantry/track"}
    assert helm.one(objects, "NetworkPolicy", "server")["spec"]["podSelector"]["matchLabels"] == servers
    assert helm.one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == servers


@pytest.mark.parametrize("mode", ["disk", "shared"])
def test_the_canary_has_a_job_of_its_own(mode: str) -> None:
    """It brings only what is tried, and prunes one bundle later, so that the stable track's version stays."""
    objects = render(mode, ON)
    stable, canary = sorted(
        (o for o in objects if o["kind"] == "Job"),
        key=lambda job: "2" in job["metadata"]["annotations"]["pantry/models"],
    )
    assert stable == helm.one(render(mode), "Job")
    assert canary["metadata"]["annotations"]["pantry/models"] == "digits=2 faces=7"
    template = canary["spec"]["template"]
    assert versions(template["metadata"]["annotations"]["pantry/models.yaml"]) == {"digits": "2"}
    assert "--retain=3" in helm.container(template)["args"]
    assert "--retain=2" in helm.container(stable["spec"]["template"])["args"]


def test_a_canary_of_a_disk_stays_on_its_node() -> None:
    """One disk is on one node: the canary's pods and Jobs go where the stable pod is."""
    objects = render("disk", ON)
    pod = helm.named(objects, "Deployment", "digits-pantry-canary")["spec"]["template"]["spec"]
    (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    selector = helm.named(objects, "Deployment", "digits-pantry")["spec"]["selector"]
    assert term == {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}


def test_without_a_gateway_pods_share_the_requests() -> None:
    """One Service has both tracks' pods; canary.replicas of them try the new version."""
    objects = render("shared", ON | {"canary.replicas": 2, "autoscaling.enabled": True})
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "Service"] == ["digits-pantry"]
    assert helm.named(objects, "Deployment", "digits-pantry-canary")["spec"]["replicas"] == 2
    scaled = helm.one(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
    assert scaled == "digits-pantry"


@pytest.mark.parametrize(("weight", "shares"), [(0, (100, 0)), (25, (75, 25)), (100, (0, 100))])
def test_a_gateway_shares_requests_by_percent(weight: int, shares: tuple[int, int]) -> None:
    """The route weighs a Service of each track; the one of both stays for those who ask inside the cluster."""
    objects = render("shared", ON | GATEWAY | {"canary.weight": weight})
    (rule,) = helm.one(objects, "HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [
        {"name": "digits-pantry-stable", "port": 80, "weight": shares[0]},
        {"name": "digits-pantry-canary", "port": 80, "weight": shares[1]},
    ]
    for track in ("stable", "canary"):
        service = helm.named(objects, "Service", f"digits-pantry-{track}")
        assert service["spec"]["selector"]["pantry/track"] == track
    assert "pantry/track" not in helm.named(objects, "Service", "digits-pantry")["spec"]["selector"]


def test_without_a_weight_pods_share_the_requests_of_a_gateway_too() -> None:
    """Then the route leads to the Service of both tracks, which gives a pod that is not ready nothing."""
    objects = render("shared", ON | GATEWAY)
    (rule,) = helm.one(objects, "HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "digits-pantry", "port": 80}]
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "Service"] == ["digits-pantry"]


def test_helm_test_accepts_either_track() -> None:
    """While a version is tried, an answer may be of either; afterwards of one."""
    assert "digits=1,2" in helm.container(helm.one(render("disk", ON), "Pod"))["args"]
    assert "faces=7" in helm.container(helm.one(render("disk", ON), "Pod"))["args"]
    assert "digits=2" in helm.container(helm.one(render("disk", ON | {"canary.promote": True}), "Pod"))["args"]


@in_every_mode
@pytest.mark.parametrize("release", ["d", "e" * 40, "e" * 41, "e" * 50, helm.LONGEST])
def test_names_of_a_canary_fit(mode: str, release: str) -> None:
    """Whatever the release's name, no name of either track is above 63 characters, and none is there twice."""
    names = [helm.key(thing) for thing in helm.render(values(mode, ON | GATEWAY | {"canary.weight": 10}), name=release)]
    assert all(len(name) <= 63 for _, name in names)
    assert len(names) == len(set(names))


def test_notes_say_how_to_end_it() -> None:
    """What is tried beside what, and the one value that promotes it."""
    text = helm.notes(values("shared", ON))
    assert "is to serve: digits=1 faces=7" in text
    assert "1 beside 3 pods, tries: digits=2 faces=7" in text
    assert "--set canary.promote=true" in text
    assert "canary" not in helm.notes(values("shared"))
