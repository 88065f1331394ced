"""Probes: asks the Ingress's addresses from this machine, with short timeouts, and sends no more than a handshake."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

from loader.doctor.ingress import addresses, hosts, wants_tls
from loader.doctor.reach import HTTP, HTTPS
from loader.doctor.snapshot import Probe, Snapshot, name_of

_SECONDS = 3.0


def probes(world: Snapshot) -> Iterator[Probe]:
    """Ask every address of the release's Ingresses for every host; a wildcard stands for no one host."""
    for ingress in world.own("Ingress"):
        for address in addresses(ingress):
            for host in [host for host in hosts(ingress) if "*" not in host] or [""]:
                yield _probe(name_of(ingress), host, address, tls=wants_tls(ingress))


def _probe(ingress: str, host: str, address: str, *, tls: bool) -> Probe:
    http, no_http = _connect(address, HTTP)
    https, no_https, certificate = "", False, b""
    if tls:
        https, no_https, certificate = _handshake(address, host)
    refused = frozenset(port for port, no in ((HTTP, no_http), (HTTPS, no_https)) if no)
    return Probe(ingress, host, address, https, http, refused, certificate, _resolve(host) if host else None)


def _connect(address: str, port: int) -> tuple[str, bool]:
    """Return what happens instead of a connection, or "", and whether it is refused."""
    try:
        with socket.create_connection((address, port), _SECONDS):
            return "", False
    except OSError as error:
        return _instead(error), isinstance(error, ConnectionRefusedError)


def _handshake(address: str, host: str) -> tuple[str, bool, bytes]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is looked at here, whoever signed it
    try:
        with (
            socket.create_connection((address, HTTPS), _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host or None) as secure,
        ):
            return "", False, secure.getpeercert(binary_form=True) or b""
    except OSError as error:
        return _instead(error), isinstance(error, ConnectionRefusedError), b""


def _instead(error: OSError) -> str:
    match error:
        case ConnectionRefusedError():
            return "connection refused"
        case TimeoutError():
            return f"timed out after {_SECONDS:.0f} s"
        case ssl.SSLError():
            return f"no TLS: {error.reason or error}"
        case _:
            return str(error.strerror or error)


def _resolve(host: str) -> tuple[str, ...]:
    """Return what DNS gives for a host, none where it gives nothing in time: the resolver has no timeout of its own."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(OSError):
            found.extend(str(answer[4][0]) for answer in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return tuple(dict.fromkeys(found))
