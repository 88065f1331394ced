"""Service, Ingress, Google's load balancer, network policies and `helm test`."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests import helm

TLS = {"ingress.enabled": True, "ingress.hosts": ["a.test", "b.test"]}
OTHER = TLS | {"ingress.className": "traefik", "ingress.tls.secretName": "cert"}
GKE = TLS | {"gke": {"enabled": True, "staticIpName": "pantry-ip", "preSharedCerts": ["old", "new"]}}


def backend(name: str = "digits-pantry") -> helm.Object:
    return {"service": {"name": name, "port": {"name": "http"}}}


def test_the_service_is_a_node_port_with_nothing_of_google_on_it() -> None:
    """By default any cluster takes it, and GKE's load balancer with or without endpoint groups."""
    service = helm.one(helm.render(helm.minimal()), "Service")
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    assert "annotations" not in service["metadata"]


def test_no_ingress_unless_asked() -> None:
    """The default release is reached inside the cluster only."""
    kinds = {thing["kind"] for thing in helm.render(helm.minimal())}
    assert not kinds & {"Ingress", "BackendConfig"}


def test_an_ingress_of_any_class_serves_tls_from_a_secret() -> None:
    """Class by spec.ingressClassName, each host routed, nothing of Google's, and no claim to other hosts' traffic."""
    ingress = helm.one(helm.render(helm.minimal(OTHER)), "Ingress")
    assert ingress["spec"]["ingressClassName"] == "traefik"
    assert ingress["spec"]["tls"] == [{"secretName": "cert", "hosts": ["a.test", "b.test"]}]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ["a.test", "b.test"]
    for rule in ingress["spec"]["rules"]:
        assert rule["http"]["paths"] == [{"path": "/", "pathType": "Prefix", "backend": backend()}]
    assert "defaultBackend" not in ingress["spec"]
    assert "annotations" not in ingress["metadata"]


def test_an_ingress_without_hosts_takes_every_host() -> None:
    """Then the Service is its default backend, as an Ingress needs a rule or one."""
    ingress = helm.one(helm.render(helm.minimal(OTHER | {"ingress.hosts": []})), "Ingress")
    assert ingress["spec"]["defaultBackend"] == backend()
    assert ingress["spec"]["tls"] == [{"secretName": "cert"}]
    assert "rules" not in ingress["spec"]


def test_plain_http_has_to_be_asked_for() -> None:
    """With ingress.tls.enabled: false there is no TLS, and GKE leaves port 80 open."""
    ingress = helm.one(helm.render(helm.minimal({"ingress": {"enabled": True, "tls": {"enabled": False}}})), "Ingress")
    assert "tls" not in ingress["spec"]
    on_gke = helm.minimal({"ingress": {"enabled": True, "tls": {"enabled": False}}, "gke.enabled": True})
    annotations = helm.one(helm.render(on_gke), "Ingress")["metadata"]["annotations"]
    assert annotations == {"kubernetes.io/ingress.class": "gce"}


def test_gke_goes_by_annotations() -> None:
    """Class, address and certificates by annotation, no spec.ingressClassName, no HTTP, a default backend."""
    ingress = helm.one(helm.render(helm.minimal(GKE | {"ingress.annotations": {"mine": "too"}})), "Ingress")
    assert ingress["metadata"]["annotations"] == {
        "mine": "too",
        "kubernetes.io/ingress.class": "gce",
        "kubernetes.io/ingress.global-static-ip-name": "pantry-ip",
        "ingress.gcp.kubernetes.io/pre-shared-cert": "old,new",
        "kubernetes.io/ingress.allow-http": "false",
    }
    assert "ingressClassName" not in ingress["spec"]
    assert ingress["spec"]["defaultBackend"] == backend()


@pytest.mark.parametrize("neg", [True, False])
def test_gke_service_names_its_backend_config(neg: bool) -> None:
    """BackendConfig always; network endpoint groups as told."""
    objects = helm.render(helm.minimal(GKE | {"gke.neg": neg}))
    annotations = helm.one(objects, "Service")["metadata"]["annotations"]
    name = helm.one(objects, "BackendConfig")["metadata"]["name"]
    assert json.loads(annotations["cloud.google.com/backend-config"]) == {"default": name}
    assert ("cloud.google.com/neg" in annotations) is neg
    if neg:
        assert json.loads(annotations["cloud.google.com/neg"]) == {"ingress": True}


def test_backend_config_is_explicit_and_can_be_extended() -> None:
    """The health check asks /healthz on the serving port, and one's own settings are merged in."""
    spec = helm.one(helm.render(helm.minimal(GKE)), "BackendConfig")["spec"]
    assert spec["healthCheck"] == {
        "type": "HTTP",
        "requestPath": "/healthz",
        "checkIntervalSec": 10,
        "timeoutSec": 5,
        "healthyThreshold": 1,
        "unhealthyThreshold": 3,
    }
    assert spec["timeoutSec"] == 300
    more = {"gke.backendConfig": {"healthCheck": {"checkIntervalSec": 30}, "securityPolicy": {"name": "armor"}}}
    merged = helm.one(helm.render(helm.minimal(GKE | more)), "BackendConfig")["spec"]
    assert merged["healthCheck"] == spec["healthCheck"] | {"checkIntervalSec": 30}
    assert merged["securityPolicy"] == {"name": "armor"}


def policies(changes: helm.Values | None = None) -> tuple[helm.Object, helm.Object]:
    objects = helm.render(helm.minimal(changes))
    return helm.one(objects, "NetworkPolicy", "server")["spec"], helm.one(objects, "NetworkPolicy", "sync")["spec"]


