"""A tiny model that says which version it is, releases of it, and a client that counts what they say.

Services are asked by their cluster address, so these tests run where such addresses answer: on a node, or beside one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import urllib3

from tests.cluster import BUCKET, Namespace, run, values_for_the_bucket, wait_until
from tests.cluster_author import Author
from tests.cluster_release import Release

MODEL = "speaker"
BUNDLE = """
code = '''
import time


class Predictor:
    def load(self, bundle):
        pass

    def predict(self, inputs):
        time.sleep(float(inputs["seconds"].max()))
        return ["{version}"] * len(inputs["seconds"])
'''
config = '''
predictor: predictor.py:Predictor
inputs: [{{name: seconds, datatype: FP64, shape: [-1]}}]
answer: {{one: version, many: versions}}
'''
open("predictor.py", "w").write(code)
open("model.yaml", "w").write(config)
"""


def publish_versions(author: Author, *versions: str) -> None:
    """Publish versions of the model, each of which sleeps as long as it is asked to, and says its version."""
    for version in versions:
        author.publish(BUNDLE.format(version=version), f"gs://{BUCKET}/{MODEL}/{version}")


@contextlib.contextmanager
def namespace_of_an_author(name: str, *versions: str) -> Iterator[Namespace]:
    """Make a namespace whose author has published versions of the model; in the end its removal is begun."""
    namespace = Namespace(name)
    try:
        publish_versions(Author(namespace), *versions)
        yield namespace
    finally:
        run("kubectl", "delete", "namespace", name, "--wait=false")


def entry(version: str) -> dict[str, str]:
    """Return the model's entry in a list of models."""
    return {"name": MODEL, "version": version, "storageUri": f"gs://{BUCKET}/{MODEL}/{version}"}


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Merge values as Helm does: maps key by key, the later ones win."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def values_of_a_small_release(**more: Any) -> dict[str, Any]:
    """Return values for a release that syncs from the test's bucket, and stops quickly."""
    small = {
        "sync": {"resources": {"requests": {"cpu": "10m"}}},
        "storage": {"size": "1Gi", "keep": False},
        "resources": {"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "server": {"drainSeconds": 10, "preStopSeconds": 6},  # a busy node hears of it after seconds
    }
    return merged(values_for_the_bucket(), small, more)


TRACKS = ("stable", "canary")
SHARED = {"mode": "shared", "storageClassName": "filestore-rwx"}


class Speaker(Release):
    """A release of the model.

    Attributes:
        base: the values that every upgrade passes.
    """

    def __init__(self, namespace: Namespace, name: str, values: dict[str, Any], **options: Any) -> None:
        super().__init__(namespace, name, values, **options)
        self.base = values

    def serve(self, version: str, **values: Any) -> None:
        """Install or upgrade to a version, with further values; wait until all that was asked for is there."""
        self.values = merged(self.base, values)
        self.upgrade(MODEL, version)
        self.settle()

    def settle(self) -> None:
        """Wait until every pod of the release's Deployments is of the present kind, and ready, and no other is left."""
        for name in self.names("deployments", "server"):
            self.namespace.kubectl("rollout", "status", f"deployment/{name}", "--timeout=300s")

        def settled() -> bool:
            wanted = sum(int(d["spec"]["replicas"]) for d in self.objects("deployments", "server"))
            return len(self.pods()) == wanted == len(self.objects("pods", "server"))

        wait_until(settled, "old pods to be gone", 90, self.explain)

    def objects(self, kind: str, component: str) -> list[dict[str, Any]]:
        """Return the release's objects of a kind."""
        labels = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        return list(self.namespace.get(kind, "--selector", labels)["items"])

    def names(self, kind: str, component: str) -> set[str]:
        return {found["metadata"]["name"] for found in self.objects(kind, component)}

    def pods(self, *tracks: str) -> list[dict[str, Any]]:
        """Return the pods of some tracks, or all, that are not on their way out."""
        return [
            pod
            for pod in self.objects("pods", "server")
            if "deletionTimestamp" not in pod["metadata"]
            and pod["metadata"]["labels"]["pantry/track"] in (tracks or TRACKS)
        ]

    def lives(self, *tracks: str) -> dict[str, int]:
        """Return the restarts of each serving pod by its uid: what stays the same while nothing restarts."""
        return {
            pod["metadata"]["uid"]: sum(c["restartCount"] for c in pod["status"]["containerStatuses"])
            for pod in self.pods(*tracks)
        }

    def answers(self) -> set[str]:
        """Ask each serving pod by its own address, and return the versions they say."""
        return {say(pod["status"]["podIP"], 8080) for pod in self.pods()}

    def wait_for_answers(self, *versions: str) -> None:
        """Wait until the serving pods say these versions."""
        wait_until(lambda: self.answers() == set(versions), f"pods to say {versions}", 120, self.explain)

    def service_address(self) -> str:
        """Return the cluster address of the release's Service."""
        return str(self.namespace.get("service", self.full)["spec"]["clusterIP"])


def say(host: str, port: int) -> str:
    """Ask once over plain HTTP, and return the version, or what else came back."""
    with urllib3.HTTPConnectionPool(host, port, retries=False) as pool:
        return once(pool, {})


def once(pool: urllib3.HTTPConnectionPool, headers: dict[str, str]) -> str:
    """Ask a pool of connections for a version; it begins with `failed` where none came back."""
    try:
        answer = pool.request("POST", "/predict", json={"instance": 0}, headers=headers, timeout=30)
    except urllib3.exceptions.HTTPError as error:
        return f"failed: {error}"[:160]
    if answer.status != 200:
        return f"failed: {answer.status} {answer.data!r}"[:160]
    return str(answer.json()["version"])


class Client:
    """Asks all the time over several connections, and counts the versions that answer.

    Half of the connections are kept alive; the other half are made anew for each request, so that a Service shares
    them out.
    """

    def __init__(self, host: str, port: int, connections: int = 4, pause: float = 0.005, name: str = "") -> None:
        self.counts: Counter[str] = Counter()
        self.fresh: Counter[str] = Counter()
        self._host, self._port, self._pause, self._name = host, port, pause, name
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(bool(n % 2),)) for n in range(connections)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kept: bool) -> None:
        headers = {"Host": self._name or self._host, "Connection": "keep-alive" if kept else "close"}
        with urllib3.HTTPConnectionPool(self._host, self._port, retries=False) as pool:
            while not self._end.is_set():
                said = once(pool, headers)
                self.counts[said] += 1
                if not kept:
                    self.fresh[said] += 1
                time.sleep(self._pause)

    def shares(self, requests: int, counts: Counter[str]) -> dict[str, float]:
        """Return the share of each version in this many answers from now on, counted in `counts` or in `fresh`."""
        before = counts.copy()
        wait_until(lambda: counts.total() - before.total() >= requests, f"{requests} answers", 120)
        since = counts.copy() - before
        return {said: count / since.total() for said, count in since.items()}

    @property
    def failed(self) -> dict[str, int]:
        """Everything that was no version's answer."""
        return {said: count for said, count in self.counts.items() if said.startswith("failed")}
