"""Wrong values: a typo, a wrong type. Each is refused by its place. (Contradictions: test_chart_refusals.py.)"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests import helm
from tests.helm import model, refusal

DEFAULTS = helm.read(helm.CHART / "values.yaml")
SCHEMA = json.loads((helm.CHART / "values.schema.json").read_text())

# Kubernetes' or Google's own maps, in which any key may be.
OPEN = {
    "autoscaling.behavior",
    "commonLabels",
    "gateway.annotations",
    "gke.backendConfig",
    "ingress.annotations",
    "monitoring.labels",
    "nodeSelector",
    "resources.limits",
    "resources.requests",
    "server.podAnnotations",
    "server.podLabels",
    "server.serviceAccount.annotations",
    "service.annotations",
    "storage.custom",
    "sync.nodeSelector",
    "sync.resources.limits",
    "sync.resources.requests",
    "sync.serviceAccount.annotations",
}


def sections(values: helm.Values, prefix: str = "") -> Iterator[str]:
    """The dotted path of every section of values."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{prefix}{key}"
            yield from sections(value, f"{prefix}{key}.")


@pytest.mark.parametrize("section", sorted({"", *sections(DEFAULTS)} - OPEN))
def test_a_typo_is_refused_in_every_section(section: str) -> None:
    """An unknown key is an error by its name, not a setting that silently does nothing."""
    typo = f"{section}.replcias" if section else "replcias"
    assert "additional properties 'replcias' not allowed" in refusal(helm.minimal({typo: "x"}))


@pytest.mark.parametrize("where", ["models", "canary.models"])
def test_a_typo_in_a_model_is_refused(where: str) -> None:
    """The same inside a list of models."""
    assert "additional properties 'uri' not allowed" in refusal(helm.minimal({where: [model(uri="gs://b/x")]}))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"replicas": "two"}, "/replicas"),
        ({"replicas": 1.5}, "/replicas"),
        ({"replicas": -1}, "/replicas"),
        ({"rollout.model": "recreate"}, "/rollout/model"),
        ({"rollout.maxSurge": "half"}, "/rollout/maxSurge"),
        ({"storage.mode": "nfs"}, "/storage/mode"),
        ({"storage.custom": "claim"}, "/storage/custom"),
        ({"storage.size": "1GGi"}, "/storage/size"),
        ({"server.workers": 0}, "/server/workers"),
        ({"server.extraEnv": [{"name": "A", "value": "b", "valueFrom": {}}]}, "/server/extraEnv/0"),
        ({"image.digest": "sha256:abc"}, "/image/digest"),
        ({"service.type": "Nodeport"}, "/service/type"),
        ({"ingress.hosts": "a.test"}, "/ingress/hosts"),
        ({"ingress.hosts": ["https://a.test"]}, "/ingress/hosts/0"),
        ({"models": [model(name="Digits")]}, "/models/0/name"),
        ({"models": [model(name="a" * 64)]}, "/models/0/name"),
        ({"models": [model(name="a/b")]}, "/models/0/name"),
        ({"models": [model(version="../1")]}, "/models/0/version"),
        ({"models": [model(version="a" * 64)]}, "/models/0/version"),
        ({"models": [model(version=True)]}, "/models/0/version"),
        ({"models": [model(version=-1)]}, "/models/0/version"),
        ({"models": [model(digest="sha256:" + "A" * 64)]}, "/models/0/digest"),
        ({"models": [model(load="lazy")]}, "/models/0/load"),
        ({"models": [{"name": "digits", "storageUri": "gs://bucket/digits"}]}, "/models/0"),
        ({"access.mode": "none"}, "/access/mode"),
        ({"gpu.memory": "24 GB"}, "/gpu/memory"),
        ({"autoscaling.minReplicas": 0}, "/autoscaling/minReplicas"),
        ({"autoscaling.queueTarget": "fast"}, "/autoscaling/queueTarget"),
        ({"podDisruptionBudget.maxUnavailable": 0}, "/podDisruptionBudget/maxUnavailable"),
        ({"podDisruptionBudget.maxUnavailable": "0%"}, "/podDisruptionBudget/maxUnavailable"),
        ({"podDisruptionBudget.maxUnavailable": ""}, "/podDisruptionBudget/maxUnavailable"),
        ({"sync.retain": 0}, "/sync/retain"),
        ({"sync.publicKeys": ["keys/public.pem"]}, "/sync/publicKeys/0"),
        ({"canary.weight": 101}, "/canary/weight"),
        ({"gateway.parentRefs": [{"namespace": "infra"}]}, "/gateway/parentRefs/0"),
        ({"gke.gpuDriverVersion": "newest"}, "/gke/gpuDriverVersion"),
        ({"gke.backendConfig": {"healthCheck": "/healthz"}}, "/gke/backendConfig/healthCheck"),
        ({"extraObjects": [1]}, "/extraObjects/0"),
        ({"commonLabels": {"a": 1}}, "/commonLabels/a"),
        ({"networkPolicy.server.from": [{"ipBlok": {}}]}, "/networkPolicy/server/from/0"),
        ({"tolerations": [{"key": "a", "operator": "exists"}]}, "/tolerations/0/operator"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_value_is_refused_by_its_path(changes: helm.Values, path: str) -> None:
    """A wrong type, an unknown choice or a name that would not work says where it is."""
    assert path in refusal(helm.minimal(changes))


def test_every_value_of_the_schema_is_in_values_yaml() -> None:
    """What can be set is listed, and so explained, in values.yaml."""

    def compare(schema: helm.Object, values: helm.Values, path: str) -> None:
        assert set(schema["properties"]) - {"global"} == set(values), path
        for key, value in values.items():
            if "properties" in schema["properties"][key] and value:
                compare(schema["properties"][key], value, f"{path}.{key}")

    compare(SCHEMA, DEFAULTS, "")
