"""Service, Ingress, Google's load balancer and network policies. (A Gateway: test_chart_gateway.py.)"""

from __future__ import annotations

import json

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
    """With ingress.tls.enabled: false there is no TLS, and GKE leaves port 80 open and redirects nobody."""
    ingress = helm.one(helm.render(helm.minimal({"ingress": {"enabled": True, "tls": {"enabled": False}}})), "Ingress")
    assert "tls" not in ingress["spec"]
    on_gke = helm.render(helm.minimal({"ingress": {"enabled": True, "tls": {"enabled": False}}, "gke.enabled": True}))
    assert helm.one(on_gke, "Ingress")["metadata"]["annotations"] == {"kubernetes.io/ingress.class": "gce"}
    assert "FrontendConfig" not in helm.kinds(on_gke)


def test_cert_manager_makes_the_secret() -> None:
    """An issuer by annotation, and a Secret of the release's own name unless one is given."""
    issued = TLS | {"ingress.tls.clusterIssuer": "letsencrypt", "ingress.annotations": {"mine": "too"}}
    ingress = helm.one(helm.render(helm.minimal(issued)), "Ingress")
    assert ingress["metadata"]["annotations"] == {"mine": "too", "cert-manager.io/cluster-issuer": "letsencrypt"}
    assert ingress["spec"]["tls"] == [{"secretName": "digits-pantry-tls", "hosts": ["a.test", "b.test"]}]
    ingress = helm.one(helm.render(helm.minimal(issued | {"ingress.tls.secretName": "mine"})), "Ingress")
    assert ingress["spec"]["tls"][0]["secretName"] == "mine"


def test_gke_goes_by_annotations() -> None:
    """Class, address, certificates and redirect by annotation, no spec.ingressClassName, a default backend."""
    objects = helm.render(helm.minimal(GKE | {"ingress.annotations": {"mine": "too"}}))
    ingress = helm.one(objects, "Ingress")
    assert ingress["metadata"]["annotations"] == {
        "mine": "too",
        "kubernetes.io/ingress.class": "gce",
        "kubernetes.io/ingress.global-static-ip-name": "pantry-ip",
        "ingress.gcp.kubernetes.io/pre-shared-cert": "old,new",
        "networking.gke.io/v1beta1.FrontendConfig": "digits-pantry",
    }
    assert "ingressClassName" not in ingress["spec"]
    assert ingress["spec"]["defaultBackend"] == backend()
    assert helm.one(objects, "FrontendConfig")["spec"] == {
        "redirectToHttps": {"enabled": True, "responseCodeName": "PERMANENT_REDIRECT"}
    }


def test_gke_closes_port_80_where_it_does_not_redirect() -> None:
    """gke.redirectToHttps: false; a policy for TLS wants its FrontendConfig all the same."""
    closed = helm.changed(GKE, {"gke.redirectToHttps": False})
    objects = helm.render(helm.minimal(closed))
    annotations = helm.one(objects, "Ingress")["metadata"]["annotations"]
    assert annotations["kubernetes.io/ingress.allow-http"] == "false"
    assert "networking.gke.io/v1beta1.FrontendConfig" not in annotations
    assert "FrontendConfig" not in helm.kinds(objects)
    objects = helm.render(helm.minimal(helm.changed(closed, {"gke.sslPolicy": "modern"})))
    assert helm.one(objects, "FrontendConfig")["spec"] == {"sslPolicy": "modern"}
    assert helm.one(objects, "Ingress")["metadata"]["annotations"]["kubernetes.io/ingress.allow-http"] == "false"


def test_google_can_issue_the_certificate() -> None:
    """A ManagedCertificate for the hosts, named by the Ingress, beside uploaded certificates where there are some."""
    objects = helm.render(helm.minimal(helm.changed(GKE, {"gke.managedCertificate": True})))
    assert helm.one(objects, "ManagedCertificate")["spec"] == {"domains": ["a.test", "b.test"]}
    annotations = helm.one(objects, "Ingress")["metadata"]["annotations"]
    assert annotations["networking.gke.io/managed-certificates"] == "digits-pantry"
    assert annotations["ingress.gcp.kubernetes.io/pre-shared-cert"] == "old,new"
    assert "tls" not in helm.one(objects, "Ingress")["spec"]


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
    slow = GKE | {"server": {"predictSeconds": 500, "requestSeconds": 60}}
    assert helm.one(helm.render(helm.minimal(slow)), "BackendConfig")["spec"]["timeoutSec"] == 560
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
