"""What befalls a cluster, while clients ask: it comes right by itself, and who has a second replica loses no request.

Each disturbance prints a line (run with `-s` to see them). Of nodes, only the tests' own pods are drained.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster import BUCKET, Namespace, run, wait_until
from tests.cluster_author import Author
from tests.cluster_client import word_table
from tests.cluster_served import MODEL, Served, need_ingress

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BALLAST = """
import os
with open("ballast", "wb") as file:
    for _ in range(300):
        file.write(os.urandom(1 << 20))
"""
POOL = "cloud.google.com/gke-nodepool"
RESTART_API = os.environ.get("PANTRY_RESTART_API", "")  # a shell command that returns when the API server is back


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """An empty namespace under Pod Security `restricted`, with a table of words to serve, and a heavy one."""
    need_ingress()
    made = Namespace("pantry-disturbances")
    author = Author(made)
    author.publish(word_table(1), f"gs://{BUCKET}/{MODEL}/1")
    author.publish(word_table(2), f"gs://{BUCKET}/{MODEL}/2")
    author.publish(word_table(3) + BALLAST, f"gs://{BUCKET}/{MODEL}/3")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def releases(namespace: Namespace) -> dict[str, Served]:
    """One replica on a disk that can follow it to another node, and two that share a volume."""
    slowly = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "100m", "memory": "512Mi"}}
    return {
        "disk": Served(namespace, "disk", "disk", resources=slowly),
        "shared": Served(namespace, "shared", "shared"),
    }


@pytest.fixture
def disk(releases: dict[str, Served]) -> Served:
    """One replica on a disk; it serves version 1."""
    return ready(releases["disk"])


@pytest.fixture
def shared(releases: dict[str, Served]) -> Served:
    """Two replicas, which a PodDisruptionBudget keeps from going at once; they serve version 1."""
    return ready(releases["shared"])


def ready(release: Served) -> Served:
    """Bring a release to version 1, wherever the test before has left it."""
    release.install()
    wait_until(release.settled, "the pods to settle", 120, release.explain)
    with release.client() as client:
        wait_until(lambda: client.hears_only(1), "version 1", 120, release.explain)
    return release


@contextmanager
def drained(node: str, release: Served) -> Iterator[None]:
    """Drain a node of a release's pods, and let it take pods again in the end."""
    try:
        run(
            *("kubectl", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"),
            *("--pod-selector", f"app.kubernetes.io/instance={release.name}"),
        )
        yield
    finally:
        run("kubectl", "uncordon", node)


def nodes(release: Served) -> set[str]:
    """Return the nodes of a release's servers."""
    return {pod["spec"]["nodeName"] for pod in release.server_pods()}


def ready_nodes() -> dict[str, str]:
    """Return the pool of every node that pods may go to."""
    items = json.loads(run("kubectl", "get", "nodes", "--output", "json"))["items"]
    open_ones = [node["metadata"] for node in items if not node["spec"].get("unschedulable")]
    return {node["name"]: node["labels"].get(POOL, "") for node in open_ones}


def test_a_sync_whose_pod_is_deleted_and_whose_bucket_is_away_comes_right_by_itself(disk: Served) -> None:
    """In mid-sync the pod goes, and for a minute the next one reaches nothing; then it goes on from what was there."""
    namespace, policy = disk.namespace, f"{disk.full}-sync"

    def reach(egress: object) -> None:
        patch = json.dumps([{"op": "replace", "path": "/spec/egress", "value": egress}])
        namespace.kubectl("patch", "networkpolicy", policy, "--type=json", "--patch", patch)

    with disk.client() as client:
        wait_until(lambda: client.hears_only(1), "answers", 60)
        with client.lap("a sync's pod deleted, and its bucket away for a minute") as lap:
            disk.upgrade(MODEL, "3")
            job = disk.job()
            wait_until(
                lambda: "secondsLeft" in namespace.kubectl("logs", f"job/{job}", check=False),
                *("the sync to be on its way", 120, disk.explain),
            )
            egress = namespace.get("networkpolicy", policy)["spec"]["egress"]
            reach([])
            try:
                namespace.kubectl("delete", "pod", disk.job_pods(job)[-1]["metadata"]["name"])
                time.sleep(60)
                assert "succeeded" not in namespace.get("job", job)["status"]
            finally:
                reach(egress)
            disk.wait_for_job("Complete")
            wait_until(lambda: client.hears_only(3), "the new version", 60, disk.explain)
        assert lap.failed == {}
    messages = [event["message"] for event in disk.job_log(job)]
    print("", *messages, sep="\n  ")
    assert any("are there already" in message for message in messages)


def test_the_disk_of_a_drained_node_follows_its_pod(disk: Served) -> None:
    """The server and its volume go to another node; the models are on it, so no sync runs again."""
    if len(ready_nodes()) < 2:
        pytest.skip("needs two nodes that pods may go to")
    (node,), jobs = nodes(disk), disk.jobs()
    with disk.client() as client:
        wait_until(lambda: client.hears_only(1), "answers", 60)
        with client.lap(f"disk, {node} drained") as lap, drained(node, disk):
            wait_until(disk.settled, "the pod to be elsewhere", 120, disk.explain)
            wait_until(lambda: client.hears_only(1), "answers again", 60, disk.explain)
        assert not any(what.startswith("wrong") for what in lap.failed)
    assert node not in nodes(disk)
    assert disk.jobs() == jobs


def test_two_replicas_lose_no_request_when_their_nodes_are_drained(shared: Served) -> None:
    """First a node with one of them, then, one at a time by the PodDisruptionBudget, the node with both."""
    if len(ready_nodes()) < 2:
        pytest.skip("needs two nodes that pods may go to")
    jobs = shared.jobs()
    with shared.client() as client:
        wait_until(lambda: client.hears_only(1), "answers", 60)
        for _ in range(2):
            node = min(nodes(shared))
            with client.lap(f"shared, {node} drained") as lap, drained(node, shared):
                wait_until(shared.settled, "the pods to be elsewhere", 120, shared.explain)
            assert node not in nodes(shared)
            assert lap.failed == {}
    assert shared.jobs() == jobs


def test_a_disk_moves_between_node_pools_by_a_value(disk: Served) -> None:
    """gke.nodePool takes the pod and its disk to the other pool; the models are on it, so no sync runs again."""
    here = ready_nodes()
    (node,), jobs = nodes(disk), disk.jobs()
    others = sorted(set(here.values()) - {here[node], ""})
    if not others or not here[node]:
        pytest.skip(f"needs nodes of two pools, by their label {POOL}")
    with disk.client() as client:
        wait_until(lambda: client.hears_only(1), "answers", 60)
        with client.lap(f"disk, from pool {here[node]} to {others[0]}") as lap:
            disk.values["gke"] = {"nodePool": others[0]}
            try:
                disk.upgrade(MODEL, "1", "--wait", "--timeout", "120s")
            finally:
                del disk.values["gke"]
            wait_until(disk.settled, "the pod to be there", 120, disk.explain)
            wait_until(lambda: client.hears_only(1), "answers again", 60, disk.explain)
        assert {here[name] for name in nodes(disk)} == {others[0]}
        assert not any(what.startswith("wrong") for what in lap.failed)
    assert disk.jobs() == jobs


@pytest.mark.skipif(not RESTART_API, reason="PANTRY_RESTART_API names no command that restarts the API server")
def test_an_upgrade_outlives_a_restart_of_the_api_server(shared: Served) -> None:
    """It is restarted right after `helm upgrade`: no pod restarts, no request is lost, and the new model comes."""
    pods = shared.processes()
    with shared.client() as client:
        wait_until(lambda: client.hears_only(1), "answers", 60)
        with client.lap("the API server restarted in mid-upgrade") as lap:
            shared.upgrade(MODEL, "2")
            run("sh", "-c", RESTART_API)
            wait_until(lambda: client.hears_only(2), "the new version", 120, shared.explain)
        assert lap.failed == {}
        assert shared.processes() == pods
