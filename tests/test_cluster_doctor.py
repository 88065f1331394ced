"""`pantry doctor` on a real cluster: silent on a healthy release, and one sentence for each way of breaking it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import BUCKET, IMAGE, ROOT, Namespace, run, values_for_the_bucket, wait_until
from tests.cluster_author import Author
from tests.cluster_release import Release

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

HOST = "doctor.example.com"
SMALL = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
URI = f"gs://{BUCKET}/doctor/1"


def doctor(release: Release, *flags: str) -> tuple[int, list[dict[str, str]]]:
    """Run the command: its exit status, and what it found."""
    command = [
        sys.executable,
        "-m",
        "loader.cli",
        "doctor",
        release.name,
        "--namespace",
        release.namespace.name,
        "--json",
    ]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def problems(release: Release, *flags: str) -> list[str]:
    """Run the command, and return its problems as lines."""
    code, found = doctor(release, *flags)
    lines = [f"{one['where']}: {one['says']}. {one['hint']}" for one in found if one["severity"] == "problem"]
    assert code == bool(lines)
    return lines


def wait_for(release: Release, *words: str, probe: bool = False) -> str:
    """Wait until the doctor finds one problem that has all these words, and return it."""
    flags = [] if probe else ["--no-probe"]  # where no DNS answers, a probe takes seconds
    last: list[str] = []

    def found() -> str | None:
        last[:] = problems(release, *flags)
        return next((line for line in last if all(word in line for word in words)), None)

    line = str(wait_until(found, f"a problem with {words}", 60, lambda: "\n".join(last)))
    print(f"\n{line}")
    return line


def wait_for_health(release: Release, *flags: str) -> None:
    """Wait until the doctor has nothing to complain about."""
    last: list[str] = []

    def healthy() -> bool:
        last[:] = problems(release, *flags)
        return not last

    wait_until(healthy, "a healthy release", 90, lambda: "\n".join(last))


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace with a small model in the bucket; nothing here is of Google's but the load balancer's stand-in."""
    if not run("kubectl", "get", "configmap", "--namespace", "gce", "addresses", "--ignore-not-found"):
        pytest.skip("this cluster has neither Google's Ingress controller nor a stand-in for it")
    made = Namespace("pantry-doctor")
    made.tls_secret("doctor-cert", HOST, namespace="gce")
    Author(made).copy({"model.pkl": pickle.dumps({"one": 1})}, URI)
    yield made
    made.remove()


def values(**changes: Any) -> dict[str, Any]:
    """Return what every release here is installed with."""
    reach = values_for_the_bucket()
    repository, _, tag = IMAGE.rpartition(":")
    return {
        **reach,
        "sync": {**reach["sync"], "backoffLimit": 0, "image": {"repository": repository, "tag": tag}},
        "storage": {"size": "1Gi", "keep": False},
        "resources": SMALL,
        "server": {"preStopSeconds": 0, "drainSeconds": 1},
        **changes,
    }


@pytest.fixture(scope="module")
def installed(namespace: Namespace) -> Release:
    """The model, behind Google's load balancer."""
    release = Release(
        namespace,
        "well",
        values(
            ingress={"enabled": True, "hosts": [HOST]},
            gke={"enabled": True, "staticIpName": "third-ip", "preSharedCerts": ["doctor-cert"]},
        ),
    )
    release.upgrade("words", "1", uri=URI)
    release.wait_for("1", "ready", 120)
    return release


@pytest.fixture
def release(installed: Release) -> Iterator[Release]:
    """A healthy release; what a test has broken is mended by another `helm upgrade`."""
    wait_for_health(installed, "--no-probe")
    yield installed
    installed.upgrade("words", "1", uri=URI)


def patch(release: Release, kind: str, change: dict[str, Any]) -> None:
    """Change an object of the release behind Helm's back."""
    release.namespace.kubectl("patch", kind, release.full, "--type=merge", "--patch", json.dumps(change))


def test_a_healthy_release(installed: Release) -> None:
    """Nothing is wrong; the probe sees a certificate for two days, and a host that DNS does not know."""
    wait_for_health(installed)
    assert doctor(installed, "--no-probe") == (0, [])
    code, found = doctor(installed)
    assert code == 0
    short, unknown = found
    assert "its certificate expires in 4" in short["says"], short
    assert unknown["where"] == HOST
    assert "is not known to DNS here: expected the Ingress's address" in unknown["says"]


