"""Python's own kinds: containers, numbers, text, classes, shared and circular references, callables."""

from __future__ import annotations

import datetime as dt
import functools
import operator
import re
import uuid
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.corpus.classes import (
    ByItems,
    Colour,
    Fresh,
    Generated,
    Layer,
    Named,
    Node,
    Point,
    Raw,
    Rights,
    Scaler,
    Series,
    Setting,
    Slotted,
    SlottedWithDict,
    Table,
    WithNewArguments,
    WithState,
    scale,
)
from tests.corpus.kinds import Kind, itself

X = np.linspace(-1, 1, 40).reshape(5, 8)
BIG = np.arange(40_000.0)  # 320 kB: a buffer that a pack would place on a page of its own


def _layers() -> dict[str, Layer]:
    shape = (8, 3)
    weights = np.sin(np.arange(24.0)).reshape(shape)
    return {name: Layer(name, weights * n, np.full(3, n), {"n": n}) for n, name in enumerate("abc")}


def _circle() -> Node:
    root, leaf = Node("root", np.arange(9.0)), Node("leaf")
    root.links, leaf.links, leaf.parent = [leaf, root, leaf], [root], root
    leaf.weights = root.weights
    return root


def _asked_circle(root: Node) -> Any:
    leaf, itself_, again = root.links
    leaf.weights[0] = 7
    return [itself_ is root, leaf is again, leaf.parent is root, leaf.links[0] is root, root.weights, leaf.name]


def _circular_containers() -> Any:
    ring: list[Any] = [1]
    named: dict[str, Any] = {"ring": ring}
    ring += [named, (ring, named), {"deep": ring}]
    return ring


def _asked_containers(ring: Any) -> Any:
    named = ring[1]
    return [named["ring"] is ring, ring[2][0] is ring, ring[2][1] is named, ring[3]["deep"] is ring, len(ring)]


def _shared() -> dict[str, Any]:
    array, table, text, row = BIG.copy(), {"rate": 1}, "a text of which there is one" * 9, [1, 2]
    return {"a": array, "b": array, "t": table, "u": table, "rows": [row, row, list(row)], "texts": (text, text)}


def _asked_shared(shared: dict[str, Any]) -> Any:
    shared["a"][5] = -1
    shared["t"]["rate"] = 2
    shared["rows"][0].append(3)
    first, second, third = shared["rows"]
    return [shared["a"] is shared["b"], shared["b"], shared["t"] is shared["u"], first is second, first is third, third]


def _asked_slots(made: list[Any]) -> Any:
    plain, both = made
    return [plain.count, plain.table, hasattr(plain, "unset"), hasattr(plain, "__dict__"), both.extra, both.table]


def _with_attributes() -> list[Any]:
    table, series, text = Table(a=BIG, b=2), Series([3, BIG]), Named("word")
    table.unit, series.unit, text.unit = "mm", "s", "kg"
    return [table, series, text]


def _asked_attributes(made: list[Any]) -> Any:
    table, series, text = made
    return [table["zzz"], dict(table), list(series), str(text), [each.unit for each in made], list(map(type, made))]


def _many_attributes() -> Node:
    node = Node("many")
    vars(node).update({f"w{n}": np.full(9, n) for n in range(40)})
    return node


def _generated() -> Generated:
    rows = range(40)
    tables = [{n: np.full(9, row * 100 + n) for n in range(20)} for row in rows]
    return Generated(
        [
            *tables,
            *([row + n for n in range(1100)] for row in rows),
            *([f"{row}-{n}" for n in range(1100)] for row in rows),
        ]
    )


def _asked_raw(made: list[Raw]) -> Any:
    """Answers of buffers that are written where they may be."""
    before = [[bytes(raw.data), raw.data.readonly] for raw in made]
    made[0].data[5] = 77
    return [before, [bytes(raw.data) for raw in made]]


def _by_items() -> ByItems:
    made = ByItems()
    made.rows, made.cells = [BIG, 2], {"a": BIG, "b": 3}
    return made


def _deep(levels: int) -> list[Any]:
    return [_deep(levels - 1) if levels else "bottom"]


NUMBERS = [0, -1, 255, 2**31, 2**63 - 1, -(2**63), 2**64, 10**40, -(10**400), True, None, 0.0, -0.0, 1e-320, 1 + 2j]
TIMES = [
    dt.datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=dt.UTC),
    dt.datetime(2026, 3, 1, fold=1, tzinfo=dt.timezone(dt.timedelta(hours=5.5), "IST")),
    dt.date(1, 1, 1),
    dt.time(23, 59, 59, 999_999),
    dt.timedelta(days=-3, microseconds=1),
]


def _predicts(model: Any) -> Any:
    return model(X[0])


