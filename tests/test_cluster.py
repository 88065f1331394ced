"""The whole walk on a real cluster: a bundle in a bucket, HTTPS answers, a new model by `helm upgrade`.

Each test states the version it starts from, so they can run in any order; what a release has synced once stays on its
volume, so that is quick. Bundles of 1 GiB are made once. Phase times are printed (run with `-s` to see them).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cluster import BUCKET, BUCKET_URL, ROOT, Namespace, run, values_for_the_bucket, wait_until
from tests.cluster_author import Author
from tests.cluster_client import Client, vector, word_table
from tests.cluster_release import Release, curl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]  # gigabytes, on whatever machine

HOST = "models.example.com"
WORDS, WIDTH = 430_000, 620  # words, and float32 numbers of each: a little over 1 GiB as a pickle


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """An empty namespace under Pod Security `restricted`."""
    made = Namespace("pantry-walk")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def author(namespace: Namespace) -> Author:
    """A data scientist who has published two word tables of over 1 GiB, and some that are no good."""
    author = Author(namespace)
    for version in (1, 2):
        began = time.monotonic()
        seconds = author.publish(word_table(version, WORDS, WIDTH), f"gs://{BUCKET}/words/{version}")
        print(f"\nwords {version}: made and published in {time.monotonic() - began:.1f} s (publish: {seconds:.1f} s)")
    author.publish(word_table(4, 1000, WIDTH), f"gs://{BUCKET}/words/damaged")
    author.damage("words/damaged/model.pkl")
    author.copy({"model.pkl": b"cno_such_module.inside\nThing\n."}, f"gs://{BUCKET}/words/unloadable")
    author.publish(word_table(7, 1000, WIDTH), f"gs://{BUCKET}/words/7")
    return author


@pytest.fixture(scope="module")
def certificate(namespace: Namespace) -> Path:
    """A TLS Secret for the host, and its certificate."""
    return namespace.tls_secret("models-tls", HOST)


@pytest.fixture(scope="module")
def release(namespace: Namespace, author: Author, certificate: Path) -> Release:
    """The word table, version 1, installed behind Traefik."""
    if not run("kubectl", "get", "ingressclass", "traefik", "--ignore-not-found"):
        pytest.skip("the cluster has no Ingress controller of class traefik; README.md says how to install it")
    reach = values_for_the_bucket()
    values: dict[str, Any] = {
        **reach,
        "sync": {**reach["sync"], "backoffLimit": 0},
        "storage": {"size": "10Gi"},
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "6Gi"}},
        "server": {"drainSeconds": 20, "preStopSeconds": 2},
        "ingress": {
            "enabled": True,
            "className": "traefik",
            "hosts": [HOST],
            "tls": {"enabled": True, "secretName": "models-tls"},
        },
    }
    release = Release(namespace, "words", values)
    began = time.monotonic()
    release.upgrade("words", "1")
    print_phases(release, "1", began)
    ask(release, certificate, 0)  # the Ingress has its route now
    return release


def print_phases(release: Release, version: str, began: float) -> None:
    """Print when each phase of a version began and how long it took, until it is ready."""
    seen: list[tuple[str, float]] = []

    def note() -> bool:
        for model in release.status()["models"]:
            if model["version"] == version and (not seen or seen[-1][0] != model["phase"]):
                seen.append((model["phase"], time.monotonic() - began))
        return bool(seen) and seen[-1][0] == "ready"

    wait_until(note, f"version {version} to be ready", 300, release.explain)
    print(f"\nphases of {version}: " + ", ".join(f"{phase} at {at:.1f} s" for phase, at in seen))


def ask(release: Release, certificate: Path, word: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Look one word up, with curl, over HTTPS."""
    body = json.dumps({"instance": f"word{word}"})

    def answered() -> str | None:
        try:
            return curl(HOST, release.address(), certificate, "/predict", "--data", body)
        except AssertionError as error:  # routes and certificates take a second or two to reach the Ingress
            refused.append(str(error))
            return None

    refused: list[str] = []
    text = wait_until(answered, "an answer over HTTPS", 60, lambda: refused[-1])
    return np.asarray(json.loads(text)["vector"], dtype=np.float32)


