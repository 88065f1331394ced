"""Wrong values: a typo, a wrong type, a contradiction. Each is refused, and the sentence names what to change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from tests import helm

DEFAULTS = helm.read(helm.CHART / "values.yaml")
SCHEMA = json.loads((helm.CHART / "values.schema.json").read_text())

# Kubernetes' or Google's own maps, in which any key may be.
OPEN = {
    "gke.backendConfig",
    "ingress.annotations",
    "nodeSelector",
    "resources.limits",
    "resources.requests",
    "service.annotations",
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


def refusal(values: helm.Values, name: str = "digits") -> str:
    with pytest.raises((helm_python.HelmValuesError, helm_python.HelmRenderError)) as error:
        helm.render(values, name=name)
    return str(error.value)


def model(**fields: Any) -> helm.Object:
    return {"name": "digits", "version": "1", "storageUri": "gs://bucket/digits"} | fields


@pytest.mark.parametrize("section", sorted({"", *sections(DEFAULTS)} - OPEN))
def test_a_typo_is_refused_in_every_section(section: str) -> None:
    """An unknown key is an error by its name, not a setting that silently does nothing."""
    typo = f"{section}.replcias" if section else "replcias"
    assert "additional properties 'replcias' not allowed" in refusal(helm.minimal({typo: "x"}))


def test_a_typo_in_a_model_is_refused() -> None:
    """The same inside the list of models."""
    assert "additional properties 'uri' not allowed" in refusal(helm.minimal({"models": [model(uri="gs://b/x")]}))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"replicas": "two"}, "/replicas"),
        ({"replicas": 1.5}, "/replicas"),
        ({"storage.mode": "shared"}, "/storage/mode"),
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
        ({"models": [{"name": "digits", "version": "1"}]}, "storageUri"),
        ({"networkPolicy.server.from": [{"ipBlok": {}}]}, "/networkPolicy/server/from/0"),
        ({"tolerations": [{"key": "a", "operator": "exists"}]}, "/tolerations/0/operator"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_value_is_refused_by_its_path(changes: helm.Values, path: str) -> None:
    """A wrong type, an unknown choice or a name that would not work says where it is."""
    assert path in refusal(helm.minimal(changes))


HTTPS = {"ingress.enabled": True, "ingress.hosts": ["a.test"]}
CERT = HTTPS | {"ingress.tls.secretName": "a"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": []}, "models is empty: list at least one model with its name, version and storageUri."),
        ({"models": [model(), model(version="2")]}, 'models lists "digits" twice'),
        ({"models": [model(version=1.5)]}, "the number 1.5, which may not be what you wrote: put it in quotes."),
        ({"models": [model(version=1e20)]}, "was read as the number 1e+20, which may not be what you wrote"),
        (
            {"models": [model(storageUri="hdfs://bucket/x")]},
            'is "hdfs://bucket/x": write gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, https://HOST/FOLDER or file:///DIRECTORY.',
        ),
        ({"models": [model(storageUri="gs://bucket")]}, "write gs://BUCKET/PREFIX"),
        ({"models": [model(storageUri="https://user:password@host/x")]}, "write gs://BUCKET/PREFIX"),
        ({"models": [model(storageUri="file://x")]}, "write gs://BUCKET/PREFIX"),
        ({"models": [model(storageUri="gs://b/x\nload: y")]}, "write gs://BUCKET/PREFIX"),
        ({"replicas": 2}, "replicas is 2, but storage.mode disk has one ReadWriteOnce volume"),
        ({"gke.accelerator": "nvidia-l4"}, "gpu.count is 0, so that they would refuse it: set gpu.count"),
        ({"gpu.count": 1, "resources": {"limits": {"nvidia.com/gpu": 1}}}, "keep gpu.count."),
        ({"gke.nodePool": "a", "nodeSelector": {"cloud.google.com/gke-nodepool": "b"}}, "the node pool is set by"),
        (
            {"gpu.count": 1, "gke.accelerator": "a", "nodeSelector": {"cloud.google.com/gke-accelerator": "b"}},
            "the accelerator is set by",
        ),
        ({"sync.serviceAccount.create": False}, "sync.serviceAccount.name has to name an account that exists."),
        (
            {"sync.serviceAccount": {"create": False, "name": "a", "annotations": {"b": "c"}}},
            "or set sync.serviceAccount.create to true.",
        ),
        ({"sync.serviceAccount.name": "digits-pantry"}, "the server's own account, which must have no cloud identity"),
        (HTTPS, "the Ingress for a.test has no certificate: set ingress.tls.secretName (or gke.preSharedCerts on GKE)"),
        (HTTPS | {"ingress.hosts": []}, "the Ingress for every host has no certificate"),
        (HTTPS | {"gke.enabled": True}, "the Ingress for a.test has no certificate"),
        (CERT | {"ingress.tls.enabled": False}, "ingress.tls.enabled is false, but there is a certificate"),
        (CERT | {"gke.staticIpName": "ip"}, "are for Google's load balancer: set gke.enabled to true"),
        (HTTPS | {"gke.preSharedCerts": ["c"]}, "are for Google's load balancer: set gke.enabled to true"),
        (
            CERT | {"gke.enabled": True, "gke.staticIpName": "ip", "ingress.className": "nginx"},
            'ingress.className is "nginx", but gke.enabled stands for Google\'s own class',
        ),
        (
            {"gke.enabled": True, "gke.neg": False, "service.type": "ClusterIP"},
            "set gke.neg to true, or service.type to NodePort.",
        ),
        ({"gke.enabled": True, "server.keepAliveSeconds": 75}, "server.keepAliveSeconds is 75, but"),
        ({"fullnameOverride": "Digits"}, 'the name "Digits" cannot be a Service\'s'),
    ],
    ids=lambda value: value[:48] if isinstance(value, str) else None,
)
def test_a_contradiction_is_refused_with_a_sentence(changes: helm.Values, sentence: str) -> None:
    """Values that each are right and together are not say what to change."""
    assert sentence in refusal(helm.minimal(changes))


@pytest.mark.parametrize("release", ["1st", "a.b"])
def test_a_release_whose_name_no_service_can_have_is_refused(release: str) -> None:
    """Helm allows dots and a digit first; a Service does not, and fullnameOverride helps."""
    assert "choose another release name, or set fullnameOverride." in refusal(helm.minimal(), name=release)
    assert helm.render(helm.minimal({"fullnameOverride": "fine"}), name=release)


def test_an_off_switch_silences_its_section() -> None:
    """Everything may stay in a values file whose Ingress is switched off on the command line."""
    values = helm.changed(helm.read(helm.ROOT / "values-gke.yaml"), {"ingress.enabled": False, "gke.enabled": False})
    assert not {thing["kind"] for thing in helm.render(values)} & {"Ingress", "BackendConfig"}


def test_every_value_of_the_schema_is_in_values_yaml() -> None:
    """What can be set is listed, and so explained, in values.yaml."""

    def compare(schema: helm.Object, values: helm.Values, path: str) -> None:
        assert set(schema["properties"]) - {"global"} == set(values), path
        for key, value in values.items():
            if "properties" in schema["properties"][key] and value:
                compare(schema["properties"][key], value, f"{path}.{key}")

    compare(SCHEMA, DEFAULTS, "")
