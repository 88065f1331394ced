"""values-gke.yaml behind Google's Ingress, or a stand-in for it: each way in, and what the BackendConfig decides.

One release, upgraded from case to case; every case passes all its values, so that they can run in any order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.cluster import ROOT, run, wait_until
from tests.cluster_speaker import Speaker, namespace_of_an_author, values_of_a_small_release

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

HOST = "models.example.org"
NAMES = {"staticIpName": "second-ip", "preSharedCerts": ["pantry-x-cert"]}


class LoadBalanced(Speaker):
    """The release, asked as clients of the load balancer ask it."""

    address_name = str(NAMES["staticIpName"])

    def expose(self, **gke: Any) -> None:
        """Upgrade to these values of `gke`; the pod that serves stays as it is."""
        before = self.lives()
        self.serve("1", gke=gke)
        assert not before or self.lives() == before

    def public(self) -> str:
        """Return the address that was reserved by name, once the Ingress has it."""
        address = run(
            *("kubectl", "get", "configmap", "--namespace", "gce", "addresses"),
            *("--output", f"jsonpath={{.data.{self.address_name}}}"),
        )

        def assigned() -> bool:
            status = self.namespace.get("ingress", self.full)["status"]
            return bool(status.get("loadBalancer", {}).get("ingress") == [{"ip": address}])

        wait_until(assigned, f"the Ingress to have {address}", 60)
        return address

    def ask(self, authority: Path, seconds: float = 0) -> str:
        """Ask over HTTPS for an answer that takes some seconds; return the version, the status, or what went wrong."""
        with urllib3.HTTPSConnectionPool(
            self.public(), ca_certs=str(authority), server_hostname=HOST, assert_hostname=HOST, retries=False
        ) as pool:
            try:
                answer = pool.request(
                    "POST", "/predict", json={"instance": seconds}, headers={"Host": HOST}, timeout=seconds + 20
                )
            except urllib3.exceptions.HTTPError as error:
                return type(error).__name__
        return str(answer.json()["version"]) if answer.status == 200 else str(answer.status)

    def wait_for_answer(self, authority: Path, wanted: str = "1") -> None:
        """Wait until this is what comes back; a load balancer takes its time to notice a change."""
        said: list[str] = []

        def answered() -> bool:
            said.append(self.ask(authority))
            return said[-1] == wanted

        wait_until(answered, f"{wanted} over HTTPS", 60, lambda: str(said[-10:]))

    def plain(self) -> tuple[int, str]:
        """Ask port 80, and return status and Location; 0 where nobody listens."""
        with urllib3.HTTPConnectionPool(self.public(), retries=False) as pool:
            try:
                answer = pool.request("GET", "/docs?a=b", headers={"Host": HOST}, redirect=False, timeout=5)
            except urllib3.exceptions.NewConnectionError:
                return 0, ""
        return answer.status, answer.headers.get("Location", "")

    def backend(self) -> str:
        """Return what the Ingress says its backend is."""
        return str(
            self.namespace.get("ingress", self.full)["metadata"]["annotations"]["ingress.kubernetes.io/backends"]
        )


@pytest.fixture(scope="module")
def release() -> Iterator[LoadBalanced]:
    """values-gke.yaml with only names and the storage class changed, and what a small bucket of the tests needs."""
    if not run("kubectl", "get", "configmap", "--namespace", "gce", "addresses", "--ignore-not-found", check=False):
        pytest.skip("this cluster has neither Google's Ingress controller nor a stand-in for it")
    values = values_of_a_small_release(
        storage={"storageClassName": "zonal-rwo"}, ingress={"hosts": [HOST]}, gke=NAMES, server={"predictSeconds": 60}
    )
    with namespace_of_an_author("pantry-x-exposure", "1") as namespace:
        made = LoadBalanced(namespace, "digits", values, files=(ROOT / "values-gke.yaml",))
        made.expose()
        yield made


@pytest.fixture(scope="module")
def uploaded(release: LoadBalanced) -> Iterator[Path]:
    """The pre-shared certificate."""
    name = NAMES["preSharedCerts"][0]
    yield release.namespace.tls_secret(name, HOST, namespace="gce")
    run("kubectl", "--namespace", "gce", "delete", "secret", name)


@pytest.fixture(scope="module")
def authority(release: LoadBalanced, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cluster's own authority, which stands for the one that signs Google's managed certificates."""
    file = tmp_path_factory.mktemp("authority") / "ca.crt"
    file.write_text(release.namespace.get("configmap", "kube-root-ca.crt")["data"]["ca.crt"])
    return file


@pytest.mark.parametrize("neg", [True, False], ids=["network endpoint groups", "node ports"])
@pytest.mark.parametrize("kind", ["pre-shared", "managed"])
def test_it_answers_with_either_certificate_by_either_way(
    release: LoadBalanced, uploaded: Path, authority: Path, kind: str, neg: bool
) -> None:
    """On the reserved address, with the uploaded certificate or Google's own, straight to the pod or by node ports."""
    managed = kind == "managed"
    certificates = {"managedCertificate": True, "preSharedCerts": []} if managed else {}
    release.expose(neg=neg, **certificates)
    release.wait_for_answer(authority if managed else uploaded)
    assert release.ask(uploaded if managed else authority) == "SSLError"
    annotations = release.namespace.get("service", release.full)["metadata"]["annotations"]
    assert ("cloud.google.com/neg" in annotations) is neg


def test_port_80_redirects_to_https(release: LoadBalanced, uploaded: Path) -> None:
    """A browser that asks plainly is sent to the same page over HTTPS, for ever."""
    release.expose()
    release.wait_for_answer(uploaded)
    wait_until(lambda: release.plain()[0] in {301, 308}, "a redirect", 30, lambda: str(release.plain()))
    assert release.plain()[1] == f"https://{HOST}/docs?a=b"


def test_port_80_is_closed_on_request(release: LoadBalanced, uploaded: Path) -> None:
    """With gke.redirectToHttps false nobody listens on port 80, and HTTPS answers as before."""
    release.expose(redirectToHttps=False)
    wait_until(lambda: release.plain() == (0, ""), "port 80 to be closed", 30, lambda: str(release.plain()))
    release.wait_for_answer(uploaded)


def test_health_is_what_the_backend_config_says(release: LoadBalanced, uploaded: Path) -> None:
    """A path that does not exist takes the pod out of the load balancer, however ready it is; the right one, back."""
    release.expose(backendConfig={"healthCheck": {"requestPath": "/nowhere"}})
    release.wait_for_answer(uploaded, "502")
    assert "UNHEALTHY" in release.backend()
    release.expose()
    release.wait_for_answer(uploaded)
    wait_until(lambda: "UNHEALTHY" not in release.backend(), "the backend to be healthy", 30, release.backend)


def test_a_slow_answer_outlives_the_30_seconds_of_a_load_balancer(release: LoadBalanced, uploaded: Path) -> None:
    """Because the chart's BackendConfig says so: with one that says 5 s, the same question ends there."""
    release.expose()
    release.wait_for_answer(uploaded)
    began = time.monotonic()
    assert release.ask(uploaded, seconds=35) == "1"
    assert time.monotonic() - began >= 35
    release.expose(backendConfig={"timeoutSec": 5})

    def cut() -> bool:
        began = time.monotonic()
        return release.ask(uploaded, seconds=8) == "504" and 4 < time.monotonic() - began < 7

    wait_until(cut, "an answer of 8 s to be cut after 5 s", 60)
