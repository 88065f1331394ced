"""chart/README.md is true: its table is that of values.yaml, and what its head says can be done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from tests import chart_table, helm
from tests.test_docs import anchors, blocks

README = chart_table.README.read_text()
VALUES = (helm.CHART / "values.yaml").read_text()
SCHEMA = json.loads((helm.CHART / "values.schema.json").read_text())
META = helm.read(helm.CHART / "Chart.yaml")


def leaves(values: helm.Values, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every value that can be set, by its dotted path."""
    for key, value in values.items():
        if isinstance(value, dict) and value and set(value) - {"cpu", "memory"}:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def rows(table: str) -> Iterator[tuple[str, str, str, str]]:
    """The value, type, default and words of every row; where several values share one, of each of them."""
    for line in table.splitlines()[2:]:
        *cells, words = line.removeprefix("| ").removesuffix(" |").split(" | ")
        for name, kind, default in zip(*(cell.split("<br>") for cell in cells), strict=True):
            yield name, kind, default, words


def test_the_table_is_fresh() -> None:
    """The table of values is what values.yaml and its schema say now."""
    assert chart_table.fresh(README) == README, "chart/README.md is stale: run `make chart-readme`"


def test_every_value_has_one_row_with_its_default() -> None:
    """No value is left out or told twice, and what stands as its default is what values.yaml has."""
    expected = dict(leaves(yaml.safe_load(VALUES)))
    told = [row for row in rows(README.partition(chart_table.BEGIN)[2].strip()) if not row[0].startswith("**")]
    assert [name.strip("`") for name, *_ in told] == list(expected)
    for name, kind, default, _ in told:
        value = expected[name.strip("`")]
        assert kind, name
        if isinstance(value, list) and value:
            assert default == f"[{len(value)} entries](values.yaml)", name
        else:
            assert yaml.safe_load(default.strip("`")) == value, name


def table(values: str, **types: str) -> list[tuple[str, str, str, str]]:
    """The rows for a values.yaml, all of whose values are strings unless a type is given."""
    names = {value.path for value in chart_table.values(values)}
    schema: helm.Object = {}
    for name in sorted(names):
        node = schema
        for key in name.split("."):
            node = node.setdefault("properties", {}).setdefault(key, {"type": types.get(key, "string")})
    return list(rows(chart_table.table(values, schema)))


def test_a_comment_may_go_on_below_its_line() -> None:
    """A comment in the column of the one above it is that value's, and not the next one's."""
    text = 'a: ""   # who may ask:\n        # none is everyone\nb: ""   # another\n'
    assert [words for *_, words in table(text)] == ["who may ask: none is everyone", "another"]


def test_a_block_above_a_value_tells_it() -> None:
    """Sentences are joined, choices and lines of an example stay apart; what a blank line sets apart is nobody's."""
    text = (
        "# Of the file.\n\n# What to serve: one\n# entry a model.\n"
        "# - name: digits   # in the URL\n#   load: eager\na: []\n"
        "b:\n  # disk: one.\n  # shared: many.\n  mode: disk\n"
    )
    assert [(name, words) for name, *_, words in table(text, a="array")] == [
        ("`a`", "What to serve: one entry a model.<br>`- name: digits`: in the URL<br>`load: eager`"),
        ("`b.mode`", "disk: one.<br>shared: many."),
    ]


def test_a_section_has_a_row_where_it_has_a_comment() -> None:
    """What is said of a section stands above its values."""
    assert table('# Who may ask.\na:\n  b: ""   # a Secret\nc:\n  d: ""\n') == [
        ("**`a`**", "", "", "Who may ask."),
        ("`a.b`", "string", '`""`', "a Secret"),
        ("`c.d`", "string", '`""`', ""),
    ]


def test_values_below_one_block_share_its_row() -> None:
    """Words above several values that have none of their own tell them all; a value with its own words ends that."""
    found = table('# Where it runs.\na: {}\nb: []\nc: ""   # alone\nd: ""\n', a="object", b="array")
    assert [(name, kind, words) for name, kind, _, words in found] == [
        ("`a`", "map", "Where it runs."),
        ("`b`", "list", "Where it runs."),
        ("`c`", "string", "alone"),
        ("`d`", "string", ""),
    ]


def test_a_list_over_several_lines_is_counted() -> None:
    """Keys and comments inside of a list are its default's, and no values."""
    text = "a:   # peers\n- b:\n    c: {d: e}\n- f: 1   # not a value\n- {g: 2}\nh: |-\n"
    assert table(text, a="array")[0] == ("`a`", "list", "[3 entries](values.yaml)", "peers")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"enum": ["", "swap", "rolling"]}, "`swap`, `rolling`"),
        ({"$ref": "#/definitions/quantity"}, "quantity"),
        ({"$ref": "#/definitions/pods"}, "string or integer"),
        ({"type": ["integer", "null"]}, "integer"),
        ({"type": ["string", "number"]}, "string"),
        ({"$ref": "#/definitions/tolerations"}, "list"),
    ],
)
def test_types_in_words(schema: helm.Object, words: str) -> None:
    """A type is told as a person would: choices by their names, text that may look like a number as text."""
    assert chart_table.kind(schema, SCHEMA) == words


def test_the_storage_modes_are_those_of_the_schema() -> None:
    """The table of modes has every mode, in the order of the schema."""
    section = README.partition("## Where the models are")[2].partition("\n## ")[0]
    modes = SCHEMA["properties"]["storage"]["properties"]["mode"]["enum"]
    assert re.findall(r"^\| `(\w+)` \| ", section, re.MULTILINE) == modes


def test_the_example_installs_and_the_versions_are_ours() -> None:
    """The least values render; the version in the install command, and of Kubernetes, are those of Chart.yaml."""
    (example,) = blocks(README, "yaml")
    assert helm.render(yaml.safe_load(example))
    assert re.findall(r"--version (\S+)", README) == [META["version"]]
    assert [f">={version}.0-0" for version in re.findall(r"Kubernetes (\S+) or later", README)] == [META["kubeVersion"]]


def test_links() -> None:
    """Every link leads to a file that is there, and to a heading in it where it names one."""
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (helm.CHART / path).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_changes_are_as_artifact_hub_reads_them() -> None:
    """The annotation that lists what is new has kinds and descriptions that Artifact Hub knows."""
    changes = yaml.safe_load(META["annotations"]["artifacthub.io/changes"])
    assert changes
    for change in changes:
        assert change.keys() == {"kind", "description"}
        assert change["kind"] in {"added", "changed", "deprecated", "removed", "fixed", "security"}
        assert change["description"].strip()
