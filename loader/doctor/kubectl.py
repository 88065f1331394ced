"""Reads a snapshot through kubectl: whoever may look at the release with it may ask the doctor, and nobody else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec

from loader.doctor.backends import health_check
from loader.doctor.pods import server_runs
from loader.doctor.snapshot import INSTANCE, NAME, Inside, Object, Snapshot, condition, name_of, one_line
from loader.errors import ReleaseUnreadable
from loader.status import Server

_SECONDS = 30
_AT_ONCE = 6
_TRIES = 3  # of a command in a pod whose output was lost
# The release's own, by label: a namespace may have thousands of others'. What has no group is Kubernetes's core.
_OWN = {
    "deployments.apps": "Deployment",
    "pods": "Pod",
    "jobs.batch": "Job",
    "configmaps": "ConfigMap",
    "ingresses.networking.k8s.io": "Ingress",
    "httproutes.gateway.networking.k8s.io": "HTTPRoute",
    "poddisruptionbudgets.policy": "PodDisruptionBudget",
    "horizontalpodautoscalers.autoscaling": "HorizontalPodAutoscaler",
}
# What others may have made and the release depends on.
_AROUND = {
    "services": "Service",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "networkpolicies.networking.k8s.io": "NetworkPolicy",
    "backendconfigs.cloud.google.com": "BackendConfig",
    "frontendconfigs.networking.gke.io": "FrontendConfig",
    "managedcertificates.networking.gke.io": "ManagedCertificate",
    "storageclasses.storage.k8s.io": "StorageClass",
    "ingressclasses.networking.k8s.io": "IngressClass",
    "events": "Event",
}
# Asks a port of the pod itself, and prints the HTTP status. The image has Python and need not have curl.
_ASK = (
    "import http.client, sys\n"
    "c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=5)\n"
    "c.request('GET', sys.argv[2])\n"
    "print(c.getresponse().status)"
)


class _Refused(Exception):
    """What kubectl says where it does not do what it is asked."""


def read(release: str, namespace: str | None, context: str | None) -> Snapshot:
    """Read a release, and ask its servers from inside.

    Args:
        release: as Helm calls it.
        namespace: the context's own where it is None.
        context: of the kubeconfig; the current one where it is None.

    Raises:
        ReleaseUnreadable: there is no kubectl, no access, or no such release.
    """
    kubectl = _Kubectl(namespace, context)
    try:
        exist = set(kubectl.run("api-resources", "--output", "name", "--verbs", "list").split())
        selector = ("--selector", f"{NAME}=pantry,{INSTANCE}={release}")
        first = kubectl.get("deployments.apps", *selector)
    except _Refused as error:
        raise ReleaseUnreadable(
            f"kubectl cannot read release {release}: {error}",
            hint="Check the kubeconfig's context and your rights: `kubectl auth can-i list deployments`",
        ) from error
    asked = dict.fromkeys(_OWN, selector) | dict.fromkeys(_AROUND, ())
    objects, unread = kubectl.get_all({name: how for name, how in asked.items() if name in exist})
    world = Snapshot(
        release, _namespace(first, namespace), {(_OWN | _AROUND)[name]: o for name, o in objects.items()}, unread
    )
    if not any(world.own(kind) for kind in _OWN.values()):
        place = f"namespace {namespace}" if namespace else "the context's namespace"
        raise ReleaseUnreadable(
            f"there is no release {release} of Pantry in {place}", hint="`helm list --all-namespaces` shows where it is"
        )
    return _with_inside(kubectl, _with_more(kubectl, world))


def _with_more(kubectl: _Kubectl, world: Snapshot) -> Snapshot:
    """Read what only some releases need: the Secrets that an Ingress names, and nodes where a pod finds none."""
    objects, unread = dict(world.objects), dict(world.unread)
    names = {entry.get("secretName") for ingress in world.own("Ingress") for entry in ingress["spec"].get("tls") or []}
    secrets: list[Object] = []
    for name in sorted(filter(None, names)):
        try:
            found = kubectl.get("secret", name, "--ignore-not-found")
        except _Refused as error:
            unread[f"Secret/{name}"] = str(error)
        else:
            secrets += map(_without_key, found)
    objects["Secret"] = secrets
    if any(condition(pod, "PodScheduled").get("status") == "False" for pod in world.own("Pod")):
        try:
            objects["Node"] = kubectl.get("nodes")
        except _Refused as error:
            unread["nodes"] = str(error)
    return replace(world, objects=objects, unread=unread)


def _with_inside(kubectl: _Kubectl, world: Snapshot) -> Snapshot:
    """Ask each server that runs for its status, and for what the load balancer's health check would get."""
    unread, inside = dict(world.unread), {}
    for pod in world.pods():
        if not server_runs(pod):
            continue
        said, why = kubectl.execute(pod, "pantry", "status", "--json", f"http://127.0.0.1:{_admin_port(pod)}")
        try:
            server = msgspec.json.decode(said, type=Server)
        except msgspec.DecodeError:
            unread[f"the status of Pod/{name_of(pod)}"] = why or one_line(said, 100)
            continue
        answers = {}
        if check := health_check(world, pod):
            said, _ = kubectl.execute(pod, "python3", "-c", _ASK, str(check[0]), check[1])
            answers[check] = int(said) if said.strip().isdigit() else 0
        inside[name_of(pod)] = Inside(server, answers)
    return replace(world, unread=unread, inside=inside)


