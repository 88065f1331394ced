"""Rules of every rendered pod: Pod Security `restricted`, and what kube-linter checks unless told otherwise.

kube-linter comes as a binary of its own, which not every machine has; where it is on PATH, test_chart_security.py runs
it as well. Its checks are named here as it names them (its docs/generated/checks.md), and heed its annotation
`ignore-check.kube-linter.io/CHECK`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tests import helm
from tests.helm import Object

Rule = Callable[[list[Object]], Iterator[tuple[Object, str]]]

LINTER: dict[str, Rule] = {}  # by the name of the check

POD_KINDS = ("Deployment", "Job", "Pod")
HOST_NAMESPACES = ("hostNetwork", "hostPID", "hostIPC")
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
VOLUMES_SINCE = {"image": "1.33"}  # Pod Security takes them from this version on
PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")


def check(name: str) -> Callable[[Rule], Rule]:
    """Enters a rule under the name of kube-linter's check."""

    def enter(rule: Rule) -> Rule:
        LINTER[name] = rule
        return rule

    return enter


def lint(objects: list[Object]) -> list[str]:
    """What kube-linter would find, each as "CHECK: KIND/NAME: what is wrong"."""
    return [
        f"{name}: {'/'.join(helm.key(thing))}: {wrong}"
        for name, rule in LINTER.items()
        for thing, wrong in rule(objects)
        if f"ignore-check.kube-linter.io/{name}" not in (thing["metadata"].get("annotations") or {})
    ]


def pod_of(thing: Object) -> Object:
    """The pod of an object that has one."""
    return next(helm.pods([thing]))


def with_pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each object that makes pods, with its pod's spec."""
    for thing in objects:
        if thing["kind"] in POD_KINDS:
            yield thing, pod_of(thing)["spec"]


