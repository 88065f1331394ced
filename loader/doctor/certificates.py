"""Certificates: is there one for every host, of the right kind, and in time?

The certificates that Google's load balancer uses are in the Ingress's annotation ingress.kubernetes.io/ssl-cert, beside
ingress.kubernetes.io/url-map, once it has been synced. A pre-shared name that does not exist fails the sync.

Source: github.com/kubernetes/ingress-gce, pkg/loadbalancers/certificates.go and l7.go (getFrontendAnnotations);
github.com/GoogleCloudPlatform/gke-managed-certs, status of ManagedCertificate.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from loader.doctor.finding import Finding, problem, warning
from loader.doctor.ingress import MANAGED, PRE_SHARED, addresses, hosts, listed
from loader.doctor.snapshot import Object, Snapshot, annotated, duration, name_of, where

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_TLS = "kubernetes.io/tls"
_ENDS_SOON = timedelta(days=14)
_MANAGED_HINTS = {
    "FailedNotVisible": "Point the domain's A record at the Ingress's address; Google asks again by itself",
    "FailedCaaChecking": "Ask who serves the domain's DNS: it does not answer for CAA records",
    "FailedCaaForbidden": "Allow pki.goog in the domain's CAA records, or remove them",
    "FailedRateLimited": "Wait: too many certificates were asked for the domain of late",
}


def findings(world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the certificates that the release's Ingresses name."""
    for ingress in world.own("Ingress"):
        for entry in ingress["spec"].get("tls") or []:
            yield from _secret(world, ingress, entry)
        yield from _pre_shared(world, ingress)
        yield from _managed(world, ingress)


def _secret(world: Snapshot, ingress: Object, entry: Object) -> Iterator[Finding]:
    name = entry.get("secretName", "")
    if "Secret" not in world.objects or not name or f"Secret/{name}" in world.unread:
        return
    place = f"Secret/{name}"
    secret = world.named("Secret", name)
    if secret is None:
        yield problem(
            place,
            f"does not exist, and {where(ingress)} takes its certificate from there",
            f"Make it with `kubectl create secret tls {name} --cert=FILE --key=FILE`, or correct "
            "ingress.tls.secretName; where cert-manager makes it, see `kubectl describe certificate`",
        )
        return
    if secret.get("type") != _TLS:
        yield problem(
            place,
            f"is of the wrong type: expected {_TLS}, got {secret.get('type')}",
            "Delete it and make it again with `kubectl create secret tls`",
        )
    try:
        certificate = _certificate(secret)
    except ValueError as error:  # binascii's is one
        yield problem(
            place,
            f"has no certificate in tls.crt: {error}",
            "Make it again with `kubectl create secret tls`, from PEM files",
        )
        return
    others = listed(ingress, PRE_SHARED) or listed(ingress, MANAGED) or len(ingress["spec"]["tls"]) > 1
    wanted = [] if others else entry.get("hosts") or hosts(ingress)  # another certificate may be the one for a host
    yield from judge(place, certificate, wanted, world.now, "Put a new one into the Secret")


def _pre_shared(world: Snapshot, ingress: Object) -> Iterator[Finding]:
    used = listed(ingress, "ingress.kubernetes.io/ssl-cert")
    synced = "ingress.kubernetes.io/url-map" in annotated(ingress)
    said = [text for text in world.warnings(ingress) if "sslCertificates" in text or "certificate" in text.lower()]
    for name in uploaded(ingress):
        named = [text for text in said if name in text]
        if name in used or not (named or used or synced):
            continue  # it is used, or nothing is known: then port 443 tells, where it can be asked
        yield problem(
            where(ingress),
            f"the load balancer does not have the pre-shared certificate {name!r}: "
            + (
                named[0] if named else f"expected it in ingress.kubernetes.io/ssl-cert, got {', '.join(used) or 'none'}"
            ),
            pre_shared_hint(name),
        )


def uploaded(ingress: Object) -> list[str]:
    """Return the pre-shared certificates of an Ingress but those that Google's controller adds for managed ones."""
    return [name for name in listed(ingress, PRE_SHARED) if not name.startswith("mcrt-")]


def pre_shared_hint(name: str) -> str:
    """Return what to do where an uploaded certificate may be missing."""
    return (
        "Set gke.preSharedCerts to names that `gcloud compute ssl-certificates list --global` shows, or upload it with "
        f"`gcloud compute ssl-certificates create {name} --global --certificate=FILE --private-key=FILE`"
    )


