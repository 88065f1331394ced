"""Large lists and dicts of alike values, which a pack may keep as columns; each also too short or too mixed for one."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.corpus.classes import Layer, Node, Point, Series, Table, Tagged
from tests.corpus.kinds import Kind, itself

SIZES = (1, 40, 3000)  # too short for a column by any rule, and long enough for one by any


def _words(count: int) -> list[str]:
    return [f"wörd{n}" for n in range(count)]


def _rows(count: int, width: int = 12) -> np.ndarray[Any, Any]:
    return np.sin(np.arange(count * width, dtype=np.float32)).reshape(count, width)


def _copies(rows: Any) -> list[Any]:
    return [row.copy() for row in rows]


def _texts(count: int) -> list[str]:
    return [["", "a\0b", "line\nline", "日本", "\udc80", "x" * 300][n % 6] + str(n) for n in range(count)]


def _plain_texts(count: int) -> list[str]:
    """Texts that can be UTF-8 between NULs."""
    return [
        ["", "é", "line\nline\r", "日本", "🙂\ufeff\u2028", "x" * 300][n % 6] + str(n) * (n % 5 > 0)
        for n in range(count)
    ]


def _both_ways(count: int) -> dict[str, Any]:
    """A vocabulary as list and as dict, with some of its words told before and after."""
    words = _words(count)
    return {
        "first": words[0],
        "some": words[: count // 3],
        "words": words,
        "index": {word: n for n, word in enumerate(words)},
        "last": [words[-1], words[0]],
    }


def _asked_both_ways(made: dict[str, Any]) -> Any:
    words, index, some = made["words"], made["index"], made["some"]
    identical = [word is key for word, key in zip(words, index, strict=True)]
    told = [word is words[n] for n, word in enumerate(some)]
    return [
        words,
        index,
        identical,
        told,
        made["first"] is words[0],
        made["last"][0] is words[-1],
        made["last"][1] is made["first"],
    ]


def _named(count: int) -> list[Any]:
    """Objects, and after them a table by their very names."""
    nodes = [Node(name) for name in _words(count)]
    return [nodes, {node.name: n for n, node in enumerate(nodes)}, [node.name for node in nodes]]


def _asked_named(made: list[Any]) -> Any:
    nodes, table, names = made
    return [all(node.name is key is name for node, key, name in zip(nodes, table, names, strict=True)), table, names]


def _half_frozen(count: int) -> list[Any]:
    rows = _copies(_rows(count))
    for row in rows[::2]:
        row.setflags(write=False)
    return rows


def _dated(count: int) -> list[Any]:
    rows = np.zeros((count, 2), [("day", "M8[D]"), ("x", ">f4")])
    rows["day"], rows["x"] = np.arange(2 * count).reshape(-1, 2).astype("M8[D]"), 0.5
    return _copies(rows)


def _floats(count: int) -> list[float]:
    return [[0.1 * n, float("nan"), -0.0, float("inf"), 5e-324][n % 5] for n in range(count)]


def _ragged(count: int) -> list[Any]:
    return [np.arange(n % 9, dtype=np.int32) for n in range(count)]


def _repeated(count: int) -> list[Any]:
    """Every row three times: one object thrice, not three equal ones."""
    rows = _copies(_rows(count))
    return [row for row in rows for _ in range(3)]


def _asked_repeated(rows: list[Any]) -> Any:
    rows[0][0] = 99
    return [rows[0] is rows[1], rows[0] is rows[-1], rows[1], [rows[n] is rows[n - 1] for n in range(1, len(rows))]]


def _shared_between(count: int) -> dict[str, Any]:
    """The same rows in a dict and in a list, and the dict twice."""
    table = dict(zip(_words(count), _copies(_rows(count)), strict=True))
    return {"table": table, "rows": list(table.values()), "words": list(table), "again": table}


def _asked_shared(made: dict[str, Any]) -> Any:
    first = made["words"][0]
    made["rows"][0][:] = 7
    identical = all(row is made["table"][word] for word, row in zip(made["words"], made["rows"], strict=True))
    return [identical, made["again"] is made["table"], made["table"][first], list(made["table"])]


def _looked_up(table: Any) -> Any:
    """Answers of a table that is read, written, shortened and added to."""
    keys = list(table)
    values = [table[key] for key in keys]
    changed = table.pop(keys[0])
    table[keys[-1]] = changed
    table["new"] = changed
    return [type(table), keys, values, list(table), table["new"] is changed]


def _grown(values: list[Any]) -> Any:
    taken = list(values)
    values.append(values[0])
    values[0] = "other"
    return [taken, len(values), values[-1]]


def _written_rows(table: dict[str, Any]) -> Any:
    """Answers of rows after one of them is written: the others are as they were, and each may be written."""
    rows = list(table.values())
    before = [row.copy() for row in rows]
    rows[-1][...] = -1
    rows[0] *= 2
    return [before, rows, [row.flags.writeable for row in rows[:50]], [type(row) for row in rows[:50]]]


def _vectors(count: int) -> dict[str, Any]:
    return dict(zip(_words(count), _copies(_rows(count)), strict=True))


def _mixed(count: int) -> list[Any]:
    """A column but for one value in the middle."""
    rows = _copies(_rows(count))
    rows[count // 2] = rows[count // 2].astype("f8")
    return rows


def _tagged(count: int) -> list[Any]:
    return [Tagged(row, f"unit {n}") for n, row in enumerate(_copies(_rows(count)))]


def _typed(count: int) -> list[Any]:
    """Numbers that are equal and of different types."""
    return [[1, True, 1.0, np.float64(1), np.int64(1), np.bool_(True)][n % 6] for n in range(count)]


def _linked(count: int) -> list[Node]:
    """A chain of objects, each of which knows the next: no deeper than a pickle's recursion allows."""
    nodes = [Node(f"n{n}") for n in range(count)]
    hub = nodes[0]
    for node in nodes:
        node.parent = hub
    return nodes


