"""The examples on a real cluster: by `helm install` with their own values, asked over HTTPS as their clients ask.

What is the cluster's own (bucket, storage class, host, way in, image, sizes) lies on top of each values.yaml.
tests/test_cluster_rollout.py has the fifth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from serving.access.passwords import hash_password
from tests.cluster import BUCKET, IMAGE, ROOT, Namespace, run, wait_until
from tests.cluster_author import Author
from tests.cluster_release import curl, image_values
from tests.cluster_served import need_ingress
from tests.cluster_speaker import SHARED, Speaker, merged, values_of_a_small_release
from tests.test_example_mnist import write_keys
from tests.test_example_skipthoughts import SENTENCES, reference

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PASSWORD = "correct horse battery staple"
TOKEN = "0123456789abcdef" * 4
# For a client that looks a name up before DNS knows it: what a line in /etc/hosts would do, for one process.
HOSTS = """
import os, socket
lookup, hosts = socket.getaddrinfo, dict([os.environ["PANTRY_TEST_HOST"].split("=")])
socket.getaddrinfo = lambda host, *more, **named: lookup(hosts.get(host, host), *more, **named)
"""


class Release(Speaker):
    """An example's release.

    Args:
        namespace: where it is.
        name: of the example.
        home: for a copy of its values.
        values: that are the cluster's own.
    """

    def __init__(self, namespace: Namespace, name: str, home: Path, **values: Any) -> None:
        self.host = f"{name}.example.com"
        file = home / f"{name}.yaml"
        text = (ROOT / "examples" / name / "values.yaml").read_text()
        file.write_text(text.replace("gs://my-bucket", f"gs://{BUCKET}").replace("gs://my-secrets", f"gs://{BUCKET}"))
        own = {"image": image_values(IMAGE), "sync": {"image": image_values(IMAGE), "backoffLimit": 0}}
        super().__init__(namespace, name, merged(values_of_a_small_release(), own, values), files=(file,))
        self.certificate = Path()
        self._home, self._file = home, file

    def behind_traefik(self) -> None:
        """Give it a certificate, and an Ingress of class traefik."""
        self.certificate = self.namespace.tls_secret(f"{self.name}-tls", self.host)
        tls = {"secretName": f"{self.name}-tls"}
        way = {"enabled": True, "className": "traefik", "hosts": [self.host], "tls": tls}
        self.values = self.base = merged(self.base, {"ingress": way})

    def install(self, *flags: str) -> None:
        """Run `helm upgrade --install`, wait for its pods, and for the way in."""
        own = self._home / f"{self.name}-own.yaml"
        own.write_text(json.dumps(self.values))
        files = ("--values", str(self._file), "--values", str(own))
        run("helm", "upgrade", "--install", self.name, str(self.chart), "-n", self.namespace.name, *files, *flags)
        self.settle()
        said: list[str] = []

        def answers() -> bool:
            try:
                return bool(self.curl("/healthz"))
            except AssertionError as error:
                said.append(str(error))
                return False

        wait_until(answers, "an answer over HTTPS", 120, lambda: "\n".join(said[-3:]) + self.explain())

    def curl(self, path: str, *arguments: str) -> str:
        """Ask over HTTPS with the real curl."""
        return curl(self.host, self.address(), self.certificate, path, *arguments)

    def refusal(self, path: str, *arguments: str) -> tuple[int, Any]:
        """Ask for what is refused; the status and the body."""
        text = run(
            *("curl", "--silent", "--max-time", "30", "--write-out", "\n%{http_code}"),
            *("--resolve", f"{self.host}:443:{self.address()}", "--cacert", str(self.certificate)),
            *(f"https://{self.host}{path}", *arguments),
        )
        body, _, status = text.rpartition("\n")
        return int(status), json.loads(body)

    def each_pod(self, path: str, **arguments: Any) -> list[requests.Response]:
        """POST to every pod by its own address, past the Service."""
        addresses = [pod["status"]["podIP"] for pod in self.pods()]
        return [requests.post(f"http://{address}:8080{path}", timeout=30, **arguments) for address in addresses]


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    need_ingress()
    made = Namespace("pantry-x-examples")
    try:
        yield made
    finally:
        run("kubectl", "delete", "namespace", made.name, "--wait=false")


@pytest.fixture(scope="module")
def author(namespace: Namespace) -> Author:
    return Author(namespace)


def test_census_serves_users_on_two_replicas_with_one_secret(
    namespace: Namespace, author: Author, tmp_path: Path
) -> None:
    """Model, users and signing secret come from paths; the client runs as it is; any pod takes the token of another."""
    author.build("census", "1")
    author.put("census/users", f"alice:{hash_password(PASSWORD)}\n")
    author.put("census/signing-secret", "f" * 64)
    release = Release(namespace, "census", tmp_path, storage={"storageClassName": SHARED["storageClassName"]})
    release.behind_traefik()
    release.install()
    said = client(release, "alice", PASSWORD)
    assert said.stdout.strip() == "200 {'predictions': ['Annual Salary <50K', 'Annual Salary >=50K']}"
    assert "401" in client(release, "alice", "wrong").stderr

    token = json.loads(release.curl("/login", "--user", f"alice:{PASSWORD}"))["token"]
    person = [
        25,
        "Private",
        226802,
        "11th",
        7,
        "Never-married",
        "Machine-op-inspct",
        "Own-child",
        "Black",
        "Male",
        0,
        0,
    ]
    inputs = {"inputs": [[*person, 40, "United-States"]]}
    answers = release.each_pod("/prediction", json=inputs, headers={"Authorization": token})
    assert [answer.json() for answer in answers] == [{"predictions": ["Annual Salary <50K"]}] * 2
    asked = ("--json", json.dumps(inputs))
    needs = {"error": "a token is needed: send it as `Authorization: Bearer TOKEN`"}
    assert release.refusal("/prediction", *asked) == (401, needs)
    forged = release.refusal("/prediction", *asked, "--header", "Authorization: " + token[:-4] + "AAAA")
    assert forged == (401, {"error": "the token is not signed by this server"})

    pods = release.lives()
    author.put("census/users", f"bob:{hash_password(PASSWORD)}\n")
    release.install("--set-string", "sync.rerun=bob")
    release.wait_for_job("Complete")
    wait_until(lambda: client(release, "bob", PASSWORD).returncode == 0, "bob to be a user", 30)
    wait_until(
        lambda: (
            {a.status_code for a in release.each_pod("/prediction", json=inputs, headers={"Authorization": token})}
            == {401}
        ),
        "alice's token to end",
        30,
    )
    assert release.lives() == pods
    release.helm("uninstall", release.name)


def client(release: Release, user: str, password: str) -> subprocess.CompletedProcess[str]:
    """Run census' client as it is."""
    folder = release.certificate.parent
    (folder / "sitecustomize.py").write_text(HOSTS)
    return subprocess.run(
        [sys.executable, str(ROOT / "examples/census/client.py"), f"https://{release.host}/", user, password],
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "PANTRY_TEST_HOST": f"{release.host}={release.address()}",
            "REQUESTS_CA_BUNDLE": str(release.certificate),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_boston_answers_in_the_words_of_its_clients(namespace: Namespace, author: Author, tmp_path: Path) -> None:
    """One pod with five workers: the README's curl calls, columns in any order, and what is wrong named."""
    author.build("boston", "1")
    release = Release(namespace, "boston", tmp_path)
    release.behind_traefik()
    release.install()
    assert release.curl("/") == "I'M ALIVE!"
    row = {"CRIM": 15.02, "ZN": 0.0, "INDUS": 18.1, "CHAS": 0.0, "NOX": 0.614, "RM": 5.3, "AGE": 97.3, "DIS": 2.1,
           "RAD": 24.0, "TAX": 666.0, "PTRATIO": 20.2, "B": 349.48, "LSTAT": 24.9}  # fmt: skip
    for columns in (row, dict(reversed(row.items()))):
        answer = json.loads(release.curl("/predict", "--json", json.dumps(columns)))
        assert answer == {"prediction": pytest.approx(12.27, abs=0.01)}
    status, said = release.refusal("/predict", "--json", json.dumps({"RM": "five", "LSTAT": 24.9, "MEDV": 12.0}))
    assert (status, said["status"]) == (400, "error")
    for column in ("CRIM", "RM", "MEDV"):
        assert column in said["error"]
    assert told(release)["pantry_workers"] == 5
    wait_until(lambda: 0.5 < told(release).get("pantry_model_copies", 0) < 2, "five workers to share one copy", 60)

    author.build("boston", "2", "--version", "2")
    pods = release.lives()
    release.install(
        *("--set-string", "models[0].version=2"), *("--set", f"models[0].storageUri=gs://{BUCKET}/models/boston/2")
    )
    release.wait_for("2", "ready")
    assert release.lives() == pods

    def second() -> bool:  # a connection that the Ingress keeps may get one more answer of the first
        return bool(
            json.loads(release.curl("/predict", "--json", json.dumps(row)))["prediction"] != answer["prediction"]
        )

    wait_until(second, "version 2 to answer", 30)
    release.helm("uninstall", release.name)


def told(release: Release) -> dict[str, float]:
    """What /metrics says of the release's first pod, by name."""
    page = requests.get(f"http://{release.pods()[0]['status']['podIP']}:8081/metrics", timeout=10).text
    return {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}


def test_mnist_loads_nothing_that_its_author_did_not_sign(namespace: Namespace, author: Author, tmp_path: Path) -> None:
    """A file in a form gives its digit, with a token; unsigned and altered versions fail, and the first goes on."""
    write_keys(tmp_path, "author")
    author.build("mnist", "1", key=tmp_path / "author.pem")
    author.build("mnist", "unsigned")
    author.build(
        "mnist", "altered", "--version", "2", key=tmp_path / "author.pem"
    )  # files that version 1 has are not fetched
    author.damage("models/mnist/altered/model.pkl.gz")
    namespace.kubectl("create", "secret", "generic", "mnist-access", f"--from-literal=tokens={TOKEN}")
    release = Release(namespace, "mnist", tmp_path)
    release.behind_traefik()
    key = ("--set-file", f"sync.publicKeys[0]={tmp_path / 'author-public.pem'}")
    release.install(*key)
    image = ("--form", f"file=@{ROOT / 'examples/mnist/7.png'}")
    allowed = ("--header", f"Authorization: Bearer {TOKEN}")
    assert json.loads(release.curl("/predict", *image, *allowed)) == {"digit": 7}
    assert release.refusal("/predict", *image)[0] == 401
    for version, reason in (("unsigned", "has no model.sig"), ("altered", "model.pkl.gz")):
        release.install(
            *key, *("--set-string", f"models[0].version={version}"),
            *("--set", f"models[0].storageUri=gs://{BUCKET}/models/mnist/{version}"),
        )  # fmt: skip
        job = release.wait_for_job("Failed")
        assert reason in release.job_log(job)[-1]["message"]
        assert json.loads(release.curl("/predict", *image, *allowed)) == {"digit": 7}
    release.helm("uninstall", release.name)


def test_skipthoughts_computes_in_the_highmem_pool_what_numpy_does(
    namespace: Namespace, author: Author, tmp_path: Path
) -> None:
    """Compiled Theano functions behind a reserved address and an uploaded certificate answer the reference to 1e-5."""
    if not run("kubectl", "get", "configmap", "--namespace", "gce", "addresses", "--ignore-not-found"):
        pytest.skip("this cluster has neither Google's Ingress controller nor a stand-in for it")
    author.build("skipthoughts", "1")
    gke = {"staticIpName": "third-ip"}
    release = Release(
        namespace, "skipthoughts", tmp_path, storage={"storageClassName": "zonal-rwo", "size": "4Gi"}, gke=gke,
        server={"workers": 2}, resources={"limits": {"memory": "4Gi"}},
    )  # fmt: skip
    release.certificate = namespace.tls_secret("skipthoughts-cert", release.host, namespace="gce")
    release.install()
    reserved = run(
        "kubectl", "get", "configmap", "--namespace", "gce", "addresses", "--output", "jsonpath={.data.third-ip}"
    )
    assert release.address() == reserved
    assert json.loads(release.curl("/healthz")) == {"code": "200", "message": "Ok"}
    answer = json.loads(release.curl("/predict", "--json", json.dumps({"sentences": SENTENCES})))
    got = np.array(answer["vectors"])
    assert got.shape == (len(SENTENCES), 4800)
    np.testing.assert_allclose(got, reference(SENTENCES), rtol=0, atol=1e-5)
    node = json.loads(run("kubectl", "get", "node", release.server_pod()["spec"]["nodeName"], "--output", "json"))
    assert node["metadata"]["labels"]["cloud.google.com/gke-nodepool"] == "highmem"
    release.helm("uninstall", release.name)
    run("kubectl", "--namespace", "gce", "delete", "secret", "skipthoughts-cert")
