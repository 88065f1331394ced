"""More and fewer pods on a real cluster, by hand, by load and by eviction; and GPUs, of which there are too few."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Namespace, run, wait_until
from tests.cluster_speaker import SHARED, Client, Speaker, namespace_of_an_author, values_of_a_small_release

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# Up at once, and down after some seconds instead of five minutes: the shape of it, in a test's time.
QUICK = {
    "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]},
    "scaleDown": {"stabilizationWindowSeconds": 10, "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]},
}
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace whose author has published a version."""
    with namespace_of_an_author("pantry-x-scaling", "1") as made:
        yield made


@pytest.fixture(scope="module")
def release(namespace: Namespace) -> Speaker:
    """A release of one shared volume."""
    return Speaker(namespace, "shared", values_of_a_small_release(storage=SHARED))


def jobs(release: Speaker) -> dict[str, Any]:
    """Return what ran of each Job."""
    return {job["metadata"]["uid"]: job["status"].get("succeeded") for job in release.objects("jobs", "sync")}


def test_more_replicas_restart_nothing_and_sync_nothing(release: Speaker) -> None:
    """The new pod loads what the volume has: no Job runs, the other pods stay, and nobody who asks notices."""
    release.serve("1", replicas=2)
    release.wait_for_job("Complete")
    before, ran = release.lives(), jobs(release)
    with Client(release.service_address(), 80) as client:
        release.serve("1", replicas=3)
        after = release.lives()
        assert before.items() <= after.items()
        assert len(after) == 3
        assert release.answers() == {"1"}
        release.serve("1", replicas=2)
        assert len(release.lives()) == 2
    assert jobs(release) == ran
    assert client.failed == {}
    print(f"\n2, 3 and 2 pods: {dict(client.counts)}")


def test_one_pod_at_a_time_is_evicted(release: Speaker) -> None:
    """While one pod is away, the eviction of another is refused; when its place is taken, it is not."""
    release.serve("1", replicas=2)
    first, second = (pod["metadata"]["name"] for pod in release.pods())
    with Client(release.service_address(), 80) as client:
        assert "Success" in evict(release, first)
        refusal = evict(release, second)
        assert "TooManyRequests" in refusal
        assert "disruption budget" in refusal
        wait_until(lambda: "Success" in evict(release, second), "the second eviction", 90, release.explain)
        release.settle()
    assert client.failed == {}
    print(f"\ntwo evictions: {dict(client.counts)}")


def evict(release: Speaker, pod: str) -> str:
    """Ask for an eviction, as a drain does, and return what the API server says."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{release.namespace.name}/pods/{pod}/eviction"
    return run("kubectl", "create", "--raw", path, "--filename", "-", stdin=json.dumps(body), check=False)


def test_load_makes_pods_and_quiet_ends_them(release: Speaker) -> None:
    """The autoscaler goes by CPU from two pods to more and back, and no request of those who load it is lost."""
    autoscaling = {"enabled": True, "minReplicas": 2, "maxReplicas": 4, "cpuPercent": 100, "behavior": QUICK}
    release.serve("1", autoscaling=autoscaling, resources={"requests": {"cpu": "50m"}})

    def pods() -> int:
        return len(release.pods())

    def explain() -> str:
        return release.namespace.kubectl("describe", "hpa", check=False)[-3000:] + release.explain()

    wait_until(lambda: pods() == 2, "two pods", 90, explain)
    release.settle()
    with Client(release.service_address(), 80, connections=6, pause=0.001) as client:
        wait_until(lambda: pods() > 2, "more than two pods", 120, explain)
        release.settle()
        most = pods()
    with Client(release.service_address(), 80, connections=1, pause=0.2) as few:
        wait_until(lambda: pods() == 2, "two pods again", 180, explain)
        release.settle()
    assert client.failed == few.failed == {}
    print(f"\n2, {most} and 2 pods: {dict(client.counts)} under load, {dict(few.counts)} in quiet")


@contextlib.contextmanager
def gpus(node: str, count: int) -> Iterator[None]:
    """Advertise GPUs on a node, which then refuses pods that do not ask for one, as a pool of GPUs does."""

    def patch(subresource: str, change: dict[str, Any]) -> None:
        run("kubectl", "patch", "node", node, *subresource.split(), "--type=strategic", "--patch", json.dumps(change))

    status = "--subresource=status"
    taint = {"key": GPU, "value": "present", "effect": "NoSchedule"}
    try:
        patch(status, {"status": {"capacity": {GPU: str(count)}, "allocatable": {GPU: str(count)}}})
        patch("", {"spec": {"taints": [taint]}})
        yield
    finally:
        run("kubectl", "taint", "node", node, f"{GPU}-", check=False)
        patch(status, {"status": {"capacity": {GPU: None}, "allocatable": {GPU: None}}})


def test_two_pods_with_the_only_two_gpus_are_rolled_out(namespace: Namespace) -> None:
    """Pods that ask for a GPU go where there are some; as none is to spare, the old one of each goes first."""
    nodes = json.loads(run("kubectl", "get", "nodes", "--output", "json"))["items"]
    node = str(nodes[0]["metadata"]["name"])
    release = Speaker(namespace, "gpu", values_of_a_small_release(storage=SHARED, replicas=2, gpu={"count": 1}))
    with gpus(node, 2):
        release.serve("1")
        before = release.lives()
        assert {pod["spec"]["nodeName"] for pod in release.pods()} == {node}
        with Client(release.service_address(), 80) as client:
            release.serve("1", server={"podAnnotations": {"rollout": "again"}})
            assert {pod["spec"]["nodeName"] for pod in release.pods()} == {node}
            assert not before.keys() & release.lives().keys()
        assert client.failed == {}
        print(f"\nrolled out with no GPU to spare: {dict(client.counts)}")
        release.helm("uninstall", release.name)