def _managed(world: Snapshot, ingress: Object) -> Iterator[Finding]:
    for name in listed(ingress, MANAGED) if "ManagedCertificate" in world.objects else []:
        managed = world.named("ManagedCertificate", name)
        if managed is None:
            yield problem(
                f"ManagedCertificate/{name}",
                f"does not exist, and {where(ingress)} names it",
                "Set gke.managedCertificate to true and run `helm upgrade`, or correct the name in ingress.annotations",
            )
            continue
        domains = managed["spec"].get("domains") or []
        if any(host not in domains for host in hosts(ingress)):
            yield problem(
                where(managed),
                f"is not for every host: expected {', '.join(hosts(ingress))}, got {', '.join(domains)}",
                "Run `helm upgrade` with ingress.hosts as they are to be",
            )
        yield from _issued(world, ingress, managed)


def _issued(world: Snapshot, ingress: Object, managed: Object) -> Iterator[Finding]:
    status = managed.get("status") or {}
    if status.get("certificateStatus") == "Active" or (not status and _served(world, ingress)):
        return
    each = {one["domain"]: one["status"] for one in status.get("domainStatus") or [] if one["status"] != "Active"}
    hint = next((_MANAGED_HINTS[state] for state in each.values() if state in _MANAGED_HINTS), "")
    address = next(iter(addresses(ingress)), "the Ingress's address")
    yield problem(
        where(managed),
        f"is not Active but {status.get('certificateStatus') or 'without a status'}, {duration(world.age(managed))} "
        "after it was made" + "".join(f"; {domain} is {state}" for domain, state in each.items()),
        hint or f"Wait up to an hour; the DNS of every domain has to point at {address} before Google issues it",
    )


def _served(world: Snapshot, ingress: Object) -> bool:
    """Tell whether every host's certificate has been seen on port 443."""
    seen = [probe for probe in world.probes if probe.ingress == name_of(ingress)]
    return bool(seen) and all(
        not list(judge("", read_der(p.certificate), [p.host], world.now, "")) for p in seen if p.certificate
    )


def judge(place: str, certificate: Certificate, wanted: Iterable[str], now: datetime, hint: str) -> Iterator[Finding]:
    """Yield what is wrong with a certificate: its time, and the hosts that it does not cover."""
    ends = certificate.not_valid_after_utc
    if ends <= now:
        yield problem(place, f"its certificate has expired on {ends:%Y-%m-%d}", hint)
    elif ends - now < _ENDS_SOON:
        yield warning(place, f"its certificate expires in {duration(ends - now)}, on {ends:%Y-%m-%d}", hint)
    if certificate.not_valid_before_utc > now:
        yield problem(
            place, f"its certificate is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", hint
        )
    names = names_in(certificate)
    for host in wanted:
        if host and not any(_covers(name, host) for name in names):
            got = ", ".join(names) or "no name at all"
            yield problem(place, f"its certificate does not cover the host: expected {host}, got {got}", hint)


def is_in_a_secret(world: Snapshot, certificate: Certificate) -> bool:
    """Tell whether a certificate that was served is the one of a Secret, which is judged as such."""
    for secret in world.objects.get("Secret", ()):
        try:
            if _certificate(secret) == certificate:
                return True
        except ValueError:
            continue
    return False


def _certificate(secret: Object) -> Certificate:
    return read_pem(base64.b64decode((secret.get("data") or {}).get("tls.crt", ""), validate=True))


def names_in(certificate: Certificate) -> list[str]:
    """Return the DNS names that a certificate is for."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
    except x509.ExtensionNotFound:
        return []  # clients have long stopped looking at the common name


def _covers(name: str, host: str) -> bool:
    first, _, rest = name.lower().partition(".")
    host = host.lower()
    return name.lower() == host or (first == "*" and bool(rest) and host.partition(".")[2] == rest)


def read_pem(text: bytes) -> Certificate:
    """Read the first certificate of a PEM file.

    Raises:
        ValueError: there is none.
    """
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(text)


def read_der(data: bytes) -> Certificate:
    """Read a certificate as a TLS handshake gives it.

    Raises:
        ValueError: that is none.
    """
    from cryptography.x509 import load_der_x509_certificate

    return load_der_x509_certificate(data)