MAKERS: dict[str, tuple[Callable[[int], Any], Callable[[Any], Any]]] = {
    "a word table": (_vectors, _written_rows),
    "a word table in an OrderedDict": (lambda n: OrderedDict(_vectors(n)), _looked_up),
    "a word table in a defaultdict": (lambda n: defaultdict(list, _vectors(n)), _looked_up),
    "a word table in a subclass": (lambda n: Table(_vectors(n)), _looked_up),
    "a word table by numbers": (lambda n: dict(enumerate(_copies(_rows(n)))), _looked_up),
    "a word table by tuples": (lambda n: {(w, n): r for n, (w, r) in enumerate(_vectors(n).items())}, _looked_up),
    "a word table of matrices": (
        lambda n: dict(zip(_words(n), _copies(_rows(n).reshape(n, 3, 4)), strict=True)),
        _written_rows,
    ),
    "a word table of Fortran matrices": (
        lambda n: {w: np.asfortranarray(np.full((3, 4), w)) for w in _words(n)},
        itself,
    ),
    "a word table of views": (lambda n: dict(zip(_words(n), _rows(n), strict=True)), itself),
    "a list of equal arrays": (lambda n: _copies(_rows(n)), _grown),
    "a list of equal arrays of big-endian numbers": (lambda n: _copies(_rows(n).astype(">f8")), _grown),
    "a list of equal arrays of texts": (lambda n: [np.array([w, "x"]) for w in _words(n)], _grown),
    "a list of arrays without values": (lambda n: [np.empty((0, 3), "f4") for _ in range(n)], _grown),
    "a list of arrays without dimensions": (lambda n: [np.array(float(k)) for k in range(n)], _grown),
    "a list of ragged arrays": (_ragged, _grown),
    "a list of arrays, one of another dtype": (_mixed, _grown),
    "a list of arrays, half of them read-only": (
        _half_frozen,
        lambda rows: [(row, row.flags.writeable) for row in rows],
    ),
    "a list of equal structured arrays": (_dated, _grown),
    "a list of complex matrices": (lambda n: [np.full((2, 3), k * 1j) for k in range(n)], _grown),
    "a list of tagged arrays": (_tagged, lambda rows: [(np.asarray(row), row.unit) for row in rows]),
    "a list of repeated arrays": (_repeated, _asked_repeated),
    "a list and a dict of the same arrays": (_shared_between, _asked_shared),
    "a tuple of arrays": (lambda n: tuple(_copies(_rows(n))), itself),
    "a subclass of list with arrays": (lambda n: Series(_copies(_rows(n))), _grown),
    "a list of texts": (_texts, _grown),
    "a list of texts with NUL": (lambda n: [f"a\0{k}" for k in range(n)], _grown),
    "a list of plain texts": (_plain_texts, _grown),
    "a list of empty texts": (lambda n: [""] * n, _grown),
    "a tuple of texts": (lambda n: tuple(_plain_texts(n)), itself),
    "a vocabulary both ways": (_both_ways, _asked_both_ways),
    "objects and a table of their names": (_named, _asked_named),
    "plain texts by plain texts": (lambda n: dict(zip(_words(n), _plain_texts(n), strict=True)), _looked_up),
    "a list of bytes": (lambda n: [text.encode("utf-8", "surrogatepass") for text in _texts(n)], _grown),
    "a list of small numbers": (lambda n: list(range(-5, n - 5)), _grown),
    "a list of huge numbers": (lambda n: [2**62 + k**5 * 10**9 for k in range(n)], _grown),
    "a list of numbers beside 64 bits": (lambda n: [*range(n), 2**63 - 1, -(2**63), 2**64 - 1], _grown),
    "a list of yes and no": (lambda n: [bool(k % 3) for k in range(n)], _grown),
    "a list of floats": (_floats, _grown),
    "a list of equal numbers of several types": (_typed, _grown),
    "a list of numpy scalars": (lambda n: [np.float32(k) / 3 for k in range(n)], _grown),
    "a list of nothing": (lambda n: [None] * n, _grown),
    "a list of lists": (lambda n: [[k, str(k), [k / 2]] for k in range(n)], _grown),
    "a list of tuples": (lambda n: [(k, str(k), k / 2) for k in range(n)], _grown),
    "a list of namedtuples": (lambda n: [Point(k, -k, str(k)) for k in range(n)], _grown),
    "a list of dicts": (lambda n: [{"id": k, "name": f"n{k}", "at": (k, 0.5)} for k in range(n)], _grown),
    "a list of objects": (
        lambda n: [Layer(f"l{k}", k, None) for k in range(n)],
        lambda ls: [vars(each) for each in ls],
    ),
    "a list of objects that know one": (_linked, lambda ns: [(node.name, node.parent is ns[0]) for node in ns]),
    "texts by texts": (lambda n: dict(zip(_words(n), _texts(n), strict=True)), _looked_up),
    "numbers by texts": (lambda n: {w: k for k, w in enumerate(_words(n))}, _looked_up),
    "texts by numbers": (lambda n: dict(enumerate(_words(n))), _looked_up),
    "floats by numbers, not in order": (
        lambda n: {(k * 7919) % 20_011: f for k, f in enumerate(_floats(n))},
        _looked_up,
    ),
    "a Counter of words": (lambda n: Counter(_words(n) + _words(n // 2)), lambda c: [c, c["none"], c.most_common(3)]),
    "a set of texts": (lambda n: set(_words(n)), lambda s: [s, type(s), "wörd0" in s]),
    "a frozenset of numbers": (lambda n: frozenset(range(0, 3 * n, 3)), itself),
}

KINDS = [
    Kind(f"{name}, {size}", partial(make, size), answer) for name, (make, answer) in MAKERS.items() for size in SIZES
]
