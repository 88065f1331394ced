"""The way in through a Gateway: the route, and on GKE what a BackendConfig is to an Ingress."""

from __future__ import annotations

from tests import helm

PARENTS = [{"name": "external-http", "namespace": "infra", "sectionName": "https"}]
GATEWAY = {"gateway": {"enabled": True, "parentRefs": PARENTS, "hosts": ["a.test"], "annotations": {"mine": "too"}}}


def test_a_route_leads_from_ones_own_gateway_to_the_service() -> None:
    """One HTTPRoute for every path, and no Gateway: its address and certificate are the user's."""
    objects = helm.render(helm.minimal(GATEWAY | {"service.port": 8080}))
    route = helm.one(objects, "HTTPRoute")
    assert route["metadata"]["annotations"] == {"mine": "too"}
    assert route["spec"] == {
        "parentRefs": PARENTS,
        "hostnames": ["a.test"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "digits-pantry", "port": 8080}],
            }
        ],
    }
    assert not helm.kinds(objects) & {"Gateway", "Ingress", "HealthCheckPolicy", "GCPBackendPolicy"}
    assert "annotations" not in helm.one(objects, "Service")["metadata"]


def test_a_route_without_hosts_takes_every_host_of_the_gateway() -> None:
    """Then there are no hostnames, and no annotations unless given."""
    route = helm.one(helm.render(helm.minimal({"gateway": {"enabled": True, "parentRefs": PARENTS}})), "HTTPRoute")
    assert "hostnames" not in route["spec"]
    assert "annotations" not in route["metadata"]


def test_gke_has_policies_for_the_service_behind_a_route() -> None:
    """Health check, patience and draining, as with an Ingress; the Service has none of an Ingress's annotations."""
    values = GATEWAY | {"gke.enabled": True, "server.drainSeconds": 60}
    objects = helm.render(helm.minimal(values))
    target = {"group": "", "kind": "Service", "name": "digits-pantry"}
    assert helm.one(objects, "HealthCheckPolicy")["spec"] == {
        "default": {
            "checkIntervalSec": 10,
            "timeoutSec": 5,
            "healthyThreshold": 1,
            "unhealthyThreshold": 3,
            "config": {"type": "HTTP", "httpHealthCheck": {"requestPath": "/healthz"}},
        },
        "targetRef": target,
    }
    assert helm.one(objects, "GCPBackendPolicy")["spec"] == {
        "default": {"timeoutSec": 300, "connectionDraining": {"drainingTimeoutSec": 75}},
        "targetRef": target,
    }
    assert not helm.kinds(objects) & {"BackendConfig", "FrontendConfig", "Ingress"}
    assert "annotations" not in helm.one(objects, "Service")["metadata"]


def test_each_service_of_a_canary_has_its_policies() -> None:
    """The two that the route weighs, and not the one that nobody asks through the Gateway."""
    objects = helm.render(helm.read(helm.CHART / "ci/gateway-canary-values.yaml"))
    for kind in ("HealthCheckPolicy", "GCPBackendPolicy"):
        policies = [o for o in objects if o["kind"] == kind]
        assert {p["spec"]["targetRef"]["name"] for p in policies} == {"digits-pantry-stable", "digits-pantry-canary"}
