"""Values that each are right and together are not: each is refused with a sentence that says what to change."""

from __future__ import annotations

import re

import pytest

from tests import helm
from tests.helm import model, refusal

HTTPS = {"ingress.enabled": True, "ingress.hosts": ["a.test"]}
CERT = HTTPS | {"ingress.tls.secretName": "a"}
GKE = HTTPS | {"gke.enabled": True}
MANAGED = GKE | {"gke.managedCertificate": True}
GATEWAY = {"gateway.enabled": True, "gateway.parentRefs": [{"name": "external"}]}
SHARED = {"storage.mode": "shared", "storage.storageClassName": "rwx"}
CUSTOM = {"storage": {"mode": "custom", "custom": {"emptyDir": {}}}, "models": [{"name": "digits", "version": "1"}]}
SCALED = SHARED | {"autoscaling.enabled": True}
TRIED = {"canary.enabled": True, "canary.models": [model(version="2")]}
GPU = {"gpu": {"count": 1, "memory": "24Gi", "modelMemory": "16Gi"}}

# What is wrong, and the sentence, or enough of it to tell it from others.
CONTRADICTIONS: list[tuple[helm.Values, str]] = [
    ({"models": []}, "models is empty: list at least one model with its name, version and storageUri."),
    ({"models": [model(), model(version="2")]}, 'models lists "digits" twice'),
    (
        {"models": [model(name=f"m{n}", storageUri="gs://b/" + 900 * "x") for n in range(220)]},
        "models has 220 entries, more than the 200 kB that Kubernetes takes of them: use several releases.",
    ),
    ({"models": [model(version=1.5)]}, "the number 1.5, which may not be what you wrote: put it in quotes."),
    ({"models": [model(version=1e20)]}, "was read as the number 1e+20, which may not be what you wrote"),
    (
        {"models": [model(storageUri="hdfs://bucket/x")]},
        'is "hdfs://bucket/x": write gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, https://HOST/FOLDER or file:///DIRECTORY.',
    ),
    ({"models": [{"name": "digits", "version": "1"}]}, 'the storageUri of model "digits" is "": write gs://'),
    ({"models": [model(storageUri="gs://bucket")]}, "write gs://BUCKET/PREFIX"),
    ({"models": [model(storageUri="https://user:password@host/x")]}, "write gs://BUCKET/PREFIX"),
    ({"models": [model(storageUri="file://x")]}, "write gs://BUCKET/PREFIX"),
    ({"models": [model(storageUri="gs://b/x\nload: y")]}, "write gs://BUCKET/PREFIX"),
    (
        CUSTOM | {"models": [model()]},
        'model "digits" has a storageUri, but storage.mode custom syncs nothing: remove it',
    ),
    ({"storage.mode": "shared"}, "storage.mode shared needs a volume that many nodes can mount"),
    (CUSTOM | {"storage": {"mode": "custom"}}, "storage.mode custom needs storage.custom: the source of a volume"),
    ({"storage.custom": {"emptyDir": {}}}, "storage.custom is for storage.mode custom, and the mode is disk"),
    (
        {"storage.mode": "ephemeral", "storage.existingClaim": "a"},
        "is for the modes disk and shared, and the mode is e",
    ),
    ({"rollout.model": "rolling"}, "rollout.model is rolling, but storage.mode disk has one pod"),
    (
        {"storage.mode": "ephemeral", "rollout.model": "swap"},
        "rollout.model is swap, but in storage.mode ephemeral only a new pod's init container syncs",
    ),
    ({"replicas": 2}, "replicas is 2, but storage.mode disk has one ReadWriteOnce volume"),
    (
        SHARED | {"rollout": {"maxSurge": "0%", "maxUnavailable": 0}},
        "rollout.maxSurge and rollout.maxUnavailable are both 0, so that no pod could ever be replaced",
    ),
    ({"autoscaling.enabled": True}, "autoscaling.enabled is true, but storage.mode disk has one pod"),
    (SCALED | {"autoscaling.minReplicas": 11}, "autoscaling.minReplicas is 11, above maxReplicas, which is 10"),
    (
        SCALED | {"autoscaling.cpuPercent": 0},
        "autoscaling has nothing to go by: set cpuPercent, queueMetric or metrics.",
    ),
    (
        SCALED | {"resources": {"requests": {"cpu": None}}},
        "autoscaling.cpuPercent is a share of resources.requests.cpu, which is not set",
    ),
    ({"gke.accelerator": "nvidia-l4"}, "gpu.count is 0, so that they would refuse it: set gpu.count"),
    ({"gpu.count": 1, "resources": {"limits": {"nvidia.com/gpu": 1}}}, "keep gpu.count."),
    ({"gpu": {"count": 1, "memory": "24Gi", "modelMemory": "25Gi"}}, "gpu.modelMemory is 25Gi, and a GPU has 24Gi"),
    (GPU, "a swap holds two generations of the models, 2 x 16Gi, on a GPU of 24Gi: set server.prefer to resources"),
    (
        {"gke.nodePool": "a", "nodeSelector": {"cloud.google.com/gke-nodepool": "b"}},
        "the node label cloud.google.com/gke-nodepool is set by gke.nodePool and by nodeSelector: keep one.",
    ),
    (
        {"gpu.count": 1, "gke.accelerator": "a", "nodeSelector": {"cloud.google.com/gke-accelerator": "b"}},
        "cloud.google.com/gke-accelerator is set by gke.accelerator and by nodeSelector",
    ),
    ({"gke": {"autopilot": True, "nodePool": "a"}}, 'gke.nodePool is "a", but Autopilot has no node pools'),
    ({"gke.autopilot": True, "gpu.count": 1}, "Autopilot makes a GPU node only for a kind of GPU: set gke.accelerator"),
    ({"sync.pack": True}, "sync.pack loads each pickle to rewrite it, and sync.resources.limits.memory is made for"),
    ({"sync.serviceAccount.create": False}, "sync.serviceAccount.name has to name an account that exists."),
    (
        {"sync.serviceAccount": {"create": False, "name": "a", "annotations": {"b": "c"}}},
        "or set sync.serviceAccount.create to true.",
    ),
    ({"sync.serviceAccount.name": "digits-pantry"}, "the server's own account, which must have no cloud identity"),
    (
        {"server.serviceAccount.annotations": {"a": "b"}},
        "server.serviceAccount.annotations would give the server a cloud identity, which it needs in storage.mode c",
    ),
    (
        {"access.mode": "tokens"},
        "access.mode is tokens, but there is no access.secretName: name a Secret with the key tok",
    ),
    (
        {"access.mode": "users"},
        "name a Secret with the keys signing-secret and users, or objects of a bucket by access.storageUris.",
    ),
    (
        {"access": {"mode": "tokens", "secretName": "a", "storageUris": {"tokens": "gs://b/tokens"}}},
        "access.secretName and access.storageUris both say who may ask: keep one.",
    ),
    (
        {"access": {"mode": "users", "storageUris": {"users": "gs://b/users"}}},
        "access.storageUris has users, but access.mode users takes the keys signing-secret and users.",
    ),
    (
        {"access": {"mode": "tokens", "storageUris": {"tokens": "gs://bucket"}}},
        'access.storageUris.tokens is "gs://bucket": write gs://BUCKET/OBJECT',
    ),
    (
        {"access": {"mode": "tokens", "storageUris": {"tokens": "gs://b/t"}}, **CUSTOM},
        "access.storageUris wants a sync, and storage.mode custom has none: use access.secretName.",
    ),
    (
        HTTPS,
        "set ingress.tls.secretName or ingress.tls.clusterIssuer (or gke.preSharedCerts or gke.managedCertificate on G",
    ),
    (HTTPS | {"ingress.hosts": []}, "the Ingress for every host has no certificate"),
    (GKE, "the Ingress for a.test has no certificate"),
    (CERT | {"ingress.tls.enabled": False}, "ingress.tls.enabled is false, but there is a certificate"),
    (MANAGED | {"ingress.tls.enabled": False}, "ingress.tls.enabled is false, but there is a certificate"),
    (
        HTTPS | {"ingress.tls.clusterIssuer": "a", "ingress.hosts": []},
        "ingress.tls.clusterIssuer issues a certificate for",
    ),
    (CERT | {"gke.staticIpName": "ip"}, "are for Google's load balancer: set gke.enabled to true"),
    (CERT | {"gke.sslPolicy": "modern"}, "are for Google's load balancer: set gke.enabled to true"),
    (HTTPS | {"gke.preSharedCerts": ["c"]}, "are for Google's load balancer: set gke.enabled to true"),
    (HTTPS | {"gke.managedCertificate": True}, "are for Google's load balancer: set gke.enabled to true"),
    (
        CERT | {"gke.enabled": True, "gke.staticIpName": "ip", "ingress.className": "nginx"},
        'ingress.className is "nginx", but gke.enabled stands for Google\'s own class',
    ),
    (MANAGED | {"ingress.hosts": []}, "gke.managedCertificate is issued for hosts, and ingress.hosts is empty"),
    (MANAGED | {"ingress.hosts": ["*.a.test"]}, 'gke.managedCertificate cannot be for the host "*.a.test"'),
    (MANAGED | {"ingress.hosts": ["a" * 59 + ".test"]}, "for names without a dot, nor above 63 characters"),
    (
        MANAGED | {"ingress.hosts": [f"h{n}.test" for n in range(101)]},
        "gke.managedCertificate covers at most 100 hosts, and ingress.hosts has 101",
    ),
    (
        GKE | {"gke.preSharedCerts": ["c"], "gke.neg": False, "service.type": "ClusterIP"},
        "set gke.neg to true, or service.type to NodePort.",
    ),
    (
        {"gke": {"enabled": True, "neg": False, "backendConfig": {"healthCheck": {"port": 8080}}}},
        "gke.backendConfig.healthCheck.port is a pod's port, and with gke.neg false Google asks a node's",
    ),
    ({"gke.enabled": True, "server.keepAliveSeconds": 75}, "server.keepAliveSeconds is 75, but"),
    (CERT | GATEWAY, "ingress.enabled and gateway.enabled are both true: keep one way in."),
    ({"gateway.enabled": True}, "gateway.parentRefs is empty: name the Gateway that the route is for"),
    (GATEWAY | {"gke": {"enabled": True, "staticIpName": "ip"}}, "with gateway.enabled they belong to your Gateway"),
    (
        GATEWAY | {"gke": {"enabled": True, "backendConfig": {"timeoutSec": 60}}},
        "gke.backendConfig is merged into an Ingress's BackendConfig: with gateway.enabled",
    ),
    (MANAGED | {"ingress.hosts": ["models"]}, 'gke.managedCertificate cannot be for the host "models"'),
    ({"canary.enabled": True}, "canary.models is empty: list the versions to try, or set canary.enabled to false."),
    (TRIED | {"canary.models": [model(version="2")] * 2}, 'canary.models lists "digits" twice'),
    (TRIED | {"canary.models": [model(name="faces")]}, 'canary.models tries "faces", which models does not list'),
    (TRIED | {"canary.models": [model()]}, 'canary.models tries version 1 of "digits", which the stable track serves'),
    (TRIED | {"canary.weight": 0}, "canary.weight is 0 percent, but only a Gateway can share requests out by percent"),
    ({"fullnameOverride": "Digits"}, 'the name "Digits" cannot be a Service\'s'),
]


