"""Some hundreds of combinations of values: every pair of choices that the chart offers, and as many more by chance."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from tests import helm
from tests.helm import Values

Choice = dict[str, str]

HOW_MANY = 400
TLS = {"ingress.enabled": True, "ingress.hosts": ["models.example.com", "b.example.com"]}
GATEWAY = {
    "gateway": {
        "enabled": True,
        "parentRefs": [{"name": "external-http", "namespace": "infra", "sectionName": "https"}],
        "hosts": ["models.example.com"],
        "annotations": {"example.com/team": "vision"},
    }
}
CALLER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "callers"}}}
SIDECAR = {
    "name": "sidecar",
    "image": "registry.example.com/sidecar:1",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "32Mi"}},
}
ONE_POD = {"replicas": "one", "autoscaling": "off"}
KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAAAA\n-----END PUBLIC KEY-----\n"

# Dimension by dimension: what each choice changes of the values. The empty ones are the defaults.
CHOICES: dict[str, dict[str, Values]] = {
    "storage": {
        "disk": {},
        "disk of theirs": {"storage.existingClaim": "theirs"},
        "shared": {"storage.mode": "shared", "storage.storageClassName": "standard-rwx", "storage.keep": False},
        "shared of theirs": {"storage.mode": "shared", "storage.existingClaim": "theirs"},
        "ephemeral": {"storage.mode": "ephemeral", "storage.size": 107374182400},
        "custom claim": {
            "storage.mode": "custom",
            "storage.custom": {"persistentVolumeClaim": {"claimName": "theirs", "readOnly": True}},
        },
        "custom csi": {
            "storage.mode": "custom",
            "storage.custom": {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True}},
            "server.podAnnotations": {"gke-gcsfuse/volumes": "true"},
            "server.serviceAccount.annotations": {"iam.gke.io/gcp-service-account": "a@b.iam.gserviceaccount.com"},
            "networkPolicy.server.egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
        },
    },
    "replicas": {"one": {}, "three": {"replicas": 3}, "hundred": {"replicas": 100}},
    "rollout": {
        "as the mode does": {},
        "swap": {"rollout.model": "swap"},
        "rolling": {"rollout.model": "rolling"},
        "by percent": {"rollout.maxSurge": "25%", "rollout.maxUnavailable": "25%", "rollout.minReadySeconds": 10},
        "none beyond": {"rollout.maxSurge": 0, "rollout.maxUnavailable": 1},
    },
    "gpu": {
        "none": {},
        "one": {"gpu.count": 1},
        "large": {"gpu.count": 2, "gpu.memory": "80Gi", "gpu.modelMemory": "10Gi"},
        "small": {"gpu.count": 1, "gpu.memory": "24Gi", "gpu.modelMemory": "20Gi"},
        "small, old first": {
            "gpu": {"count": 1, "memory": "24Gi", "modelMemory": "20Gi"},
            "server.prefer": "resources",
        },
    },
    "exposure": {
        "none": {},
        "plain": {"ingress.enabled": True, "ingress.tls.enabled": False},
        "class": TLS | {"ingress.className": "traefik", "ingress.tls.secretName": "cert"},
        "cert-manager": TLS | {"ingress.className": "nginx", "ingress.tls.clusterIssuer": "letsencrypt"},
        "gke, uploaded": TLS | {"gke.enabled": True, "gke.staticIpName": "ip", "gke.preSharedCerts": ["a", "b"]},
        "gke, managed": TLS | {"gke.enabled": True, "gke.managedCertificate": True, "gke.sslPolicy": "modern"},
        "gke, node ports": TLS
        | {"gke": {"enabled": True, "neg": False, "preSharedCerts": ["a"], "redirectToHttps": False}},
        "gateway": GATEWAY,
        "gateway of gke": GATEWAY | {"gke.enabled": True, "service.type": "ClusterIP"},
    },
    "canary": {"off": {}, "on": {}, "promoted": {}},  # see values()
    "autoscaling": {
        "off": {},
        "cpu": {"autoscaling.enabled": True},
        "queue": {
            "autoscaling": {
                "enabled": True,
                "minReplicas": 1,
                "cpuPercent": 0,
                "queueMetric": "pantry_queue_seconds_mean",
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
            }
        },
    },
    "access": {
        "off": {},
        "tokens": {"access.mode": "tokens", "access.secretName": "theirs"},
        "users": {"access.mode": "users", "access.secretName": "theirs"},
        "synced": {"access.mode": "tokens", "access.storageUris": {"tokens": "gs://bucket/tokens"}},
    },
    "monitoring": {
        "off": {},
        "google": {"monitoring.podMonitoring": True},
        "operator": {"monitoring": {"serviceMonitor": True, "labels": {"release": "prometheus"}, "dashboard": True}},
    },
    "network": {
        "everyone": {},
        "callers": {"networkPolicy.server.from": [CALLER], "networkPolicy.server.metricsFrom": [CALLER]},
        "off": {"networkPolicy.enabled": False},
    },
    "nodes": {
        "any": {},
        "pool": {"gke.nodePool": "highmem", "gke.machineFamily": "n2"},
        "autopilot": {"gke.autopilot": True, "gke.computeClass": "Balanced"},
        "spot": {"gke.spot": True, "gke.gpuDriverVersion": "latest"},
    },
    "models": {"one": {}, "three": {}, "fifty": {}},  # see values()
    "release": {"digits": {}, "pantry": {}, helm.LONGEST: {}},
    "extras": {
        "none": {},
        "server": {
            "server.extraEnv": [{"name": "OMP_NUM_THREADS", "value": 4}],
            "server.extraVolumes": [{"name": "more", "emptyDir": {}}],
            "server.extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "server.extraContainers": [SIDECAR],
            "server.podLabels": {"team": "vision"},
            "server.preStopSeconds": 0,
            "resources": {"requests": {"cpu": 2, "memory": 4294967296}, "limits": {"memory": 4294967296}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
            ],
            "priorityClassName": "serving",
            "runtimeClassName": "nvidia",
            "image": {"repository": "registry.example.com:5000/pantry", "tag": 7, "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "registry"}],
        },
        "sync": {
            "sync.image.digest": "sha256:" + "0" * 64,
            "sync.pack": True,
            "sync.publicKeys": [KEY, KEY],
            "sync.ttlSecondsAfterFinished": 86400,
            "sync.rerun": 300000000,
            "sync.nodeSelector": {"disk": "fast"},
            "sync.tolerations": [{"key": "sync", "operator": "Exists"}],
            "sync.extraEnv": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "sync.extraVolumes": [{"name": "more", "emptyDir": {}}],
            "sync.extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "sync.resources": {"requests": {"cpu": "1"}, "limits": {"memory": "8Gi"}},
        },
        "objects": {
            "extraObjects": [
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "{{ 1 }}"}},
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name | trunc 40 }}-two'}",
            ],
            "commonLabels": {"team": "vision", "cost-centre": "42"},
            "service.annotations": {"example.com/team": "vision"},
            "service.type": "LoadBalancer",
            "fullnameOverride": "faces",
        },
    },
}


def model(number: int, version: object, custom: bool) -> Values:
    """One entry of `models`; where nothing is synced it has no storageUri."""
    entry: Values = {"name": f"model-{number}", "version": version}
    return entry if custom else entry | {"storageUri": f"gs://bucket/models/{number}/{version}", "load": "on-demand"}


def values(choice: Choice) -> Values:
    """The values that a choice in each dimension makes."""
    custom = choice["storage"].startswith("custom")
    how_many = {"one": 1, "three": 3, "fifty": 50}[choice["models"]]
    made: Values = {"models": [model(n, n + 1, custom) for n in range(how_many)]}
    if choice["canary"] != "off":
        made["canary"] = {"enabled": True, "models": [model(0, "2.b", custom)]}
        made["canary"] |= {"promote": True} if choice["canary"] == "promoted" else {"replicas": 2}
        if choice["exposure"].startswith("gateway"):
            made["canary"]["weight"] = 25
    for dimension, chosen in choice.items():
        made = helm.changed(made, CHOICES[dimension][chosen])
    if choice["nodes"] == "autopilot" and choice["gpu"] != "none":
        made = helm.changed(made, {"gke.accelerator": "nvidia-l4"})
    return made


def pairs(choice: Choice) -> set[tuple[tuple[str, str], ...]]:
    """Each two choices that meet."""
    return set(itertools.combinations(sorted(choice.items()), 2))


def every_pair() -> set[tuple[tuple[str, str], ...]]:
    """Each two choices of two dimensions."""
    return {
        ((a, x), (b, y)) for a, b in itertools.combinations(sorted(CHOICES), 2) for x in CHOICES[a] for y in CHOICES[b]
    }


def choices() -> Iterator[Choice]:
    """The same ones every time: first those that meet every pair in few, then any."""
    chance = random.Random(10)

    def any_choice(fixed: Any = ()) -> Choice:
        made = {dimension: chance.choice(sorted(options)) for dimension, options in CHOICES.items()}
        if made["storage"].startswith("disk") and chance.random() < 0.8:
            made |= ONE_POD  # or hardly any release of the default mode would come of chance
        return made | dict(fixed)

    missing = every_pair()
    for _ in range(HOW_MANY):
        made = any_choice()
        if missing:
            best_of = [any_choice(min(missing)) for _ in range(20)]
            made = max(best_of, key=lambda choice: len(pairs(choice) & missing))
            missing -= pairs(made)
        yield made
    assert not missing, f"{HOW_MANY} are too few"
