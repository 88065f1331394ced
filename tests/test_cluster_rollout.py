"""examples/rollout on a real cluster: the commands of its README, and its client counting at one address all the while.

The values files are the example's; what is the cluster's own (bucket, storage class, host, image, sizes) lies on top.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.cluster import BUCKET, CHART, IMAGE, Namespace, run, wait_until
from tests.cluster_author import Author
from tests.cluster_gateway import gateway
from tests.cluster_release import image_values
from tests.cluster_served import need_ingress
from tests.cluster_speaker import SHARED, Speaker, merged, values_of_a_small_release
from tests.test_example_rollout import A_B, FOLDER, STEPS, commands, counts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

HOST = "rollout.example.com"  # of a certificate of ours; releases of other tests have the example's host
INSTALL, UPGRADE, ROLLBACK, CANARY, PROMOTION = commands(STEPS)
(HALVES,) = commands(A_B)


class Watcher:
    """The example's client, as a process that counts until the context ends.

    Args:
        arguments: of client.py.
        environment: beside this process's own.

    Attributes:
        total: of all answers, by version and `failed`; after the end.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._command = [sys.executable, str(FOLDER / "client.py"), *arguments]
        self._environment = {**os.environ, **environment}
        self._lines: list[str] = []
        self.total = Counter[str]()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as told:
            for line in told:
                self._lines.append(line)

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._thread.join()
        print(f"\n{self._lines[-1]}", end="")
        self.total = counts(self._lines[-1])

    def heard(self, seconds: int) -> Counter[str]:
        """Return what came in this many of the client's seconds, the first of which begins from now on."""
        begin = len(self._lines) + 1  # the present second has begun before
        wait_until(lambda: len(self._lines) >= begin + seconds, f"{seconds} lines", 60, lambda: "".join(self._lines))
        return sum(map(counts, self._lines[begin : begin + seconds]), Counter[str]())

    def hears(self, *versions: str) -> None:
        """Wait until these versions answer, and none other."""
        wait_until(lambda: {*self.heard(2)} == {*versions}, f"{versions}", 90, lambda: "".join(self._lines[-20:]))


class Rollout(Speaker):
    """The release of the README's commands.

    Args:
        namespace: in place of the README's.
        folder: a copy of the example, with the test's bucket in it.
        values: that are the cluster's own.
    """

    def __init__(self, namespace: Namespace, folder: Path, values: dict[str, Any]) -> None:
        super().__init__(namespace, "rollout", values)
        self._folder, self._own = folder, folder / "values-own.yaml"

    def follow(self, command: str, *further: str) -> None:
        """Run a helm command of the README with further values files, and wait until its pods are there and ready."""
        self._own.write_text(json.dumps(self.values))
        where = {"../../chart": str(CHART), "models": self.namespace.name}
        words = [where.get(word, word).replace("my-bucket", BUCKET) for word in shlex.split(command)]
        if "-f" in words:
            place = words.index("values.yaml") + 1
            words[place:place] = [word for file in further for word in ("-f", file)]
            words += ["-f", str(self._own)]
        run(*(str(self._folder / word) if word.startswith("values") else word for word in words))
        self.settle()

    def end(self) -> None:
        self.helm("uninstall", self.name, "--wait")
        wait_until(lambda: not self.server_pods(), "the pods to go", 90)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace whose author has run build.py and published both versions where the values files say."""
    made = Namespace("pantry-x-rollout")
    try:
        author = Author(made)
        for version in ("1", "2"):
            author.build("rollout", version, "--version", version)
        yield made
    finally:
        run("kubectl", "delete", "namespace", made.name, "--wait=false")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example, with the test's bucket in its values."""
    shutil.copytree(FOLDER, tmp_path / "rollout")
    for path in (tmp_path / "rollout").glob("values*.yaml"):
        path.write_text(path.read_text().replace("my-bucket", BUCKET))
    return tmp_path / "rollout"


def own_values(**more: Any) -> dict[str, Any]:
    """Return what is the cluster's own, in place of the example's."""
    images = {"image": image_values(IMAGE), "sync": {"image": image_values(IMAGE)}}
    storage = {"storage": {"storageClassName": SHARED["storageClassName"]}}
    return merged(values_of_a_small_release(**storage), images, more)


def share(heard: Counter[str], version: str) -> float:
    assert heard["failed"] == 0
    return heard[version] / heard.total()


def test_the_readmes_steps_lose_no_request_at_one_address(namespace: Namespace, folder: Path) -> None:
    """HTTPS through the Ingress: 1, a rolling update to 2, back, a third for a canary, its promotion, and its end."""
    need_ingress()
    certificate = namespace.tls_secret("models-tls", HOST)
    release = Rollout(namespace, folder, own_values(ingress={"className": "traefik", "hosts": [HOST]}))
    release.follow(INSTALL)
    address, pods = f"https://{release.address()}", release.lives()
    wait_for_route(address, "--host", HOST, SSL_CERT_FILE=str(certificate))
    with Watcher(address, "--host", HOST, SSL_CERT_FILE=str(certificate)) as client:
        client.hears("1")
        release.follow(UPGRADE)
        client.hears("2")
        assert not pods.keys() & release.lives().keys()  # new pods
        release.follow(ROLLBACK)
        client.hears("1")
        assert moved_nothing(release)
        pods = release.lives()
        release.follow(CANARY)
        client.hears("1", "2")
        tried = share(client.heard(6), "2")
        assert tried == pytest.approx(1 / 3, abs=0.05)
        assert release.lives("stable") == pods
        release.follow(PROMOTION)
        client.hears("2")
        pods = release.lives()
        assert len(pods) == 2
        release.follow(UPGRADE)  # what the README says is for good
        assert release.lives() == pods
        client.hears("2")
    print(f"canary: {tried:.0%}")
    assert client.total["failed"] == 0
    release.end()


def test_an_ab_test_by_weight_loses_no_request_at_one_address(namespace: Namespace, folder: Path) -> None:
    """Through a Gateway from the start: a third of the pods, then half of the answers, then all."""
    with gateway(namespace) as way:
        release = Rollout(namespace, folder, own_values(gateway={"parentRefs": [way.parent], "hosts": [HOST]}))
        release.follow(INSTALL, "values-gateway.yaml")
        address = f"http://{way.host}:{way.port}"
        wait_for_route(address, "--host", HOST)
        with Watcher(address, "--host", HOST) as client:
            client.hears("1")
            release.follow(CANARY, "values-gateway.yaml")
            client.hears("1", "2")
            tried = share(client.heard(6), "2")
            assert tried == pytest.approx(1 / 3, abs=0.05)
            release.follow(HALVES)
            wait_until(lambda: share(client.heard(2), "2") > 0.45, "the weights to be followed", 60)
            halves = share(client.heard(6), "2")
            assert halves == pytest.approx(1 / 2, abs=0.05)
            release.follow(PROMOTION, "values-gateway.yaml")
            client.hears("2")
        print(f"canary: {tried:.0%}; weight 50: {halves:.0%}")
        assert client.total["failed"] == 0
        release.end()


def wait_for_route(*arguments: str, **environment: str) -> None:
    """Wait until the way in leads to the release: until client.py's exit status is 0."""

    def leads() -> bool:
        command = [sys.executable, str(FOLDER / "client.py"), *arguments, "--seconds", "0.2"]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False)
        return done.returncode == 0

    wait_until(leads, "a route", 60)


def moved_nothing(release: Rollout) -> bool:
    """Tell whether the newest sync found everything on the volume."""
    return "nothing moved" in release.job_log(release.wait_for_job("Complete"))[-1]["message"]
