"""numpy's kinds: dtypes, orders, views, subclasses, generators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.corpus.classes import Forgetful, Tagged
from tests.corpus.kinds import Kind, itself, layout

DTYPES = [
    "?",
    "i1",
    "u2",
    "<i4",
    ">i4",
    "u8",
    "e",
    "<f4",
    ">f8",
    "g",
    "F",
    ">c16",
    "U7",
    ">U3",
    "S5",
    "M8[ns]",
    "m8[D]",
]
GENERATORS = ["PCG64", "MT19937", "Philox", "SFC64"]
STRUCTURE = np.dtype([("name", "U4"), ("at", ">f4", (2, 3)), ("sub", [("a", "?"), ("b", "M8[s]")])])
ALIGNED = np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [3, 16], "itemsize": 40}, align=False)


def _of_dtype(code: str) -> np.ndarray[Any, Any]:
    numbers = np.arange(30_000) % 117
    return (numbers > 50 if code == "?" else numbers).astype(code).reshape(100, 300)


def _with_layout(array: Any) -> Any:
    return [layout(array), array]


def _structured() -> list[Any]:
    rows = np.zeros(500, STRUCTURE)
    rows["name"], rows["at"][:, 1, 2], rows["sub"]["b"] = "ab", np.arange(500), np.datetime64("NaT", "s")
    offsets = np.ones(2000, ALIGNED)
    return [rows, offsets, rows[3:4]]


def _read_only(array: Any) -> Any:
    array.setflags(write=False)
    return array


def _fields() -> dict[str, Any]:
    """The fields of a structured array are views with gaps."""
    rows = np.zeros(3000, STRUCTURE)
    rows["at"] = np.arange(18_000).reshape(3000, 2, 3)
    return {"at": rows["at"], "second": rows["at"][:, 1], "b": rows["sub"]["b"]}


def _windows() -> list[Any]:
    """As many views as make a column, each overlapping the next, and one more of the third."""
    flat = np.arange(5000.0)
    windows = [flat[start : start + 100] for start in range(0, 4000, 50)]
    return [windows, windows[2][10:20]]


def _written_windows(made: list[Any]) -> Any:
    windows, part = made
    windows[1][-1] = -1
    windows[2][11] = -2
    return [windows, part, [each.flags.writeable for each in windows]]


def _views() -> dict[str, Any]:
    base = np.arange(60_000.0).reshape(200, 300)
    return {
        "base": base,
        "rows": base[50:90],
        "columns": base[:, ::3],
        "back": base[::-1],
        "one": base.T,
        "flat": base.ravel(),
        "again": base[50:90],
        "bytes": base.view("u1"),
        "frozen": _read_only(base[3:5]),
    }


def _asked_views(views: dict[str, Any]) -> Any:
    return list(views.values())


def _written_views(views: dict[str, Any]) -> Any:
    views["base"][60] = -1
    return list(views.values())


def _borrowed() -> list[Any]:
    buffers: list[Any] = [bytes(range(200)), bytearray(range(200)), memoryview(bytearray(80_000))[::2]]
    return [np.frombuffer(buffers[0], "u1"), np.frombuffer(buffers[1], "<u2"), np.asarray(buffers[2])]


def _masked() -> Any:
    masked: Any = np.ma.masked_array  # type: ignore[attr-defined,unused-ignore]
    values = np.arange(20_000.0).reshape(100, 200)
    return masked(values, values % 7 == 0, fill_value=-5)


def _objects() -> Any:
    array = np.empty((3, 2), object)
    array[0], array[1], array[2] = ["a", None], [np.arange(20_000.0), {"b": 2}], [2**80, -0.0]
    return array


def _tagged() -> list[Any]:
    return [Tagged(np.arange(20_000.0), "mm"), Tagged([1, 2]), Tagged(np.arange(12.0).reshape(3, 4, order="F"), "s")]


def _asked_tagged(made: list[Any]) -> Any:
    return [[each.unit, type(each), each[1:].unit, np.asarray(each)] for each in made]


def _drawn(random: Any) -> Any:
    return [random.normal(size=5), random.integers(100, size=5) if hasattr(random, "integers") else random.randint(9)]


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(getattr(np.random, name)(5))


def _used(make: Callable[[], Any]) -> Callable[[], Any]:
    """A generator that has drawn before, and holds half of a pair of numbers."""

    def drawn() -> Any:
        random = make()
        random.standard_normal(7)
        return random

    return drawn


def _written(array: Any) -> Any:
    array[..., 0] = array[..., 1] * 2
    array += 1
    array.sort(axis=-1)
    return array


KINDS = [
    *(Kind(f"array of {code}", partial(_of_dtype, code), _with_layout) for code in DTYPES),
    Kind("structured arrays", _structured, lambda made: [_with_layout(each) for each in made]),
    Kind(
        "arrays of no values",
        lambda: [np.empty((0, 4), "f4"), np.empty(0, "U3"), np.empty((3, 0, 2))],
        lambda m: [_with_layout(a) for a in m],
    ),
    Kind(
        "arrays of no dimensions",
        lambda: [np.array(3.5), np.array("text"), np.array(None, object)],
        lambda m: [_with_layout(a) for a in m],
    ),
    Kind(
        "numpy scalars",
        lambda: [
            np.float32(1.1),
            np.int8(-3),
            np.bool_(True),
            np.str_("a"),
            np.datetime64("2026-01-01"),
            np.void(b"ab"),
        ],
        itself,
    ),
    Kind(
        "dtypes",
        lambda: [np.dtype(code) for code in DTYPES] + [STRUCTURE, ALIGNED],
        lambda made: [(d, d.itemsize, d.isnative) for d in made],
    ),
    Kind("an array in Fortran order", lambda: np.asfortranarray(np.arange(24_000.0).reshape(20, 30, 40)), _with_layout),
    Kind("a transposed array", lambda: np.arange(24_000.0).reshape(30, 800).T, _with_layout),
    Kind("views of one array", _views, _asked_views),
    Kind("views of one array that is written", _views, _written_views, as_pickle=False),
    Kind("windows of one array that is written", _windows, _written_windows, as_pickle=False),
    Kind(
        "fields of a structured array",
        _fields,
        lambda fields: [values.astype(values.dtype.newbyteorder("=")) for values in fields.values()],
    ),
    Kind("arrays over other memory", _borrowed, lambda made: [[a, a.flags.writeable] for a in made]),
    Kind("a small part of a large array", lambda: np.arange(3_000_000)[::100_000], itself),
    Kind("an array of many chunks", lambda: np.arange(1_200_000.0), lambda a: [layout(a), a[-1], a.sum()]),
    Kind("an array broadcast from one row", lambda: np.broadcast_to(np.arange(300.0), (50, 300)), itself),
    Kind("an array that may not be written", lambda: _read_only(np.arange(20_000.0)), _with_layout),
    Kind("an array that is written after the load", lambda: np.arange(90_000.0).reshape(300, 300), _written),
    Kind("an array of objects", _objects, _with_layout),
    Kind("an array of texts as objects", lambda: np.array([f"word {n}" for n in range(3000)], object), itself),
    Kind("an array of arrays", lambda: np.array([np.arange(n) for n in range(300)], object), itself),
    Kind("a matrix", lambda: np.asmatrix(np.arange(20_000.0).reshape(100, 200)), lambda m: [m, type(m), m[0] * m.T]),
    Kind("a masked array", _masked, lambda m: [m, m.mean(), m.filled(), type(m)]),
    Kind(
        "a record array",
        lambda: np.rec.array([(n, n / 3) for n in range(900)], dtype=[("n", "i8"), ("x", "f8")]),
        lambda r: [r.n, r.x, type(r), r[3].n],
    ),
    Kind("an array subclass with attributes", _tagged, _asked_tagged),
    Kind("an array subclass without", lambda: np.arange(20_000.0).view(Forgetful), lambda a: [a, type(a), a.unit]),
    *(Kind(f"random numbers of {name}", _used(partial(_generator, name)), _drawn) for name in GENERATORS),
    Kind("random numbers of RandomState", _used(lambda: np.random.RandomState(5)), _drawn),
    Kind(
        "polynomials",
        lambda: [np.poly1d([1, 2, 3]), np.polynomial.Chebyshev([1, 0.5, 2])],
        lambda m: [p(np.arange(5.0)) for p in m],
    ),
]
if np.lib.NumpyVersion(np.__version__) < "2.5.0":  # from then on numpy warns wherever the class is named
    KINDS.append(
        Kind(
            "characters",
            lambda: np.char.array([f"w{n}" for n in range(2000)]),
            lambda a: [type(a), a.upper(), a.dtype.str],
        )
    )
