"""A hostile model in a real server pod: its pickle runs at load, tries everything, and reports what it managed.

Promises 4, 9 and 12: it writes nothing that lasts, reads nobody's secret, reaches nothing, and gains no power.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.cluster import BUCKET, Namespace, run
from tests.cluster_speaker import Speaker, namespace_of_an_author, values_of_a_small_release
from tests.hostile_pickles import Calls

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

INTRUDER = (Path(__file__).parent / "cluster_intruder.py").read_text()
METADATA = "169.254.169.254"
# The pod's own memory and temporary files, which end with it; and 4 kB that its status shows when it has ended.
OWN = ["/dev/mqueue", "/dev/shm", "/dev/termination-log", "/tmp"]
Reports = tuple[dict[str, list[str]], dict[str, list[str]]]  # at load, and when it is asked
KEPT = "keepsake-of-the-other"  # a version of the other release's model
WORDS = [base64.b64encode(KEPT.encode()).decode()]  # not as it is, or the intruder would find its own question
UPLOAD = """
import base64
from google.cloud import storage
bucket = storage.Client().bucket("{bucket}")
for name, data in {files!r}.items():
    bucket.blob("{prefix}/" + name).upload_from_string(base64.b64decode(data))
"""


@contextlib.contextmanager
def metadata_server() -> Iterator[None]:
    """Stand in for a cloud's metadata server, where the cluster's nodes are this machine."""
    nodes = json.loads(run("kubectl", "get", "nodes", "--output", "json"))["items"]
    addresses = [a["address"] for n in nodes for a in n["status"]["addresses"] if a["type"] == "InternalIP"]
    try:
        for address in addresses:
            socket.create_server((address, 0)).close()
        run("ip", "address", "replace", f"{METADATA}/32", "dev", "lo")
    except (OSError, AssertionError):
        yield
        return
    try:
        with http.server.ThreadingHTTPServer((METADATA, 80), http.server.BaseHTTPRequestHandler) as server:
            threading.Thread(target=server.serve_forever).start()
            yield
            server.shutdown()
    finally:
        run("ip", "address", "delete", f"{METADATA}/32", "dev", "lo")


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace with a release that has something to keep."""
    with namespace_of_an_author("pantry-x-hostile", KEPT) as made, metadata_server():
        other = Speaker(made, "other", values_of_a_small_release(storage={"size": "2Gi"}))
        other.serve(KEPT)
        pod = other.pods()[0]["metadata"]["name"]
        assert json.loads(made.python(pod, f"{INTRUDER}\nprint(json.dumps([*read({WORDS})]))"))
        yield made


def service(namespace: str, name: str) -> str:
    return run("kubectl", "-n", namespace, "get", "service", name, "--output", "jsonpath={.spec.clusterIP}")


@pytest.fixture(scope="module")
def targets(namespace: Namespace) -> dict[str, str]:
    """What there is to be reached: HOST:PORT by what it is. Everyone else can reach all of it."""
    bucket, dns = service("bucket", "bucket"), service("kube-system", "kube-dns")
    other = namespace.get("pods", "--selector", "app.kubernetes.io/instance=other,app.kubernetes.io/component=server")
    node = json.loads(run("kubectl", "get", "nodes", "--output", "json"))["items"][0]["status"]
    kubelet = node["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    found = {
        "bucket": f"{bucket}:80",
        "names": f"{dns}:53",
        "names by UDP": f"udp/{dns}:53",
        "API server": f"{service('default', 'kubernetes')}:443",
        "kubelet": f"{node['addresses'][0]['address']}:{kubelet}",
        "another pod": f"{other['items'][0]['status']['podIP']}:8080",
        "another pod's admin port": f"{other['items'][0]['status']['podIP']}:8081",
        "another Service": f"{service(namespace.name, 'other-pantry')}:80",
        "metadata server": f"{METADATA}:80",
    }
    code = f"{INTRUDER}\nprint(json.dumps(reached({list(found.values())!r})))"
    free = set(json.loads(namespace.python("author", code)))
    assert set(found.values()) - free <= {found["metadata server"]}
    print(f"\nan ordinary pod reaches {sorted(name for name in found if found[name] in free)}")
    return found


def trespass(namespace: Namespace, name: str, targets: dict[str, str], storage: dict[str, Any]) -> Reports:
    """Serve the hostile model; return what it managed at its load, and what when it is asked."""
    release = Speaker(namespace, name, values_of_a_small_release(storage=storage, server={"predictSeconds": 120}))
    arguments = (list(targets.values()), WORDS)
    expression = f"(lambda scope: (exec({INTRUDER!r}, scope), scope['Model'](*{arguments!r}))[1])({{}})"
    files = {
        "model.pkl": pickle.dumps(Calls(eval, expression)),
        "model.yaml": b"inputs: [{name: targets, datatype: BYTES, shape: [-1]}]\nanswer: {one: managed, many: all}\n",
    }
    texts = {file: base64.b64encode(data).decode() for file, data in files.items()}
    namespace.python("author", UPLOAD.format(bucket=BUCKET, prefix=f"{name}/1", files=texts))
    release.upgrade(name, "1")
    release.settle()
    own = {**targets, "its own Service": f"{release.service_address()}:80"}
    reports = managed(release, "", targets), managed(release, " ".join(own.values()), own)
    print(f"\n{name}: at load {reports[0]}\n{name}: asked {reports[1]}")
    release.helm("uninstall", release.name)
    return reports


def managed(release: Speaker, asked: str, targets: dict[str, str]) -> dict[str, list[str]]:
    """Ask the hostile model what it managed at load, or what it manages now with some targets."""
    address = release.pods()[0]["status"]["podIP"]
    answer = urllib3.request(
        "POST", f"http://{address}:8080/predict", json={"instance": asked}, retries=False, timeout=150
    )
    assert answer.status == 200, answer.data
    report: dict[str, list[str]] = json.loads(answer.json()["managed"])
    names = {target: name for name, target in targets.items()}
    return {**report, "reached": [names[target] for target in report["reached"]]}


def test_a_hostile_model_gets_nowhere(namespace: Namespace, targets: dict[str, str]) -> None:
    """Not when it is loaded, nor when it is asked: no write but to its own pod, no token, nobody reached, no power."""
    for report in trespass(namespace, "disk", targets, {}):
        assert report == {"written": OWN, "tokens": [], "reached": [], "powers": [], "read": []}


def test_in_mode_ephemeral_a_hostile_model_reaches_what_the_sync_may(
    namespace: Namespace, targets: dict[str, str]
) -> None:
    """The sync is a container of the server's pod there, and shares its network: names and the bucket, and no more."""
    for report in trespass(namespace, "ephemeral", targets, {"mode": "ephemeral"}):
        reached = ["bucket", "names", "names by UDP"]
        assert report == {"written": OWN, "tokens": [], "reached": reached, "powers": [], "read": []}
