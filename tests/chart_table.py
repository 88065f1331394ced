"""Writes the table of values in chart/README.md from the comments of values.yaml and the types of values.schema.json.

`python -m tests.chart_table` (`make chart-readme`) puts it between the two marks; a test fails while it is stale.

A value is told by the comment on its line, which may go on below it in the same column, or by the lines above it. Lines
above several values that have no comment of their own tell them all, and these share a row.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.helm import CHART

README = CHART / "README.md"
BEGIN, END = "<!-- values: `make chart-readme` writes what follows -->", "<!-- end of values -->"
HEAD = "| value | type | default | |\n|---|---|---|---|"

_KEY = re.compile(r" *(?P<key>[A-Za-z]\w*):(?P<value>(?: +(?!#)\S.*?)?)(?: +(?P<hash>#) ?(?P<comment>.*))?")
_COMMENT = re.compile(r" *# ?(?P<text>.*)")
_NEW_LINE = re.compile(r"- |  |\w+: ")  # an item, a line of an example, a choice: not the same sentence


@dataclass
class Value:
    """A line of values.yaml that has a key.

    Attributes:
        path: dotted.
        default: as it is written there; "" for a section or a list that goes over several lines.
        comment: the lines that tell what it is.
        above: whether they are above it, and not on its line.
    """

    path: str
    default: str
    comment: list[str] = field(default_factory=list)
    above: bool = False


def values(text: str) -> list[Value]:
    """Read every key of a values.yaml that is not inside of a list."""
    found: list[Value] = []
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    column = -1  # of the last comment on a key's line
    items: int | None = None  # where the dashes of the present list are
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if items is None and line.lstrip().startswith("- "):
            items = indent
        if items is not None and (indent > items or line.lstrip().startswith("- ")):
            continue  # all of it is the list's default
        items = None
        if comment := _COMMENT.fullmatch(line):
            if indent == column:
                found[-1].comment.append(comment["text"])
            else:
                above.append(comment["text"])
            continue
        key = _KEY.fullmatch(line)
        column = key.start("hash") if key else -1
        if key:
            parents = [*(parent for parent in parents if parent[0] < indent), (indent, key["key"])]
            path = ".".join(name for _, name in parents)
            own = [key["comment"]] if key["comment"] else []
            found.append(Value(path, key["value"].strip(), above + own, bool(above)))
        above = []
    return found


def prose(lines: list[str]) -> str:
    """Join the lines of a comment: sentences go on, examples and choices stay on lines of their own."""
    text = ""
    for line in lines:
        if text:
            text += "<br>" if _NEW_LINE.match(line) else " "
        code, hash_, said = line.partition(" #")
        if line.startswith(("- ", "  ")):
            text += f"`{code.strip()}`" + (f": {said.strip()}" if hash_ else "")
        else:
            text += line
    return text.replace("|", "\\|")


def kind(schema: dict[str, Any], root: dict[str, Any]) -> str:
    """Say a schema's type in a word or two."""
    name = schema.get("$ref", "").rpartition("/")[2]
    if name in ("quantity", "optionalQuantity"):
        return "quantity"
    if name:
        schema = root["definitions"][name]
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"] if choice)
    types: list[str] = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words: dict[str, str] = {"array": "list", "object": "map"}
    if "string" in types and "number" in types:
        return "string"
    return " or ".join(words.get(each, each) for each in types if each != "null")


def find(path: str, root: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a dotted path."""
    schema = root
    for key in path.split("."):
        if "$ref" in schema:
            schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
        schema = schema["properties"][key]
    return schema


def default(value: Value, loaded: Any) -> str:
    """Say what holds if nobody sets a value."""
    if value.default:
        return f"`{value.default}`"
    return f"[{len(loaded)} entries](values.yaml)"


def table(text: str, root: dict[str, Any]) -> str:
    """Make the table from the text of values.yaml and its schema."""
    loaded = yaml.safe_load(text)
    rows: list[list[str]] = []
    shared = False  # whether the row before tells of what follows, too
    for value in values(text):
        at: Any = loaded
        for key in value.path.split("."):
            at = at[key]
        if isinstance(at, dict) and at and not value.default:
            if value.comment:
                rows.append([f"**`{value.path}`**", "", "", prose(value.comment)])
            shared = False
            continue
        row = [f"`{value.path}`", kind(find(value.path, root), root), default(value, at), prose(value.comment)]
        if not value.comment and shared:
            rows[-1] = [*(f"{before}<br>{new}" for before, new in zip(rows[-1][:3], row[:3], strict=True)), rows[-1][3]]
        else:
            rows.append(row)
            shared = value.above
    return "\n".join([HEAD, *(f"| {' | '.join(row)} |" for row in rows)])


def fresh(readme: str) -> str:
    """Return a README with the table as it has to be."""
    made = table((CHART / "values.yaml").read_text(), json.loads((CHART / "values.schema.json").read_text()))
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert end, f"{README} has lost one of its marks, {BEGIN} and {END}"
    return f"{head}{begin}\n\n{made}\n\n{end}{tail}"


if __name__ == "__main__":
    README.write_text(fresh(README.read_text()))