def ensure(release: Release, version: str) -> None:
    """Bring a release to a version that is known to be good, and let the one before end."""
    before = release.status()["generation"]
    release.upgrade("words", version)
    release.wait_for(version, "ready")
    if release.status()["generation"] != before:
        time.sleep(release.values["server"]["drainSeconds"])


def test_a_gigabyte_in_a_bucket_answers_over_https(release: Release, certificate: Path) -> None:
    """After `helm install`, curl through the Ingress with TLS gets the right vector."""
    ensure(release, "1")
    assert np.allclose(ask(release, certificate, 123_456), vector(123_456, 1, WIDTH), atol=1e-3)
    size = run(
        "kubectl",
        "-n",
        release.namespace.name,
        "exec",
        f"deployment/{release.full}",
        "--",
        "stat",
        "-c%s",
        "/mnt/models/words/1/model.pkl",
    )
    assert int(size) > 2**30
    table = release.namespace.kubectl(
        "exec", f"deployment/{release.full}", "--", "pantry", "status", "http://127.0.0.1:8081"
    )
    assert table.splitlines()[1].split()[:3] == ["words", "1", "ready"]
    release.helm("test", release.name)


def test_an_upgrade_swaps_the_model_in_the_same_pod_without_a_failed_request(
    release: Release, certificate: Path
) -> None:
    """A client keeps asking over kept-alive connections; answers go from 1 to 2, and back without a byte moved."""
    ensure(release, "1")
    pod = release.server_pod()["metadata"]
    with Client.outside(release, HOST, certificate, WIDTH) as client:
        time.sleep(2)
        began = time.monotonic()
        release.upgrade("words", "2")
        print_phases(release, "2", began)
        wait_until(lambda: client.counts["version 2"] > 20, "answers of version 2", 60, lambda: str(client.counts))
        release.helm("rollback", release.name)
        release.wait_for("1", "ready")
        before = client.counts["version 1"]
        wait_until(
            lambda: client.counts["version 1"] > before + 20,
            "answers of version 1 again",
            60,
            lambda: str(client.counts),
        )
        time.sleep(25)  # longer than the old generation may drain
    print(f"\nanswers during upgrade and rollback: {dict(client.counts)}")
    assert client.failed == {}
    after = release.server_pod()
    assert (after["metadata"]["name"], after["metadata"]["uid"]) == (pod["name"], pod["uid"])
    assert [status["restartCount"] for status in after["status"]["containerStatuses"]] == [0]
    log = release.job_log(release.wait_for_job("Complete"))
    assert [event["phase"] for event in log] == ["synced"]
    assert "nothing moved" in log[0]["message"]


@pytest.mark.parametrize(
    ("version", "condition", "sentence"),
    [
        ("missing", "Failed", "holds no objects"),
        ("damaged", "Failed", "is damaged"),
        ("unloadable", "Complete", "needs the module 'no_such_module'"),
    ],
)
def test_a_bad_version_never_takes_the_good_one_away(
    release: Release, certificate: Path, version: str, condition: str, sentence: str
) -> None:
    """A bad version is explained in one sentence while version 1 answers, and the next good one just goes in."""
    ensure(release, "1")
    with Client.outside(release, HOST, certificate, WIDTH, connections=2) as client:
        release.upgrade("words", version)
        job = release.wait_for_job(condition)
        state = release.wait_for(version, "failed", 120)
        assert sentence in state["reason"]
        assert "Traceback" not in state["reason"]
        assert state["serving"] == "1"
        assert release.status()["ready"] is True
        listed = release.namespace.kubectl("get", "job", job)
        assert condition in listed
        if condition == "Failed":
            assert sentence in release.job_log(job)[-1]["message"]
            pods = release.job_pods(job)
            assert sentence in pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
        print(f"\n{listed}{state['reason']}")
        release.upgrade("words", "7")
        release.wait_for("7", "ready")
    assert client.failed == {}
    # The Ingress may have an idle connection to the old generation yet, which answers once more on each.
    wait_until(
        lambda: np.allclose(ask(release, certificate, 5), vector(5, 7, WIDTH), atol=1e-3), "version 7 to answer", 30
    )