KINDS = [
    Kind("numbers of every size", lambda: [*NUMBERS, float("nan"), float("-inf"), complex(-0.0, float("nan"))], itself),
    Kind("texts", lambda: ["", "naïve", "日本", "\0", "a\nb", "\ud800 alone", "x" * 70_000, "🙂" * 300], itself),
    Kind("bytes", lambda: [b"", b"\0\xff", bytes(100_000), bytearray(b"ab"), bytearray(100_000)], itself),
    Kind("times", lambda: TIMES, itself),
    Kind(
        "exact numbers and names",
        lambda: [Decimal("1.10"), Decimal("NaN").is_nan(), Fraction(-3, 7), uuid.UUID(int=5), PurePosixPath("a/b")],
        itself,
    ),
    Kind("ranges and slices", lambda: [range(3, 90, 7), slice(1, None, 2), Ellipsis, NotImplemented], itself),
    Kind("patterns", lambda: [re.compile(r"(\w+)-\1", re.IGNORECASE), re.compile(b"a+")], itself),
    Kind("sets", lambda: [{"a", "b"}, frozenset({1, (2, 3)}), set(), set(map(str, range(3000)))], itself),
    Kind(
        "nested containers",
        lambda: {"a": [{"b": ({"c": [(), [], {}]},)}, [[BIG[:9]]]], ("t", 1): {2: {3: BIG}}},
        itself,
    ),
    Kind("deep nesting", lambda: _deep(200), itself),
    Kind(
        "collections",
        lambda: [
            defaultdict(list, {"a": [1], "b": [BIG[:5]]}),
            OrderedDict([("z", 1), ("a", BIG)]),
            Counter("mississippi"),
            deque([1, BIG, 3], maxlen=3),
        ],
        lambda made: [*made, made[0]["new"], made[3].maxlen, list(made[1]), made[2].most_common(2)],
    ),
    Kind(
        "mappings by wrapping",
        lambda: [ChainMap({"a": 1}, {"b": BIG}), UserDict({"c": BIG}), SimpleNamespace(d=BIG)],
        lambda made: [made[0]["b"], made[1]["c"], made[2].d, list(map(type, made))],
    ),
    Kind("subclasses with attributes", _with_attributes, _asked_attributes),
    Kind("dataclasses", _layers, lambda layers: [(layer.predict(X), layer.options) for layer in layers.values()]),
    Kind(
        "frozen slotted dataclasses",
        lambda: [Setting("a", BIG), Setting("b", (1,))],
        lambda m: [(s.name, s.values) for s in m],
    ),
    Kind("slots", lambda: [Slotted(1, BIG), SlottedWithDict(2, BIG[:9], "more")], _asked_slots),
    Kind("namedtuples", lambda: [Point(1.0, -0.0, "p"), Point(2, float("nan"))], lambda made: [*made, made[0].label]),
    Kind(
        "enums", lambda: [Colour.RED, Rights.READ | Rights.WRITE, {Colour.GREEN: 1}], lambda m: [*m, m[0] is Colour.RED]
    ),
    Kind("circles of objects", _circle, _asked_circle),
    Kind("circles of containers", _circular_containers, _asked_containers),
    Kind("shared references", _shared, _asked_shared),
    Kind("an object with __setstate__", lambda: WithState(BIG.copy()), lambda made: made.table),
    Kind("an object of many arrays", _many_attributes, vars),
    Kind("objects whose state is made anew", lambda: [Fresh(n) for n in range(30)], lambda made: list(map(vars, made))),
    Kind("items that are made anew", _generated, list),
    Kind("buffers out of band", lambda: [Raw(bytearray(90_000)), Raw(bytes(90_000)), Raw(bytearray(9))], _asked_raw),
    Kind("a large tuple as a key", lambda: {tuple(range(2000)): "a", tuple("ab" * 600): BIG}, itself),
    Kind("an object restored by items", _by_items, lambda made: [made.rows, made.cells, made.note]),
    Kind("an object of __getnewargs_ex__", lambda: WithNewArguments(size=9000), lambda made: made.values),
    Kind("functions and classes by name", lambda: [scale, Layer, np.sin, len, np.float32], itself),
    Kind("partial functions", lambda: functools.partial(scale, by=np.arange(8.0), shift=2), _predicts),
    Kind("bound methods", lambda: Scaler(np.arange(8.0)).halve, _predicts),
    Kind("callable objects", lambda: Scaler(np.arange(8.0)), _predicts),
    Kind(
        "operators",
        lambda: [operator.itemgetter(1, 3), operator.attrgetter("shape"), operator.methodcaller("sum", axis=0)],
        lambda made: [get(X) if n else get(X.tolist()) for n, get in enumerate(made)],
    ),
    Kind("exceptions", lambda: ValueError("wrong", 3), lambda error: [type(error), error.args]),
]
