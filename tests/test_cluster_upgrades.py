"""Upgrades on a real cluster: models, images and both, forth and back, good and bad, under clients that keep asking.

The walks, through the storage modes with Helm 3 and 4, go on at once and side by side in one namespace: they mostly
wait. Each prints a line a step (run with `-s` to see them).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from tests.cluster import (
    BUCKET,
    CHART,
    IMAGE,
    NEXT_IMAGE,
    ROOT,
    Namespace,
    wait_until,
)
from tests.cluster_author import Author
from tests.cluster_client import Client, word_table
from tests.cluster_served import MODEL, STORAGE, Served, need_ingress
from tests.earlier_chart import earlier_chart

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

AT_ONCE = 4  # walks; a machine of two cores has no time for more
WAIT = ("--wait", "--wait-for-jobs", "--timeout")
KINDS = (
    "deployments,replicasets,pods,jobs,services,configmaps,serviceaccounts,persistentvolumeclaims,networkpolicies,"
    "ingresses,poddisruptionbudgets"
)


class State(NamedTuple):
    """What a release is to serve, and with which image."""

    version: str
    image: str = IMAGE


class Walk:
    """A release that is upgraded again and again while clients ask it."""

    def __init__(self, release: Served) -> None:
        self.release, self.clients, self._state = release, list[Client](), State("1")

    def upgrade(self, state: State, *flags: str) -> None:
        """Run `helm upgrade --install`."""
        self.release.upgrade(MODEL, state.version, *flags, image=state.image)

    def asked(self, stack: ExitStack) -> None:
        """Let clients ask from now on: the Ingress with TLS, and in storage.mode shared the Service itself, too."""
        self.clients = [self.release.client()]
        if self.release.mode == "shared":
            self.clients.append(Client.inside(self.release, "author"))
        for client in self.clients:
            stack.enter_context(client)
        wait_until(
            lambda: all(c.hears_only(1) for c in self.clients),
            "answers",
            60,
            lambda: str([c.counts for c in self.clients]),
        )

    def step(self, what: str, act: Callable[[], object], wanted: State, served: State | None = None) -> None:
        """Do something under the clients' eyes. No request is lost, no pod restarted and no sync run without a reason.

        Args:
            what: is done.
            act: does it.
            wanted: by the release, for a while at least.
            served: in the end, where it is not what was wanted.
        """
        served = served or wanted
        where = f"{self.release.name}: {what}"
        restarts = wanted.image != self._state.image and (served != self._state or self.release.mode == "disk")
        rolls = self.release.mode in ("ephemeral", "custom") and served.version != self._state.version
        away = (
            self.release.mode == "disk" and wanted.image != self._state.image
        )  # its pod ends before the next may start
        pods, jobs = self.release.processes(), self.release.jobs()
        failed = self.watch(where, act, served)
        assert away or failed == {}, where
        assert (self.release.processes() == pods) != (restarts or rolls), where
        assert wanted.version != self._state.version or self.release.jobs() == jobs, where
        self._state = served

    def watch(self, where: str, act: Callable[[], object], served: State) -> Counter[str]:
        """Do something, wait until it has come to what is to be served, and return the requests that failed."""
        with ExitStack() as stack:
            laps = [stack.enter_context(client.lap(where)) for client in self.clients]
            act()
            wait_until(lambda: self._settled(served), where, 240, self.release.explain)
        return sum((Counter(lap.failed) for lap in laps), Counter())

    def there_and_back(self, what: str, state: State) -> None:
        """Upgrade, and roll that back."""
        before = self._state
        self.step(what, lambda: self.upgrade(state, self.release.atomic, *WAIT, "240s"), state)
        self.step(f"{what}, back", lambda: self.release.helm("rollback", self.release.name, *WAIT, "240s"), before)

    def fail(self, what: str, bad: State) -> None:
        """Upgrade to what cannot work: Helm says so and takes it back."""

        def act() -> None:
            with pytest.raises(AssertionError, match="rolled back"):
                self.upgrade(bad, self.release.atomic, *WAIT, "30s")

        self.step(what, act, bad, self._state)

    def stumble(self, bad: State, good: State) -> None:
        """Upgrade to what cannot work, see Helm say so, and upgrade to something good right on top of it."""

        def act() -> None:
            with pytest.raises(AssertionError, match=r"UPGRADE FAILED"):
                self.upgrade(bad, *WAIT, "15s")
            self.upgrade(good, *WAIT, "240s")

        self.step(f"{bad.version} version, then a good one", act, good)

    def objects(self) -> dict[str, tuple[str, str]]:
        """Return uid and generation (or resource version, where there is none) of everything that the release has."""
        listed = self.release.namespace.get(KINDS, "--selector", f"app.kubernetes.io/instance={self.release.name}")
        found = [(item["kind"], item["metadata"]) for item in listed["items"]]
        return {
            f"{kind} {data['name']}": (data["uid"], str(data.get("generation") or data["resourceVersion"]))
            for kind, data in found
        }

    def _settled(self, state: State) -> bool:
        heard = all(client.hears_only(int(state.version)) for client in self.clients)
        return heard and self.release.settled(state.image)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """An empty namespace under Pod Security `restricted`."""
    made = Namespace("pantry-upgrades")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def author(namespace: Namespace) -> Author:
    """A data scientist who has published two versions and a damaged one, and put the good ones into a volume, too."""
    need_ingress()
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "library"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": STORAGE["shared"]["storageClassName"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    namespace.kubectl("apply", "--filename", "-", stdin=json.dumps(claim))
    library = {"/library": {"persistentVolumeClaim": {"claimName": "library"}}}
    author = Author(namespace, library)
    for version in ("1", "2"):
        author.publish(word_table(int(version)), f"gs://{BUCKET}/{MODEL}/{version}")
        namespace.kubectl("exec", "author", "--", "pantry", "publish", "/tmp/src", f"file:///library/{MODEL}/{version}")
    author.publish(word_table(3), f"gs://{BUCKET}/{MODEL}/damaged")
    author.damage(f"{MODEL}/damaged/model.pkl")
    return author


@pytest.fixture(scope="module")
def next_image(namespace: Namespace) -> str:
    """Another image, that the nodes have or can pull."""
    try:
        namespace.pod("next", ["sleep", "1"], image=NEXT_IMAGE)
    except AssertionError:
        pytest.skip(f"no node can start {NEXT_IMAGE}: give PANTRY_NEXT_IMAGE a second tag of the image")
    return NEXT_IMAGE


def whole(walk: Walk) -> None:
    """Everything, with one mode and one Helm."""
    walk.upgrade(State("1"), "--dry-run=server")
    assert walk.objects() == {}
    walk.release.install()
    with ExitStack() as stack:
        walk.asked(stack)
        walk.there_and_back("a model", State("2"))
        walk.there_and_back("an image", State("1", NEXT_IMAGE))
        walk.there_and_back("a model and an image", State("2", NEXT_IMAGE))
        walk.fail("a missing model", State("missing"))
        walk.fail("an image that cannot be pulled", State("1", f"{IMAGE}-never-built"))
        walk.stumble(State("damaged"), State("2"))
        walk.step("nothing", lambda: walk.upgrade(State("2"), *WAIT, "60s"), State("2"))
        before = walk.objects()
        walk.step("a dry run", lambda: walk.upgrade(State("1", NEXT_IMAGE), "--dry-run=server"), State("2"))
        assert walk.objects() == before
    uninstall(walk)


def rolling(walk: Walk) -> None:
    """What is different where new models come in new pods."""
    walk.release.install()
    with ExitStack() as stack:
        walk.asked(stack)
        walk.there_and_back("a model", State("2"))
        walk.fail("a missing model", State("missing"))
        walk.stumble(State("missing"), State("2", NEXT_IMAGE))
    uninstall(walk)


def half(walk: Walk) -> None:
    """Some of it, with the other Helm."""
    walk.release.install()
    with ExitStack() as stack:
        walk.asked(stack)
        walk.there_and_back("a model and an image", State("2", NEXT_IMAGE))
        walk.fail("a missing model", State("missing"))


def uninstall(walk: Walk) -> None:
    """Uninstall: the claim stays, as Helm says, and a new release takes it as it is. Other modes leave nothing."""
    release = walk.release

    def objects() -> set[str]:  # Helm forgets the Job that a failed upgrade made, which has ended
        return {name for name in walk.objects() if not name.startswith(("Job ", "Pod "))}

    claims = {name for name in objects() if name.startswith("PersistentVolumeClaim ")}
    text = release.helm("uninstall", release.name, "--wait")
    wait_until(lambda: objects() == claims, "all but the claim to go", 60, lambda: str(walk.objects()))
    wait_until(lambda: not release.server_pods(), "the pods to go", 60)
    assert len(claims) == (release.mode in ("disk", "shared"))
    for claim in claims:
        assert f"[PersistentVolumeClaim] {claim.split()[1]}" in text
        release.install()
        assert "nothing moved" in release.job_log(release.wait_for_job("Complete"))[-1]["message"]


def from_the_release_before(walk: Walk) -> None:
    """Upgrade from the chart that was released before, with the values that it knows, and roll that back."""
    with TemporaryDirectory() as folder:
        walk.release.chart = earlier_chart(ROOT, Path(folder))
        walk.release.install()
    walk.release.chart = CHART
    name = walk.release.name
    with ExitStack() as stack:
        walk.asked(stack)
        for what, act, state in (
            ("to this chart", lambda: walk.upgrade(State("1"), *WAIT, "240s"), State("1")),
            ("to its next model", lambda: walk.upgrade(State("2"), *WAIT, "240s"), State("2")),
            ("back to the chart before", lambda: walk.release.helm("rollback", name, "1", *WAIT, "240s"), State("1")),
        ):
            failed = walk.watch(f"{name}: {what}", act, state)
            assert not failed or "chart" in what, what  # another chart may mean another pod, and there is one disk


WALKS: dict[str, tuple[str, str, Callable[[Walk], None]]] = {  # the longest first
    "shared-helm": ("shared", "helm", whole),
    "disk-helm4": ("disk", "helm4", whole),
    "ephemeral-helm4": ("ephemeral", "helm4", rolling),
    "custom-helm": ("custom", "helm", rolling),
    "before-helm": ("disk", "helm", from_the_release_before),
    "disk-helm": ("disk", "helm", half),
    "shared-helm4": ("shared", "helm4", half),
}


@pytest.fixture(scope="module")
def bystander(namespace: Namespace, author: Author) -> Iterator[tuple[Walk, dict[str, Any]]]:
    """A release that nobody touches, with a name that others begin with, asked all the time, and what it has."""
    walk = Walk(Served(namespace, "disk", "disk"))
    walk.release.install()
    with ExitStack() as stack:
        walk.asked(stack)
        yield walk, walk.objects()


@pytest.fixture(scope="module")
def walks(
    request: pytest.FixtureRequest,
    namespace: Namespace,
    bystander: object,
    next_image: str,
) -> Iterator[dict[str, Future[None]]]:
    """Every walk that a test asks for, side by side; for the bystander's sake, at least one."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    names = {str(item.callspec.params["walk"]) for item in tests if "walk" in item.callspec.params} or {"disk-helm"}

    def go(name: str) -> None:
        mode, helm, steps = WALKS[name]
        steps(Walk(Served(namespace, name, mode, helm, backoffLimit=0)))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(go, name) for name in WALKS if name in names}


@pytest.mark.parametrize("walk", WALKS)
def test_no_change_loses_a_request_and_a_bad_one_is_taken_back(walks: dict[str, Future[None]], walk: str) -> None:
    """Models, images and both: upgraded, rolled back, failed, and corrected, in each storage mode, and uninstalled."""
    walks[walk].result()


def test_a_release_beside_others_is_left_alone(
    walks: dict[str, Future[None]], bystander: tuple[Walk, dict[str, Any]]
) -> None:
    """Whatever is done to releases of its namespace, one that nobody upgrades keeps its objects and every request."""
    wait(walks.values())
    walk, untouched = bystander
    assert walk.objects() == untouched
    assert [client.failed for client in walk.clients] == [{}]