class _Kubectl:
    def __init__(self, namespace: str | None, context: str | None) -> None:
        self._base = ["kubectl", f"--request-timeout={_SECONDS}s"]
        self._base += ["--namespace", namespace] if namespace else []
        self._base += ["--context", context] if context else []

    def output(self, *arguments: str) -> tuple[str, str]:
        """Run kubectl, and return what it prints, and what it complains about in one line.

        Raises:
            ReleaseUnreadable: there is no kubectl.
        """
        try:
            done = subprocess.run(
                [*self._base, *arguments],
                capture_output=True,
                text=True,
                timeout=2 * _SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError as error:
            raise ReleaseUnreadable(
                "there is no kubectl on the PATH", hint="Install it: https://kubernetes.io/docs/tasks/tools/"
            ) from error
        except subprocess.TimeoutExpired:
            return "", f"no answer within {2 * _SECONDS} s"
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        complaint = lines[-1] if lines else f"exit status {done.returncode}"
        return done.stdout, "" if done.returncode == 0 else one_line(complaint.removeprefix("error: "))

    def execute(self, pod: Object, *command: str) -> tuple[str, str]:
        """Run a command that prints something in a server's container, and return what `output` does.

        By WebSocket, its default, kubectl loses now and then what a quick command prints and still exits 0: silence
        is asked again.
        """
        for _ in range(_TRIES):
            said, why = self.output("exec", name_of(pod), "--container", "server", "--", *command)
            if said or why:
                return said, why
        return "", f"kubectl exec printed nothing, {_TRIES} times"

    def run(self, *arguments: str) -> str:
        """Run kubectl and return what it prints; a complaint beside it, as of one API that is away, is no matter."""
        said, why = self.output(*arguments)
        if not said and why:
            raise _Refused(why)
        return said

    def get(self, *arguments: str) -> list[Object]:
        """Return what `kubectl get` finds."""
        said, why = self.output("get", *arguments, "--output", "json")
        if why:
            raise _Refused(why)
        found: Object = msgspec.json.decode(said) if said.strip() else {"items": []}
        return list(found["items"]) if "items" in found else [found]

    def get_all(self, asked: dict[str, tuple[str, ...]]) -> tuple[dict[str, list[Object]], dict[str, str]]:
        """Return what there is of several kinds, and why some could not be read."""
        objects, unread = {}, {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            results = {name: pool.submit(self.get, name, *how) for name, how in asked.items()}
        for name, result in results.items():
            try:
                objects[name] = result.result()
            except _Refused as error:
                unread[name.partition(".")[0]] = str(error)
        return objects, unread


def _namespace(found: Iterable[Object], given: str | None) -> str:
    return next((thing["metadata"]["namespace"] for thing in found), given or "default")


def _without_key(secret: Object) -> Object:
    """Return a Secret with its certificate alone: nothing here has any business with the key."""
    data = {key: value for key, value in (secret.get("data") or {}).items() if key == "tls.crt"}
    return {**secret, "data": data}


def _admin_port(pod: Object) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or []]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == "admin"), 8081)