def with_containers(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each object that makes pods, with each of its containers."""
    for thing, _ in with_pods(objects):
        for container in helm.containers(pod_of(thing)):
            yield thing, container


def selects(selector: Object, pod: Object) -> bool:
    """Whether labels that are to match are a pod's."""
    return bool(selector) and selector.items() <= pod["metadata"]["labels"].items()


def each_container(name: str, wrong: Callable[[Object], object]) -> None:
    """A check that finds what a function of a container returns, where that is anything."""

    @check(name)
    def rule(objects: list[Object]) -> Iterator[tuple[Object, str]]:
        for thing, container in with_containers(objects):
            if found := wrong(container):
                yield thing, f"container {container['name']}: {found}"


def each_pod(name: str, wrong: Callable[[Object], object]) -> None:
    """The same of a pod's spec."""

    @check(name)
    def rule(objects: list[Object]) -> Iterator[tuple[Object, str]]:
        for thing, spec in with_pods(objects):
            if found := wrong(spec):
                yield thing, str(found)


def context(container: Object) -> Object:
    found: Object = container.get("securityContext", {})
    return found


def escalates(container: Object) -> bool:
    added = context(container).get("capabilities", {}).get("add", [])
    asked = context(container).get("privileged") or {"SYS_ADMIN", "CAP_SYS_ADMIN"} & set(added)
    return context(container).get("allowPrivilegeEscalation") is not False or bool(asked)


def ports(container: Object) -> set[object]:
    """Each port of a container, by number and by name."""
    return {p[field] for p in container.get("ports", []) for field in ("name", "containerPort") if field in p}


def probe(kind: str) -> Callable[[Object], object]:
    """Finds a probe whose port the container does not have."""

    def closed(container: Object) -> object:
        handler = container.get(kind, {})
        asked = {handler[how]["port"] for how in ("httpGet", "tcpSocket", "grpc") if how in handler}
        return asked - ports(container)

    return closed


def doubles(names: list[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def secrets(container: Object) -> list[str]:
    return [e["name"] for e in container.get("env", []) if "secret" in e["name"].lower() and e.get("value")]


def host_paths(spec: Object) -> list[Object]:
    return [v["hostPath"] for v in spec.get("volumes", []) if "hostPath" in v]


def root(spec: Object) -> list[str]:
    """The containers that may run as root, by their own word or the pod's."""
    contexts = [(c, spec.get("securityContext", {}) | context(c)) for c in helm.containers({"spec": spec})]
    return [c["name"] for c, own in contexts if own.get("runAsNonRoot") is not True or own.get("runAsUser") == 0]


each_pod("host-ipc", lambda spec: spec.get("hostIPC"))
each_pod("host-network", lambda spec: spec.get("hostNetwork"))
each_pod("host-pid", lambda spec: spec.get("hostPID"))
each_pod("deprecated-service-account-field", lambda spec: spec.get("serviceAccount"))
each_pod("docker-sock", lambda spec: [p for p in host_paths(spec) if "docker.sock" in p["path"]])
each_pod("run-as-non-root", root)
each_pod("sensitive-host-mounts", host_paths)  # kube-linter lets some be; there is no reason for any
each_pod("unsafe-sysctls", lambda spec: spec.get("securityContext", {}).get("sysctls"))

each_container("drop-net-raw-capability", lambda c: "ALL" not in context(c).get("capabilities", {}).get("drop", []))
each_container("duplicate-env-var", lambda c: doubles([e["name"] for e in c.get("env", [])]))
each_container("env-var-secret", secrets)
each_container("latest-tag", lambda c: not re.search(r":(?!latest$)[^/]+$", c["image"]))
each_container("liveness-port", probe("livenessProbe"))
each_container("no-read-only-root-fs", lambda c: context(c).get("readOnlyRootFilesystem") is not True)
each_container("privilege-escalation-container", escalates)
each_container("privileged-container", lambda c: context(c).get("privileged"))
each_container("readiness-port", probe("readinessProbe"))
each_container("ssh-port", lambda c: 22 in ports(c))
each_container("startup-port", probe("startupProbe"))
each_container("unset-cpu-requirements", lambda c: "cpu" not in c.get("resources", {}).get("requests", {}))
each_container("unset-memory-requirements", lambda c: "memory" not in c.get("resources", {}).get("limits", {}))


@check("dangling-service")
def dangling_service(objects: list[Object]) -> Iterator[tuple[Object, str]]:
    """A Service whose selector is no pod's."""
    for thing in objects:
        if thing["kind"] == "Service" and not any(selects(thing["spec"]["selector"], p) for p in helm.pods(objects)):
            yield thing, "selects no pod"


@check("invalid-target-ports")
def invalid_target_ports(objects: list[Object]) -> Iterator[tuple[Object, str]]:
    """A port's name that is none: RFC 6335 wants 15 letters, digits and hyphens at most, one of them a letter."""
    named = [(thing, port) for thing, container in with_containers(objects) for port in ports(container)]
    named += [(o, port["targetPort"]) for o in objects if o["kind"] == "Service" for port in o["spec"]["ports"]]
    for thing, name in named:
        if isinstance(name, str) and not PORT_NAME.fullmatch(name):
            yield thing, f"the port's name {name}"


@check("job-ttl-seconds-after-finished")
def job_ttl(objects: list[Object]) -> Iterator[tuple[Object, str]]:
    """A Job that stays for ever once it has ended."""
    for thing in objects:
        if thing["kind"] == "Job" and "ttlSecondsAfterFinished" not in thing["spec"]:
            yield thing, "stays"


@check("mismatching-selector")
def mismatching_selector(objects: list[Object]) -> Iterator[tuple[Object, str]]:
    """A Deployment that selects other pods than it makes."""
    for thing in objects:
        if thing["kind"] == "Deployment" and not selects(thing["spec"]["selector"]["matchLabels"], pod_of(thing)):
            yield thing, "does not select its own pods"


@check("no-anti-affinity")
def no_anti_affinity(objects: list[Object]) -> Iterator[tuple[Object, str]]:
    """Several pods that nothing keeps apart. (Beyond kube-linter: spreading does, and pods of one disk must stay.)"""
    for thing in objects:
        if thing["kind"] != "Deployment" or thing["spec"].get("replicas", 2) < 2:
            continue
        spec = pod_of(thing)["spec"]
        affinity = spec.get("affinity", {})
        apart = affinity.get("podAntiAffinity", {})
        terms = apart.get("requiredDuringSchedulingIgnoredDuringExecution", []) + [
            preferred["podAffinityTerm"]
            for preferred in apart.get("preferredDuringSchedulingIgnoredDuringExecution", [])
        ]
        of_its_own = any(
            term["topologyKey"] == "kubernetes.io/hostname"
            and selects(term["labelSelector"]["matchLabels"], pod_of(thing))
            for term in terms
        )
        if not (of_its_own or spec.get("topologySpreadConstraints") or "podAffinity" in affinity):
            yield thing, "nothing keeps its pods apart"


@check("no-extensions-v1beta")
def no_extensions_v1beta(objects: list[Object]) -> Iterator[tuple[Object, str]]:
    """An API that Kubernetes has not had for years."""
    for thing in objects:
        if thing["apiVersion"].startswith("extensions/v1beta"):
            yield thing, thing["apiVersion"]


@check("non-existent-service-account")
def non_existent_service_account(objects: list[Object]) -> Iterator[tuple[Object, str]]:
    """A pod whose account is not in the release."""
    for thing, spec in with_pods(objects):
        if ("ServiceAccount", spec["serviceAccountName"]) not in {helm.key(o) for o in objects}:
            yield thing, spec["serviceAccountName"]


def each_budget(name: str, wrong: Callable[[Object], object]) -> None:
    """A check of PodDisruptionBudgets."""

    @check(name)
    def rule(objects: list[Object]) -> Iterator[tuple[Object, str]]:
        for thing in objects:
            if thing["kind"] == "PodDisruptionBudget" and wrong(thing["spec"]):
                yield thing, str(thing["spec"])


each_budget("pdb-max-unavailable", lambda spec: str(spec.get("maxUnavailable")) in {"0", "0%", "None"})
each_budget("pdb-min-available", lambda spec: "minAvailable" in spec)  # wrong as soon as replicas are fewer
each_budget("pdb-unhealthy-pod-eviction-policy", lambda spec: spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow")


def unrestricted(pod: Object, version: str = helm.KUBERNETES[-1]) -> list[str]:
    """What Pod Security `restricted` has against a pod, in a version of Kubernetes (its check_*.go, latest)."""
    spec, of_pod = pod["spec"], pod["spec"].get("securityContext", {})
    allowed = VOLUMES | {kind for kind, since in VOLUMES_SINCE.items() if since <= version}
    wrong = [space for space in HOST_NAMESPACES if spec.get(space)]
    wrong += [f"volume {kind}" for v in spec.get("volumes", []) for kind in v.keys() - allowed - {"name"}]
    wrong += [f"the pod's {field}" for field in ("sysctls", "seLinuxOptions", "windowsOptions") if field in of_pod]
    wrong += [key for key in pod["metadata"].get("annotations", {}) if "apparmor" in key or "seccomp" in key]
    for container in helm.containers(pod):
        own, capabilities = of_pod | context(container), context(container).get("capabilities", {})
        handlers = [container.get(p, {}) for p in ("startupProbe", "livenessProbe", "readinessProbe")]
        handlers += container.get("lifecycle", {}).values()
        rules = {
            "privileged": own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "runAsNonRoot": own.get("runAsNonRoot") is not True,
            "runAsUser": own.get("runAsUser") == 0,
            "seccompProfile": own.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"},
            "capabilities": "ALL" not in capabilities.get("drop", [])
            or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
            "procMount": own.get("procMount", "Default") != "Default",
            "hostPort": any("hostPort" in port for port in container.get("ports", [])),
            "a handler's host": any("host" in how for h in handlers for how in h.values() if isinstance(how, dict)),
        }
        wrong += [f"{container['name']}: {rule}" for rule, broken in rules.items() if broken]
    return wrong