def test_a_deleted_server_pod_comes_back_without_a_sync(release: Release, certificate: Path) -> None:
    """The bundle is on the volume: the new pod serves it, and no Job runs."""
    ensure(release, "1")
    release.wait_for_job("Complete")
    selector = f"app.kubernetes.io/instance={release.name},app.kubernetes.io/component=sync"
    before = {pod["metadata"]["name"] for pod in release.namespace.get("pods", "--selector", selector)["items"]}
    gone = release.server_pod()["metadata"]["name"]
    release.namespace.kubectl("delete", "pod", gone)
    release.namespace.kubectl("rollout", "status", f"deployment/{release.full}", "--timeout=180s")
    assert release.server_pod()["metadata"]["name"] != gone
    assert np.allclose(ask(release, certificate, 99), vector(99, 1, WIDTH), atol=1e-3)
    assert {pod["metadata"]["name"] for pod in release.namespace.get("pods", "--selector", selector)["items"]} == before


def test_a_job_killed_in_mid_download_goes_on_and_ends_right(namespace: Namespace, author: Author) -> None:
    """SIGKILL of the sync's process: the next attempt continues from what was verified, and the bundle is whole."""
    reach = values_for_the_bucket()
    values: dict[str, Any] = {
        **reach,
        "sync": {**reach["sync"], "resources": {"limits": {"cpu": "400m", "memory": "512Mi"}}},
        "storage": {"size": "10Gi", "keep": False},
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
    }
    release = Release(namespace, "killed", values)
    release.upgrade("words", "1")
    job = release.job()

    def half_way() -> str | None:
        for model in release.status()["models"]:
            if model["phase"] == "syncing" and model["bytes"] > 0.15 * model["totalBytes"]:
                pods = release.job_pods(job)
                return str(pods[0]["metadata"]["uid"])
        return None

    uid = wait_until(half_way, "the sync to be on its way", 120, release.explain)
    assert kill_processes_of(uid), "the pod's process is not on this machine"
    release.wait_for_job("Complete")
    messages = [event["message"] for event in release.job_log(job)]
    print("\nafter the kill:", *messages, sep="\n  ")
    assert any("are there already" in message for message in messages)
    pods = release.job_pods(job)
    codes = sorted(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in pods)
    assert codes == [0, 137]
    release.wait_for("1", "ready")
    namespace.kubectl("exec", f"deployment/{release.full}", "--", "pantry", "verify", "/mnt/models/words/1")
    release.helm("uninstall", release.name)