def test_an_address_that_nobody_has_reserved(release: Release) -> None:
    """The Ingress gets no address, and the doctor names the one that it waits for."""
    release.namespace.kubectl("delete", "ingress", release.full)
    release.upgrade("words", "1", "--set", "gke.staticIpName=nowhere", uri=URI)
    line = wait_for(release, f"Ingress/{release.full}", "has no address", "named 'nowhere'")
    assert "gcloud compute addresses create nowhere --global" in line
    release.namespace.kubectl("delete", "ingress", release.full)


def test_a_certificate_that_nobody_has_uploaded(release: Release) -> None:
    """Port 443 stays closed, and the doctor names the certificate that would open it."""
    patch(release, "ingress", {"metadata": {"annotations": {"ingress.gcp.kubernetes.io/pre-shared-cert": "nobodys"}}})
    line = wait_for(release, ":443", "connection refused", "nobodys", probe=True)
    assert "gke.preSharedCerts" in line
    patch(
        release, "ingress", {"metadata": {"annotations": {"ingress.gcp.kubernetes.io/pre-shared-cert": "doctor-cert"}}}
    )


def test_a_cluster_ip_without_endpoint_groups(release: Release) -> None:
    """Google's load balancer cannot reach the Service, which the chart would have refused."""
    patch(
        release, "service", {"metadata": {"annotations": {"cloud.google.com/neg": None}}, "spec": {"type": "ClusterIP"}}
    )
    line = wait_for(release, f"Service/{release.full}", "ClusterIP")
    assert "gke.neg" in line
    change = {"metadata": {"annotations": {"cloud.google.com/neg": '{"ingress":true}'}}, "spec": {"type": "NodePort"}}
    patch(release, "service", change)


def test_a_health_check_that_gets_404(release: Release) -> None:
    """The backend is unhealthy because of the path that its BackendConfig asks for."""
    patch(release, "backendconfig", {"spec": {"healthCheck": {"requestPath": "/nowhere"}}})
    line = wait_for(release, f"BackendConfig/{release.full}", "UNHEALTHY", "/nowhere", "got 404")
    assert "/healthz" in line
    patch(release, "backendconfig", {"spec": {"healthCheck": {"requestPath": "/healthz"}}})


def test_no_server(release: Release) -> None:
    """Scaled to nothing: the cause, and what follows from it."""
    release.namespace.kubectl("scale", "--replicas=0", f"deployment/{release.full}")
    wait_for(release, f"Service/{release.full}", "UNHEALTHY", "no pod is behind it")
    assert any("is scaled to 0 replicas" in line for line in problems(release, "--no-probe"))
    release.namespace.kubectl("scale", "--replicas=1", f"deployment/{release.full}")


def test_a_release_that_cannot_start(namespace: Namespace) -> None:
    """A node pool and a storage class that are not there, each by its name."""
    storage = {"size": "1Gi", "keep": False, "storageClassName": "nowhere-rwo"}
    release = Release(
        namespace, "stuck", values(nodeSelector={"cloud.google.com/gke-nodepool": "nowhere"}, storage=storage)
    )
    release.upgrade("words", "1", uri=URI)
    wait_for(release, "PersistentVolumeClaim/stuck-pantry", "'nowhere-rwo', got filestore-rwx, standard-rwo, zonal-rwo")
    line = wait_for(release, "Pod/stuck-pantry", "no node has the label cloud.google.com/gke-nodepool=nowhere")
    assert "gke.nodePool" in line
    release.helm("uninstall", release.name)


def test_a_failed_sync(namespace: Namespace) -> None:
    """The Job's own sentence, and the model's."""
    release = Release(namespace, "empty", values())
    release.upgrade("words", "9", uri=f"gs://{BUCKET}/doctor/nowhere")
    line = wait_for(release, f"Job/{release.job()}", "holds no objects")
    assert "sync.rerun" in line
    wait_for(release, "Pod/empty-pantry", "model words is to be version 9, which is failed", "nothing answers for it")
    release.helm("uninstall", release.name)


def test_no_such_release(namespace: Namespace) -> None:
    """Wrong use says where to look."""
    command = [sys.executable, "-m", "loader.cli", "doctor", "nobody", "--namespace", namespace.name, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there is no release nobody of Pantry in namespace pantry-doctor. `helm list" in done.stderr
