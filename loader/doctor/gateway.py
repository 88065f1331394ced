"""HTTPRoutes: has a Gateway taken them?"""

from __future__ import annotations

from collections.abc import Iterator

from loader.doctor.finding import Finding, problem
from loader.doctor.snapshot import Object, Snapshot, duration, one_line, where

_HINTS = {
    "Accepted": "Compare gateway.parentRefs and gateway.hosts with the Gateway's listeners and allowed namespaces",
    "ResolvedRefs": "See that the Service exists in this namespace under the name and port that the route has",
    "Reconciled": "See `kubectl describe httproute`; Google's controller says there what it could not make",
}


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the release's routes."""
    for route in world.own("HTTPRoute"):
        parents = (route.get("status") or {}).get("parents") or []
        answered = {_parent(parent["parentRef"], world.namespace) for parent in parents}
        for ref in route["spec"].get("parentRefs") or []:
            if (gateway := _parent(ref, world.namespace)) not in answered:
                yield problem(
                    where(route),
                    f"no controller took it for the Gateway {gateway}, {duration(world.age(route))} after it was made",
                    "Set gateway.parentRefs to one that `kubectl get gateways --all-namespaces` lists",
                )
        for parent in parents:
            gateway = _parent(parent["parentRef"], world.namespace)
            for found in parent.get("conditions") or []:
                if found["type"] in _HINTS and found.get("status") == "False":
                    said = one_line(f"{found.get('reason', '')}: {found.get('message', '')}")
                    yield problem(
                        where(route),
                        f"{found['type']} is False at the Gateway {gateway}: {said}",
                        _HINTS[found["type"]],
                    )


def _parent(ref: Object, namespace: str) -> str:
    return f"{ref.get('namespace') or namespace}/{ref['name']}"