def test_nothing_leaves_the_server() -> None:
    """Everyone may call the serving port, the own namespace the admin port; no connection goes out."""
    server, _ = policies()
    assert server["policyTypes"] == ["Ingress", "Egress"]
    assert server["egress"] == []
    assert server["ingress"] == [
        {"ports": [{"port": "http", "protocol": "TCP"}]},
        {"ports": [{"port": "admin", "protocol": "TCP"}], "from": [{"podSelector": {}}]},
    ]


def test_the_sync_reaches_names_and_the_bucket_only() -> None:
    """Nobody calls it; it calls DNS, Google's storage and the metadata server, and nothing private."""
    _, sync = policies()
    assert sync["ingress"] == []
    dns, storage, metadata = sync["egress"]
    assert {(p["port"], p["protocol"]) for p in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert storage["ports"] == [{"port": 443, "protocol": "TCP"}]
    (block,) = storage["to"]
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"}
    assert set(block["ipBlock"]["except"]) == private
    assert {p["port"] for p in metadata["ports"]} == {80, 987, 988}
    assert {peer["ipBlock"]["cidr"] for peer in metadata["to"]} == {"169.254.169.254/32", "169.254.169.252/32"}


def test_network_rules_can_be_replaced() -> None:
    """One's own bucket and DNS replace the defaults, and `helm test` gets in where callers are listed."""
    bucket = {"ports": [{"port": 4443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}]}
    caller = {"namespaceSelector": {"matchLabels": {"a": "b"}}}
    server, sync = policies(
        {
            "networkPolicy.server": {"from": [caller], "metricsFrom": [caller]},
            "networkPolicy.sync": {"dns": [], "egress": [bucket]},
        }
    )
    assert sync["egress"] == [bucket]
    test = helm.one(helm.render(helm.minimal()), "Pod")["metadata"]["labels"]
    listed, tester = server["ingress"][0]["from"]
    assert listed == caller
    assert tester["podSelector"]["matchLabels"].items() <= test.items()
    assert server["ingress"][1]["from"] == [{"podSelector": {}}, caller]


def test_policies_select_the_pods_they_are_for() -> None:
    """One policy for the server's pod, one for the sync's, none for the test's; off means none at all."""
    objects = helm.render(helm.minimal())
    for pod in helm.pods(objects):
        labels = pod["metadata"]["labels"]
        chosen = [
            helm.component(thing)
            for thing in objects
            if thing["kind"] == "NetworkPolicy"
            and thing["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        ]
        name = labels["app.kubernetes.io/component"]
        assert chosen == ([] if name == "test" else [name])
    off = helm.render(helm.minimal({"networkPolicy.enabled": False}))
    assert not [thing for thing in off if thing["kind"] == "NetworkPolicy"]


Answers = dict[str, tuple[int, object]]


@pytest.fixture
def answers() -> Iterator[tuple[str, Answers]]:
    """An HTTP server on loopback that gives the answers put into a mapping, and its URL."""
    given: Answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = given.get(self.path, (404, "no such path"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so it is called
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", given
        server.shutdown()
        thread.join()


def helm_test(url: str) -> subprocess.CompletedProcess[str]:
    """Runs the test pod's own script with its own arguments, without its patience, against a URL."""
    values = helm.minimal({"models": [model("digits", 2), model("faces", "a.b")], "service.port": 8000})
    pod = helm.one(helm.render(values), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    script, service, *models = helm.container(pod)["args"]
    assert service == "http://digits-pantry.models.svc:8000"
    script = script.replace("PATIENCE_SECONDS = 120", "PATIENCE_SECONDS = -1")
    assert helm.container(pod)["command"] == ["python3", "-c"]
    command = [sys.executable, "-c", script, url, *models]
    return subprocess.run(command, text=True, capture_output=True, timeout=30, check=False)


def model(name: str, version: object) -> helm.Object:
    return {"name": name, "version": version, "storageUri": f"gs://bucket/{name}"}


READY: Answers = {
    "/healthz": (200, "ok"),
    "/v2/models/digits": (200, {"name": "digits", "versions": ["2"]}),
    "/v2/models/faces": (200, {"name": "faces", "versions": ["a.b"]}),
}


def test_helm_test_passes_when_the_wanted_versions_are_served(answers: tuple[str, Answers]) -> None:
    """It asks for health and for each model's versions."""
    url, given = answers
    given.update(READY)
    done = helm_test(url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "served: digits=2 faces=a.b\n", "")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"/healthz": (503, "loading")}, '/healthz: 503 "loading"'),
        ({"/v2/models/digits": (200, {"versions": ["1"]})}, "digits: version 2 is wanted, 1 is served"),
        ({"/v2/models/faces": (404, "unknown model")}, 'faces: 404 "unknown model"'),
        ({"/v2/models/faces": (200, [])}, "faces: the answer names no versions: []"),
    ],
)
def test_helm_test_fails_with_a_sentence(answers: tuple[str, Answers], answer: Answers, sentence: str) -> None:
    """What is not served is named, with what was found instead, and there is no traceback."""
    url, given = answers
    given.update(READY | answer)
    done = helm_test(url)
    assert (done.returncode, done.stderr) == (1, "")
    assert "not served: " in done.stdout
    assert sentence in done.stdout


def test_helm_test_says_when_nobody_answers() -> None:
    """A Service without a pod is a sentence, too."""
    done = helm_test("http://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (1, "")
    assert "not served: http://127.0.0.1:9/healthz: 0" in done.stdout
