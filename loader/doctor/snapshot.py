"""Snapshot: all that the rules judge by, taken once. Objects stay as the API server gives them: parsed JSON.

A kind that is not in `objects` is one that the cluster does not have, or that could not be read: rules are silent then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from loader.status import Server

Object = dict[str, Any]

NAME, INSTANCE, COMPONENT = (f"app.kubernetes.io/{label}" for label in ("name", "instance", "component"))
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
# Longer than controllers pause between two tries; older events may be of what is put right.
RECENT = timedelta(minutes=20)


@dataclass(frozen=True)
class Inside:
    """What a server's pod says when it is asked from inside.

    Attributes:
        server: its own status, or None where it could not be asked.
        answers: the HTTP status by (port, path) of what a load balancer's health check asks; 0 where nobody answers.
    """

    server: Server | None = None
    answers: Mapping[tuple[int, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """What an address answers to this machine.

    Attributes:
        ingress: the name of the Ingress that has the address.
        host: that was asked for, or "" where the Ingress takes every host.
        https: of port 443; "" where a TLS handshake was completed, else what happened instead.
        http: of port 80; "" where it takes connections.
        refused: the ports that say no, which is an answer; a firewall on the way is silent.
        certificate: DER, as served on 443 for the host; empty where there is none.
        resolves: what DNS gives for the host; None where it was not asked, empty where it knows none.
    """

    ingress: str
    host: str
    address: str
    https: str = ""
    http: str = ""
    refused: frozenset[int] = frozenset()
    certificate: bytes = b""
    resolves: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Snapshot:
    """A release's objects, and those around it that it depends on.

    Attributes:
        objects: by kind.
        unread: why something could not be read, by what it is.
        inside: by the name of a server's pod.
        now: when it was taken.
    """

    release: str
    namespace: str
    objects: Mapping[str, Sequence[Object]]
    unread: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, Inside] = field(default_factory=dict)
    probes: Sequence[Probe] = ()
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def own(self, kind: str, component: str | None = None) -> list[Object]:
        """Return the release's objects of a kind, and of a component where one is given."""
        return [
            thing
            for thing in self.objects.get(kind, ())
            if labels(thing).get(NAME) == "pantry"
            and labels(thing).get(INSTANCE) == self.release
            and component in (None, labels(thing).get(COMPONENT))
        ]

    def named(self, kind: str, name: str) -> Object | None:
        """Return an object of the namespace or cluster by its name, whoever it belongs to."""
        return next((thing for thing in self.objects.get(kind, ()) if name_of(thing) == name), None)

    def pods(self, component: str = "server") -> list[Object]:
        """Return the pods of a component that are not on their way out."""
        return [pod for pod in self.own("Pod", component) if "deletionTimestamp" not in pod["metadata"]]

    def warnings(self, thing: Object, *reasons: str) -> Iterator[str]:
        """Yield what recent Warning events say of an object, the latest first, each once."""
        kind, name = thing["kind"], name_of(thing)
        events = [
            event
            for event in self.objects.get("Event", ())
            if event.get("type") == "Warning"
            and (event["involvedObject"].get("kind"), event["involvedObject"].get("name")) == (kind, name)
            and (not reasons or event.get("reason") in reasons)
            and self.now - _last_seen(event) <= RECENT
        ]
        events.sort(key=_last_seen, reverse=True)
        yield from dict.fromkeys(one_line(event.get("message", "")) for event in events)

    def age(self, thing: Object) -> timedelta:
        """Return how long ago an object was made."""
        return self.now - parse_time(thing["metadata"].get("creationTimestamp"), default=self.now)


def _last_seen(event: Object) -> datetime:
    series = (event.get("series") or {}).get("lastObservedTime")
    texts = (series, event.get("lastTimestamp"), event.get("eventTime"), event["metadata"].get("creationTimestamp"))
    return parse_time(next(filter(None, texts), None))


def parse_time(text: str | None, default: datetime = _LONG_AGO) -> datetime:
    """Return a time of Kubernetes, or the default where there is none."""
    return datetime.fromisoformat(text) if text else default


def name_of(thing: Object) -> str:
    """Return an object's name."""
    return str(thing["metadata"]["name"])


def where(thing: Object) -> str:
    """Return an object as KIND/NAME."""
    return f"{thing['kind']}/{name_of(thing)}"


def labels(thing: Object) -> dict[str, str]:
    """Return an object's labels."""
    return thing["metadata"].get("labels") or {}


def annotated(thing: Object) -> dict[str, str]:
    """Return an object's annotations."""
    return thing["metadata"].get("annotations") or {}


def condition(thing: Object, kind: str) -> Object:
    """Return an object's condition of a type, or an empty one."""
    found = (c for c in thing.get("status", {}).get("conditions") or [] if c["type"] == kind)
    return next(found, {})


def is_ready(pod: Object) -> bool:
    """Tell whether a pod gets requests."""
    return condition(pod, "Ready").get("status") == "True"


def one_line(text: str, limit: int = 600) -> str:
    """Return what a cluster says as part of a sentence: on one line, without its full stop, not endless."""
    text = " ".join(text.split())
    return (text if len(text) <= limit else f"{text[: limit - 1]}…").rstrip(".")


def duration(age: timedelta) -> str:
    """Return a time span as people say it."""
    seconds = int(age.total_seconds())
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
