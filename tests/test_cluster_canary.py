"""A canary on a real cluster: its share of the answers, its promotion without a restart, and not one lost request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Namespace
from tests.cluster_gateway import gateway
from tests.cluster_speaker import SHARED, Client, Speaker, entry, namespace_of_an_author, values_of_a_small_release

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

HOST = "models.example.com"
TRIED: dict[str, Any] = {"enabled": True, "models": [entry("2")]}
PROMOTED = {**TRIED, "promote": True}


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace whose author has published two versions."""
    with namespace_of_an_author("pantry-x-canary", "1", "2") as made:
        yield made


def promote(release: Speaker, client: Client, stable: dict[str, int]) -> None:
    """Promote the canary under a client, and end it in the values: stable pods swap, and nothing restarts, ever."""
    assert release.lives("stable") == stable
    release.serve("1", canary=PROMOTED)
    release.wait_for_answers("2")
    assert client.shares(200, client.counts) == {"2": 1.0}
    assert release.lives() == stable
    assert "nothing moved" in release.job_log(release.wait_for_job("Complete"))[-1]["message"]
    jobs = {job["metadata"]["uid"] for job in release.objects("jobs", "sync")}
    release.serve("2")
    assert client.shares(200, client.counts) == {"2": 1.0}
    assert release.lives() == stable
    assert {job["metadata"]["uid"] for job in release.objects("jobs", "sync")} == jobs
    assert client.failed == {}
    print(f"\nanswers: {dict(client.counts)}")


def test_a_canary_by_replicas_is_tried_and_promoted(namespace: Namespace) -> None:
    """One pod of three tries a version and gives a third of the answers; then it is gone, and the others take over."""
    release = Speaker(namespace, "replicas", values_of_a_small_release(storage=SHARED, replicas=2))
    release.serve("1")
    stable = release.lives()
    with Client(release.service_address(), 80) as client:
        release.serve("1", canary=TRIED)
        release.wait_for_answers("1", "2")
        shares = client.shares(1000, client.fresh)
        print(f"\n2 + 1 pods: {shares}")
        assert shares["2"] == pytest.approx(1 / 3, abs=0.07)  # nearly five standard deviations
        assert len(release.pods("canary")) == 1
        promote(release, client, stable)
    release.helm("uninstall", release.name)


def test_a_canary_shares_the_disk_of_the_stable_pod(namespace: Namespace) -> None:
    """In mode disk the canary's pod stands on the stable pod's node, with its volume, and gives half of the answers."""
    release = Speaker(namespace, "disk", values_of_a_small_release())
    release.serve("1")
    stable = release.lives()
    with Client(release.service_address(), 80) as client:
        release.serve("1", canary=TRIED)
        release.wait_for_answers("1", "2")
        assert client.shares(500, client.fresh)["2"] == pytest.approx(1 / 2, abs=0.11)
        assert len({pod["spec"]["nodeName"] for pod in release.pods()}) == 1
        claims = {v["persistentVolumeClaim"]["claimName"] for pod in release.pods() for v in pod["spec"]["volumes"][:1]}
        assert claims == {release.full}
        promote(release, client, stable)
    release.helm("uninstall", release.name)


def test_a_gateway_gives_a_canary_its_percents(namespace: Namespace) -> None:
    """The weights of an HTTPRoute are the shares of the answers, follow an upgrade, and end with the promotion.

    Without a weight, pods share.
    """
    with gateway(namespace) as way:
        asked = {"enabled": True, "parentRefs": [way.parent], "hosts": [HOST]}
        values = values_of_a_small_release(storage=SHARED, replicas=2, gateway=asked)
        release = Speaker(namespace, "gateway", values)
        release.serve("1")
        stable = release.lives()
        with Client(way.host, way.port, name=HOST) as client:
            for weight, expected in ((None, 1 / 3), (10, 0.1), (50, 0.5)):  # None: one pod of three, once it is ready
                release.serve("1", canary={**TRIED, "weight": weight})
                release.wait_for_answers("1", "2")
                shares = client.shares(2000, client.counts)
                print(f"\nweight {weight}: {shares}")
                assert shares.get("2", 0) == pytest.approx(expected, abs=0.03 if weight else 0.1)
            promote(release, client, stable)
        release.helm("uninstall", release.name)
