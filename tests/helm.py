"""Renders the chart offline (Helm's own code, as a library), and finds things in what comes out."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

Values = dict[str, Any]
Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "chart"
VALUES_FILES = [ROOT / "values-gke.yaml", *sorted(CHART.glob("ci/*-values.yaml"))]

# It comes without types.
jsonschema = importlib.import_module("jsonschema")


class UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice: PyYAML takes the last one, and the API server may not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is given twice among {keys}"
        return super().construct_mapping(node, deep)


def read(path: Path) -> Values:
    """The values of a file."""
    values: Values = yaml.load(path.read_text(), UniqueKeys)
    return values


def minimal(changes: Values | None = None) -> Values:
    """The least values that install, with some changed: {"storage.size": "1Gi"}."""
    return changed(read(CHART / "ci/default-values.yaml"), changes or {})


def changed(values: Values, changes: Values) -> Values:
    """A copy of values in which each dotted path has its new value."""
    values = copy.deepcopy(values)
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return values


def render(
    values: Values, name: str = "digits", namespace: str = "models", revision: int = 1, chart: Path = CHART
) -> list[Object]:
    """Every object of a release, hooks and tests included."""
    with helm_python.Chart.load(str(chart)) as loaded:  # anew each time: a render changes what was loaded
        files = loaded.render(
            values, name=name, namespace=namespace, revision=revision, is_install=revision == 1, is_upgrade=revision > 1
        )
    texts = (text for path, text in sorted(files.items()) if path.endswith(".yaml"))
    return [thing for text in texts for thing in yaml.load_all(text, UniqueKeys) if thing]


def notes(values: Values, name: str = "digits") -> str:
    """What a person reads after `helm install`."""
    with helm_python.Config(namespace="models", storage_driver="memory") as config:
        return str(config.install(str(CHART), name, values, dry_run="client")["notes"])


def component(thing: Object) -> str:
    return str(thing["metadata"]["labels"]["app.kubernetes.io/component"])


def one(objects: list[Object], kind: str, of: str | None = None) -> Object:
    """The only object of a kind, and, where given, of a component."""
    (found,) = (o for o in objects if o["kind"] == kind and of in (None, component(o)))
    return found


def pods(objects: list[Object]) -> Iterator[Object]:
    """Every pod, be it in a template or on its own."""
    for thing in objects:
        if thing["kind"] in ("Deployment", "Job"):
            yield thing["spec"]["template"]
        elif thing["kind"] == "Pod":
            yield thing


def container(pod: Object) -> Object:
    (only,) = pod["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(pod: Object) -> dict[str, Any]:
    return {e["name"]: e.get("value") for e in container(pod)["env"]}


def validate(thing: Object, version: str) -> None:
    """Fails where an object has an unknown field, or one of a wrong type, in this version of Kubernetes."""
    own = ROOT / "tests/chart_schemas" / f"{thing['kind'].lower()}-{thing['apiVersion'].split('/')[-1]}.json"
    if own.exists():
        jsonschema.validate(thing, json.loads(own.read_text()))
    else:
        kubernetes_validate.validate(thing, version, strict=True)
