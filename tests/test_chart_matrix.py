"""Every combination of values is a release that holds together, or is refused with a sentence of ours."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import helm_python
import pytest

from tests import helm
from tests.chart_matrix import Choice, choices, every_pair, pairs, values
from tests.chart_references import broken
from tests.chart_rules import lint, unrestricted
from tests.cluster import Namespace

COMBINATIONS = list(choices())
OURS = re.compile(
    rf"execution error at \(pantry/templates/server/deployment\.yaml:\d+:\d+\): ({'|'.join(helm.refusals())})"
)

# Two choices that contradict one another by themselves; any other two meet in some release.
IMPOSSIBLE = {
    (("gpu", "small"), ("rollout", "swap")),
    (("rollout", "swap"), ("storage", "ephemeral")),
    (("access", "synced"), ("storage", "custom claim")),
    (("access", "synced"), ("storage", "custom csi")),
    *(
        (other, ("storage", disk))
        for disk in ("disk", "disk of theirs")
        for other in (
            ("autoscaling", "cpu"),
            ("autoscaling", "queue"),
            ("gpu", "small"),
            ("replicas", "hundred"),
            ("replicas", "three"),
            ("rollout", "rolling"),
        )
    ),
}


@functools.cache
def rendered(number: int) -> dict[str, str] | str:
    """The texts that a combination renders, or the error that refuses it."""
    choice = COMBINATIONS[number]
    try:
        return helm.texts(values(choice), name=choice["release"])
    except helm_python.HelmRenderError as error:
        return str(error)


@functools.cache
def valid(text: str, version: str) -> None:
    """Validates an object, given as JSON; once, as many releases have it."""
    helm.validate(json.loads(text), version)


def holds_together(objects: list[helm.Object], versions: list[str]) -> None:
    """The objects are valid, restricted and well-behaved, and what they say of each other is true."""
    for thing in objects:
        for version in versions:
            valid(json.dumps(thing, sort_keys=True), version)
    assert lint(objects) == []
    assert broken(objects) == []
    for pod in helm.pods(objects):
        assert unrestricted(pod) == []


def in_words(choice: Choice) -> str:
    """A test's name: what differs from the first choice in each dimension."""
    return ", ".join(chosen for chosen in choice.values() if chosen not in {"off", "none", "one", "any", "digits"})


@pytest.mark.parametrize("number", range(len(COMBINATIONS)), ids=lambda n: f"{n}: {in_words(COMBINATIONS[n])[:80]}")
def test_a_combination_renders_or_is_refused_with_a_sentence(number: int) -> None:
    """Whatever is chosen: the same valid text twice, on every Kubernetes, or a sentence that says what to change."""
    outcome = rendered(number)
    if isinstance(outcome, str):
        assert OURS.fullmatch(outcome)
        return
    choice = COMBINATIONS[number]
    assert helm.texts(values(choice), name=choice["release"]) == outcome
    holds_together(helm.parse(outcome), helm.KUBERNETES)


def test_every_two_choices_meet_in_a_release() -> None:
    """The combinations are no accident: all pairs of choices that do not contradict one another are rendered."""
    together = set().union(*(pairs(c) for n, c in enumerate(COMBINATIONS) if not isinstance(rendered(n), str)))
    assert every_pair() - together == IMPOSSIBLE


@pytest.mark.parametrize("path", helm.VALUES_FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("release", ["digits", helm.LONGEST])
def test_a_values_file_renders(path: Path, release: str) -> None:
    """The same of every file of values; a volume that is an image needs a Kubernetes that knows it."""
    chosen = helm.read(path)
    objects = helm.render(chosen, name=release)
    own = chosen.get("sync", {}).get("serviceAccount", {}).get("name")
    account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": own}}
    versions = [v for v in helm.KUBERNETES if "image" not in chosen.get("storage", {}).get("custom", {}) or v >= "1.31"]
    holds_together([*objects, account] if own else objects, versions)


def test_a_volume_that_is_an_image_needs_kubernetes_1_31() -> None:
    """That is when the field came; Pod Security takes it from 1.33 on."""
    objects = helm.render(helm.read(helm.CHART / "ci/image-volume-values.yaml"))
    server = helm.one(objects, "Deployment")
    with pytest.raises(helm.jsonschema.ValidationError, match="'image' was unexpected"):
        helm.validate(server, "1.30")
    assert unrestricted(server["spec"]["template"], "1.32") == ["volume image"]
    assert unrestricted(server["spec"]["template"], "1.33") == []


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace("pantry-matrix")
    yield made
    made.remove()


@pytest.mark.cluster
def test_an_api_server_takes_every_object(namespace: Namespace) -> None:
    """Beyond its schemas: a real one has nothing against any object of its own kinds in any combination or file."""
    releases = [helm.parse(files) for n in range(len(COMBINATIONS)) if not isinstance(files := rendered(n), str)]
    releases += [helm.render(helm.read(path)) for path in helm.VALUES_FILES if "image-volume" not in path.name]
    distinct = {}
    for thing in (thing for objects in releases for thing in objects):
        if helm.own_schema(thing["kind"], thing["apiVersion"]).exists():
            continue
        thing["metadata"]["namespace"] = namespace.name
        if thing["kind"] == "Pod":
            thing["spec"]["serviceAccountName"] = "default"  # nothing is created, so that its own is not there
        distinct[json.dumps(thing, sort_keys=True)] = thing
    assert len(distinct) > 1000
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(distinct.values())})
    namespace.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=everything)
