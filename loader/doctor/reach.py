"""What the Ingress's address answers from this machine: ports, the certificate, and where DNS leads."""

from __future__ import annotations

from collections.abc import Iterator

from loader.doctor.certificates import is_in_a_secret, judge, pre_shared_hint, read_der, uploaded
from loader.doctor.finding import Finding, problem, warning
from loader.doctor.ingress import http_open, is_google, wants_tls
from loader.doctor.snapshot import Object, Probe, Snapshot, where

HTTPS, HTTP = 443, 80


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with what the probes got."""
    for probe in world.probes:
        ingress = world.named("Ingress", probe.ingress)
        if ingress is None:
            continue
        if wants_tls(ingress):
            yield from _https(world, ingress, probe)
        elif probe.http:
            yield _closed(probe, HTTP, probe.http, "Its controller's log says more")
        if probe.resolves is not None and probe.address not in probe.resolves:
            yield _dns(probe)


def _https(world: Snapshot, ingress: Object, probe: Probe) -> Iterator[Finding]:
    names = uploaded(ingress)
    if probe.https:
        because = ""
        if HTTPS in probe.refused and is_google(ingress) and names:
            because = f"; the load balancer opens it only with a certificate, and it is to use {', '.join(names)}"
        hint = pre_shared_hint(names[0]) if names else "See what is said of the certificate, and the controller's log"
        yield _closed(probe, HTTPS, probe.https + because, hint)
    if probe.certificate:
        try:
            certificate = read_der(probe.certificate)
        except ValueError as error:
            yield problem(
                f"https://{probe.host or probe.address}",
                f"serves no certificate that can be read: {error}",
                "Replace it",
            )
            return
        hint = "Give the Ingress one for the host: gke.preSharedCerts, gke.managedCertificate or ingress.tls.secretName"
        if not is_in_a_secret(world, certificate):
            yield from judge(f"{where(ingress)} at {probe.address}:{HTTPS}", certificate, [probe.host], world.now, hint)
    if is_google(ingress) and http_open(ingress) and HTTP in probe.refused and not probe.https:
        yield warning(
            f"{probe.address}:{HTTP}",
            f"plain HTTP is refused, although {where(ingress)} allows it",
            "Wait some minutes if it was changed just now; to close it on purpose, set gke.redirectToHttps to false",
        )


def _closed(probe: Probe, port: int, got: str, hint: str) -> Finding:
    """Say that a port does not answer: for certain where it refuses, perhaps where it is silent."""
    place = f"{probe.address}:{port}"
    if port in probe.refused or not got.startswith("timed out"):
        return problem(place, f"expected an answer for {probe.host or 'every host'}, got {got}", hint)
    return warning(
        place,
        f"no answer from here: {got}",
        "Ask from another network: a firewall may stand between; --no-probe leaves this out",
    )


def _dns(probe: Probe) -> Finding:
    leads = f"leads to {', '.join(probe.resolves)}" if probe.resolves else "is not known to DNS here"
    return warning(
        probe.host,
        f"{leads}: expected the Ingress's address {probe.address}",
        f"Give it an A record with {probe.address}",
    )
