"""A Gateway for tests: of a class that the cluster has, or a Traefik process of ours beside it.

The second wants the environment variable PANTRY_GATEWAY_TRAEFIK, which names the program, and Go, which fetches the
Gateway API's definitions. It reaches pods directly, so the tests have to run on a node.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Namespace, run, wait_until

API = "sigs.k8s.io/gateway-api@v1.4.0"  # the version that the Traefik is built with
CLASS = "pantry-test"


@dataclass(frozen=True)
class Gateway:
    """Where a Gateway answers plain HTTP, and what a route calls it."""

    host: str
    port: int
    parent: dict[str, str]


@contextlib.contextmanager
def gateway(namespace: Namespace) -> Iterator[Gateway]:
    """Make a Gateway in a namespace, for as long as the context lasts."""
    found = run("kubectl", "get", "gatewayclasses", "--output", "name", check=False)
    if found.startswith("gatewayclass"):
        yield made(namespace, found.split()[0].split("/")[1], 80)
        return
    traefik = os.environ.get("PANTRY_GATEWAY_TRAEFIK")
    if not traefik:
        pytest.skip("the cluster has no GatewayClass, and PANTRY_GATEWAY_TRAEFIK names no traefik binary to be one")
    definitions = str(module() / "config" / "crd" / "standard")
    run("kubectl", "apply", "--server-side", "--filename", definitions)
    try:
        run("kubectl", "wait", "--for=condition=Established", "--filename", definitions, "--timeout=60s")
        spec = {"controllerName": "traefik.io/gateway-controller"}
        apply({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "spec": spec}, CLASS)
        with started(traefik) as port:
            yield made(namespace, CLASS, port)
    finally:
        run("kubectl", "delete", "--filename", definitions, "--timeout=60s")


def module() -> Path:
    """Return the directory of the Gateway API's Go module: the one that is there already, or from where Go gets it."""
    cache, source = run("go", "env", "GOMODCACHE", "GOPROXY").split()
    environment = {**os.environ, "GOPROXY": f"file://{cache}/cache/download,{source}"}
    answer = subprocess.run(
        ["go", "mod", "download", "-json", API], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return Path(json.loads(answer.stdout)["Dir"])


@contextlib.contextmanager
def started(traefik: str) -> Iterator[int]:
    """Run a Traefik that acts on Gateways, and yield its port on this machine's loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [
                traefik,
                "--providers.kubernetesgateway",
                "--providers.kubernetesgateway.statusaddress.ip=127.0.0.1",
                f"--entrypoints.requests.address=127.0.0.1:{port}",
                "--global.checknewversion=false",
                "--global.sendanonymoususage=false",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield port
            assert process.poll() is None, "the Gateway's Traefik has ended by itself"
        except AssertionError:
            log.seek(0)
            print(f"\nthe Gateway's log: {log.read()[-2000:]}")
            raise
        finally:
            process.terminate()
            process.wait(30)


def apply(manifest: dict[str, Any], name: str, namespace: str = "") -> None:
    manifest = {**manifest, "metadata": {"name": name}}
    run("kubectl", *(["--namespace", namespace] if namespace else []), "apply", "-f", "-", stdin=json.dumps(manifest))


def made(namespace: Namespace, class_name: str, port: int) -> Gateway:
    """Make a Gateway with one listener, and wait for its address."""
    spec = {
        "gatewayClassName": class_name,
        "listeners": [{"name": "http", "protocol": "HTTP", "port": port}],
    }
    apply({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "spec": spec}, "way-in", namespace.name)

    def address() -> str:
        found = namespace.get("gateway", "way-in").get("status", {}).get("addresses") or [{}]
        return str(found[0].get("value", ""))

    return Gateway(wait_until(address, "the Gateway to have an address", 120), port, {"name": "way-in"})