def kill_processes_of(uid: str) -> bool:
    """Send SIGKILL to a pod's container process, found by its control group where the node is this machine."""
    killed = False
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            group, command = (entry / "cgroup").read_text(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if uid in group and b"pantry" in command:
            os.kill(int(entry.name), signal.SIGKILL)
            killed = True
    return killed


REACH = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print(target, "reached")
    except OSError as error:
        print(target, "refused", type(error).__name__)
"""


def reached(namespace: Namespace, pod: str, targets: list[str]) -> set[str]:
    """Return which of some host:port a pod can connect to."""
    lines = namespace.python(pod, REACH, *targets).splitlines()
    return {line.split()[0] for line in lines if line.endswith("reached")}


def test_the_server_reaches_nothing_and_the_sync_only_the_bucket(release: Release, namespace: Namespace) -> None:
    """NetworkPolicies hold for real pods: the server cannot even resolve names, the sync knows the bucket alone."""
    ensure(release, "1")
    labels = {
        "app.kubernetes.io/name": "pantry",
        "app.kubernetes.io/instance": release.name,
        "app.kubernetes.io/component": "sync",
    }
    namespace.pod("probe", ["sleep", "600"], labels)
    namespace.pod("free", ["sleep", "600"], {"who": "nobody"})
    bucket = BUCKET_URL.removeprefix("http://") + ":80"
    server = release.server_pod()["status"]["podIP"]
    author_ip = namespace.get("pod", "author")["status"]["podIP"]
    service = namespace.get("service", release.full)["spec"]["clusterIP"]
    api = run("kubectl", "get", "service", "kubernetes", "--output", "jsonpath={.spec.clusterIP}")
    everything = [bucket, f"{server}:8080", f"{server}:8081", f"{service}:80", f"{api}:443", f"{author_ip}:22"]

    def settled() -> bool:  # policies take a second or two to hold for new pods
        return reached(namespace, "probe", everything) == {bucket}

    wait_until(settled, "the sync's policy to hold", 30, lambda: str(reached(namespace, "probe", everything)))
    assert reached(namespace, release.server_pod()["metadata"]["name"], everything) == {
        f"{server}:8080",
        f"{server}:8081",
    }
    assert {bucket, f"{server}:8080"} <= reached(namespace, "free", everything)
    token = "import os; print(os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount'))"
    assert namespace.python(release.server_pod()["metadata"]["name"], token).strip() == "False"
    write = "open('/mnt/models/words/1/manifest.json', 'a')"
    pod = release.server_pod()["metadata"]["name"]
    assert "Read-only file system" in namespace.kubectl("exec", pod, "--", "python3", "-c", write, check=False)


def test_values_gke_answers_https_through_googles_load_balancer(author: Author) -> None:
    """values-gke.yaml, with only names and the storage class changed, serves as it says.

    That is: on its reserved address, with its pre-shared certificate, from the highmem pool, the Job on the same node.
    """
    if not run("kubectl", "get", "configmap", "--namespace", "gce", "addresses", "--ignore-not-found"):
        pytest.skip("this cluster has neither Google's Ingress controller nor a stand-in for it")
    namespace = Namespace("pantry-gke")
    certificate = namespace.tls_secret("pantry-cert", HOST, namespace="gce")
    values = {**values_for_the_bucket(), "storage": {"storageClassName": "zonal-rwo"}}
    release = Release(namespace, "digits", values, (ROOT / "values-gke.yaml",), shutil.which("helm4") or "helm")
    began = time.monotonic()
    release.upgrade("words", "1")
    print_phases(release, "1", began)
    expected = run(
        "kubectl", "get", "configmap", "--namespace", "gce", "addresses", "--output", "jsonpath={.data.pantry-ip}"
    )
    assert release.address() == expected
    assert np.allclose(ask(release, certificate, 77), vector(77, 1, WIDTH), atol=1e-3)
    server = release.server_pod()["spec"]["nodeName"]
    labels = json.loads(run("kubectl", "get", "node", server, "--output", "json"))["metadata"]["labels"]
    assert labels["cloud.google.com/gke-nodepool"] == "highmem"
    pods = release.job_pods(release.job())
    assert {pod["spec"]["nodeName"] for pod in pods} == {server}
    namespace.remove()


def test_a_function_that_theano_compiled_on_python_2_answers_right(namespace: Namespace, author: Author) -> None:
    """Theano in the pod, on a read-only root, gives the numbers of the machine that wrote the pickle."""
    folder = ROOT / "tests" / "pickles" / "theano-1.0.5-py2.7"
    config = (
        b"inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]\noutputs: [{name: y, datatype: FP32, shape: [-1, 3]}]\n"
    )
    author.copy(
        {"function.pkl": (folder / "function.pkl").read_bytes(), "model.yaml": config}, f"gs://{BUCKET}/softmax/2017"
    )
    values = {**values_for_the_bucket(), "storage": {"keep": False}}
    release = Release(namespace, "theano", values)
    release.upgrade("softmax", "2017")
    release.wait_for("2017", "ready")
    code = """
import json, urllib.request
body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1.0] * 8}]}).encode()
print(urllib.request.urlopen("http://127.0.0.1:8080/v2/models/softmax/infer", body).read().decode())
"""
    answer = json.loads(namespace.python(release.server_pod()["metadata"]["name"], code))
    with np.load(folder / "expected.npz") as expected:
        got = np.asarray(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])
        assert np.allclose(got, expected["y"], rtol=1e-6)
    assert answer["outputs"][0]["name"] == "y"
    release.helm("uninstall", release.name)
