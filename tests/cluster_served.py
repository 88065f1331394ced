"""A release behind an Ingress with TLS that serves the small table of words, for tests in which clients ask it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from tests.cluster import Namespace, run, values_for_the_bucket, wait_until
from tests.cluster_client import Client
from tests.cluster_release import Release, curl

MODEL = "table"
STORAGE: dict[str, dict[str, Any]] = {
    "disk": {"mode": "disk", "storageClassName": "zonal-rwo", "size": "2Gi"},
    "shared": {"mode": "shared", "storageClassName": "filestore-rwx", "size": "2Gi"},
    "ephemeral": {"mode": "ephemeral", "size": "1Gi"},
    "custom": {"mode": "custom", "custom": {"persistentVolumeClaim": {"claimName": "library"}}},
}


def need_ingress() -> None:
    """Skip where no Ingress can be had."""
    if not run("kubectl", "get", "ingressclass", "traefik", "--ignore-not-found"):
        pytest.skip("the cluster has no Ingress controller of class traefik; README.md says how to install it")


class Served(Release):
    """One replica in storage.mode disk, two in the others.

    Args:
        namespace: where it is.
        name: of the release.
        mode: storage.mode.
        helm: the command of a major version.
        sync: values of the sync.
    """

    def __init__(self, namespace: Namespace, name: str, mode: str, helm: str = "helm", **sync: Any) -> None:
        self.mode, self._host = mode, f"{name}.example.com"
        values: dict[str, Any] = {
            "storage": STORAGE[mode],
            "replicas": 1 if mode == "disk" else 2,
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            "server": {"preStopSeconds": 3, "drainSeconds": 6},
            "ingress": {
                "enabled": True,
                "className": "traefik",
                "hosts": [self._host],
                "tls": {"enabled": True, "secretName": name},
            },
        }
        if mode != "custom":
            reach = values_for_the_bucket()
            values |= {**reach, "sync": {**reach["sync"], **sync}}
        super().__init__(namespace, name, values, helm=helm)
        self._certificate = namespace.tls_secret(name, self._host)

    def install(self) -> None:
        """Install version 1, and wait until the Ingress has its route."""
        self.upgrade(MODEL, "1", "--wait", "--wait-for-jobs", "--timeout", "240s")
        address = self.address()

        def routed() -> bool:
            with suppress(AssertionError):
                return bool(curl(self._host, address, self._certificate, "/healthz"))
            return False

        wait_until(routed, "a route to the Ingress", 60)

    def client(self) -> Client:
        """Return a client that asks through the Ingress."""
        return Client.outside(self, self._host, self._certificate)

    def settled(self, image: str | None = None) -> bool:
        """Tell whether there are as many pods as there should be, none of them ends, and all are ready."""
        pods = self.server_pods()
        return len(pods) == self.values["replicas"] and all(
            image in (None, pod["spec"]["containers"][0]["image"])
            and "deletionTimestamp" not in pod["metadata"]
            and ("Ready", "True") in {(c["type"], c["status"]) for c in pod["status"].get("conditions", [])}
            for pod in pods
        )

    def processes(self) -> set[tuple[str, int]]:
        """Return uid and restarts of every server's pod."""
        return {
            (
                pod["metadata"]["uid"],
                sum(status["restartCount"] for status in pod["status"].get("containerStatuses", [])),
            )
            for pod in self.server_pods()
        }

    def jobs(self) -> dict[str, int]:
        """Return the pods that every Job has ever begun, by the Job's uid."""
        jobs = self.namespace.get("jobs", "--selector", f"app.kubernetes.io/instance={self.name}")["items"]
        return {
            job["metadata"]["uid"]: sum(job["status"].get(s, 0) for s in ("active", "succeeded", "failed"))
            for job in jobs
        }
