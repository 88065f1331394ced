"""Renders the chart offline (Helm's own code, as a library), and finds things in what comes out."""

from __future__ import annotations

import copy
import functools
import importlib
import json
import re
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
KUBERNETES = [f"1.{minor}" for minor in range(28, 35)]
LONGEST = "a" + "-release" * 6 + "-xyz"  # 53 characters: Helm takes no longer name of a release

# They come without types.
jsonschema = importlib.import_module("jsonschema")
referencing = importlib.import_module("referencing")


class UniqueKeys(yaml.CSafeLoader):
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
        section[last] = copy.deepcopy(value)
    return values


def model(**fields: Any) -> Object:
    """An entry of `models`."""
    return {"name": "digits", "version": "1", "storageUri": "gs://bucket/digits"} | fields


def texts(
    values: Values, name: str = "digits", namespace: str = "models", revision: int = 1, chart: Path = CHART
) -> dict[str, str]:
    """What each template of a release comes to, hooks, tests and notes included."""
    with helm_python.Chart.load(str(chart)) as loaded:  # anew each time: a render changes what was loaded
        files: dict[str, str] = loaded.render(
            values, name=name, namespace=namespace, revision=revision, is_install=revision == 1, is_upgrade=revision > 1
        )
    return files


def parse(files: dict[str, str]) -> list[Object]:
    """The objects in rendered texts."""
    yamls = (text for path, text in sorted(files.items()) if path.endswith(".yaml") and text.strip())
    return [thing for text in yamls for thing in yaml.load_all(text, UniqueKeys) if thing]


def render(
    values: Values, name: str = "digits", namespace: str = "models", revision: int = 1, chart: Path = CHART
) -> list[Object]:
    """Every object of a release, hooks and tests included."""
    return parse(texts(values, name, namespace, revision, chart))


def refusal(values: Values, name: str = "digits") -> str:
    """What is said of values that do not render."""
    try:
        render(values, name=name)
    except (helm_python.HelmValuesError, helm_python.HelmRenderError) as error:
        return str(error)
    raise AssertionError("these values render")


def refusals() -> list[str]:
    """Each sentence with which the templates refuse values, as a pattern."""
    text = "".join(path.read_text() for path in sorted(CHART.glob("templates/validate/*.tpl")))
    formats = re.findall(r'fail (?:\(printf )?"((?:[^"\\]|\\.)*)"', text)
    assert len(formats) == len(re.findall(r"\bfail\b", text))
    return [re.sub(r"%[a-z]", ".*", re.escape(f.replace('\\"', '"'))) for f in formats]


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


def key(thing: Object) -> tuple[str, str]:
    return thing["kind"], thing["metadata"]["name"]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """The only object of a kind and name."""
    (found,) = (o for o in objects if key(o) == (kind, name))
    return found


def kinds(objects: list[Object]) -> set[str]:
    return {thing["kind"] for thing in objects}


def pods(objects: list[Object]) -> Iterator[Object]:
    """Every pod, be it in a template or on its own."""
    for thing in objects:
        if thing["kind"] in ("Deployment", "Job"):
            yield thing["spec"]["template"]
        elif thing["kind"] == "Pod":
            yield thing


def containers(pod: Object) -> list[Object]:
    """Every container of a pod, those that run first included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def container(pod: Object) -> Object:
    (only,) = pod["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(pod: Object) -> dict[str, Any]:
    return {e["name"]: e.get("value") for e in container(pod)["env"]}


def volumes(pod: Object) -> dict[str, Object]:
    """Each volume's source, by name."""
    return {v["name"]: {k: source for k, source in v.items() if k != "name"} for v in pod["spec"]["volumes"]}


def mounts(container: Object) -> dict[str, Object]:
    return {m["name"]: m for m in container["volumeMounts"]}


@functools.cache
def _definitions(directory: Path) -> Any:
    contents = json.loads((directory / "_definitions.json").read_text())
    return referencing.Resource.from_contents(contents) @ referencing.Registry()


def own_schema(kind: str, api: str) -> Path:
    """Where the schema is of a kind that is no part of Kubernetes."""
    return ROOT / "tests/chart_schemas" / f"{kind.lower()}-{api.rpartition('/')[2]}.json"


@functools.cache
def validator(kind: str, api: str, version: str) -> Any:
    """Of one kind of object for one version of Kubernetes; built once, as that takes longer than its use."""
    group, _, last = api.rpartition("/")
    if (own := own_schema(kind, api)).exists():
        return jsonschema.Draft7Validator(json.loads(own.read_text()))
    schemas = Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{version}.0-local-strict"
    name = "-".join(filter(None, (kind.lower(), group.split(".")[0], last)))
    schema = json.loads((schemas / f"{name}.json").read_text())
    return jsonschema.Draft202012Validator(schema, registry=_definitions(schemas))


def validate(thing: Object, version: str) -> None:
    """Fails where an object has an unknown field, or one of a wrong type, in this version of Kubernetes."""
    validator(thing["kind"], thing["apiVersion"], version).validate(thing)