@pytest.mark.parametrize(
    ("changes", "sentence"), CONTRADICTIONS, ids=lambda value: value[:48] if isinstance(value, str) else None
)
def test_a_contradiction_is_refused_with_a_sentence(changes: helm.Values, sentence: str) -> None:
    """Values that each are right and together are not say what to change."""
    assert sentence in refusal(helm.minimal(changes))


def test_every_refusal_of_the_templates_is_tried() -> None:
    """Each sentence in templates/validate comes out of some contradiction above."""
    said = [refusal(helm.minimal(changes)) for changes, _ in CONTRADICTIONS]
    assert [pattern for pattern in helm.refusals() if not any(re.search(pattern, words) for words in said)] == []


@pytest.mark.parametrize(
    "changes",
    [
        GPU | {"server.prefer": "resources"},
        GPU | SHARED | {"rollout.model": "rolling"},
        {"gpu": {"count": 1, "memory": "24Gi", "modelMemory": "12Gi"}},
        SCALED
        | {"resources": {"requests": {"cpu": None}}, "autoscaling.cpuPercent": 0, "autoscaling.queueMetric": "q"},
        TRIED | {"canary.models": [model()], "canary.promote": True},
        TRIED | GATEWAY | {"canary.weight": 0},
        {"sync": {"pack": True, "resources": {"limits": {"memory": "8Gi"}}}},
        CUSTOM | {"server.serviceAccount.annotations": {"a": "b"}},
        MANAGED | {"gke.preSharedCerts": ["a"]},
    ],
    ids=range(9),
)
def test_what_a_sentence_asks_for_is_taken(changes: helm.Values) -> None:
    """Its advice followed, or just inside its limit, values render."""
    assert helm.render(helm.minimal(changes))


@pytest.mark.parametrize("release", ["1st", "a.b"])
def test_a_release_whose_name_no_service_can_have_is_refused(release: str) -> None:
    """Helm allows dots and a digit first; a Service does not, and fullnameOverride helps."""
    assert "choose another release name, or set fullnameOverride." in refusal(helm.minimal(), name=release)
    assert helm.render(helm.minimal({"fullnameOverride": "fine"}), name=release)


def test_an_off_switch_silences_its_section() -> None:
    """Everything may stay in a values file whose Ingress is switched off on the command line."""
    values = helm.changed(helm.read(helm.ROOT / "values-gke.yaml"), {"ingress.enabled": False, "gke.enabled": False})
    assert not helm.kinds(helm.render(values)) & {"Ingress", "BackendConfig", "FrontendConfig"}
    values = helm.changed(
        helm.read(helm.CHART / "ci/gateway-canary-values.yaml"), {"gateway.enabled": False, "canary.enabled": False}
    )
    assert "HTTPRoute" not in helm.kinds(helm.render(values))
