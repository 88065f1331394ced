"""The pack of one object: it comes back as the same object, mapped, and from verified bytes where they are code."""

from __future__ import annotations

import copy
import gc
import io
import math
import os
import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.bundle.errors import DigestMismatch, PickleInvalid
from loader.bundle.manifest import Asset
from loader.bundle.pack import layout
from loader.bundle.pack.memory import Array
from loader.bundle.pack.proof import Unprovable, digest_object
from loader.bundle.pack.reader import load_pack, read_index
from loader.bundle.pack.writer import write_pack
from loader.bundle.verified import VerifiedReader
from tests.pack_kinds import Blob, Calls, Node, Vocabulary, Weights, Windows, Word
from tests.sources import ROOT, asset

CHUNK = 4096
masked_array: Any = np.ma.MaskedArray
WORDS = [f"word {number}" for number in range(3000)]


@pytest.fixture(name="path")
def pack_path(tmp_path: Path) -> Path:
    return tmp_path / "model.pack"


def load(path: Path, described: Asset | None = None) -> Any:
    """Loads a pack as a bundle does."""
    described = described or asset(path.name, path.read_bytes(), CHUNK)
    with io.BufferedReader(VerifiedReader(path, described, CHUNK), 1024) as stream:
        return load_pack(cast("BinaryIO", stream), path, "model.pkl")


def packed(value: object, path: Path) -> Any:
    path.unlink(missing_ok=True)
    write_pack(value, path)
    return load(path)


def index_of(path: Path) -> layout.Index:
    with path.open("rb") as file:
        return read_index(file, path)[1]


def vectors(count: int = 50, length: int = 30) -> list[Array]:
    return [np.full(length, number, np.float32) for number in range(count)]


def of_dtypes() -> list[Array]:
    """An array of every kind of dtype."""
    return [
        np.arange(6).astype(dtype)
        for dtype in (
            "?",
            "i1",
            "u2",
            ">i4",
            "<u8",
            "f2",
            "f4",
            ">f8",
            "g",
            "F",
            "D",
            "M8[ns]",
            "m8[D]",
            "S3",
            "U4",
            ">U4",
        )
    ] + [
        np.array([(1, 2.5, "a"), (2, 3.5, "b")], [("n", ">i2"), ("x", "f8"), ("s", "U3")]),
        np.zeros(3, np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"]}, align=True)),
        np.zeros(4, [("inner", [("x", "f4", (2, 2))])]),
        np.zeros(4, np.dtype("f4", metadata={"unit": "m"})),
        np.array([b"raw", b"void"], "V8"),
        np.array(["text", None, 3, [1, 2]], object),
        np.zeros(3, "S0"),
    ]


def of_shapes() -> list[Array]:
    """Arrays of unusual shapes and orders."""
    matrix = np.arange(60.0).reshape(3, 4, 5)
    readonly = np.arange(5)
    readonly.flags.writeable = False
    return [
        np.array(3.5), np.zeros(0), np.zeros((3, 0, 2)), np.zeros((1, 1, 1)), np.asfortranarray(matrix), matrix.T,
        np.arange(20)[::2].copy(), readonly, matrix.astype(">f4"), np.arange(50_000.0), np.ones((300, 400), order="F"),
    ]  # fmt: skip


OBJECTS: dict[str, Any] = {
    "list of vectors": vectors(),
    "tuple of vectors": tuple(vectors()),
    "dict of vectors": dict(zip(WORDS, vectors(3000, 5), strict=True)),
    "dict of vectors by number": dict(enumerate(vectors())),
    "OrderedDict of vectors": OrderedDict(zip(WORDS, vectors(3000, 5), strict=True)),
    "list of matrices": [np.full((4, 5), number, ">i2") for number in range(40)],
    "list of equal structured arrays": [np.zeros(3, [("a", "i1"), ("b", "f8")]) for _ in range(40)],
    "ragged": [np.arange(number % 9) for number in range(100)],
    "mixed dtypes": [np.arange(5).astype(dtype) for dtype in ("f4", "f8") * 20],
    "list of arrays of no dimension": [np.array(number) for number in range(40)],
    "list of read-only vectors": [np.frombuffer(bytes([number] * 8), "u1") for number in range(40)],
    "list with one read-only vector": [*vectors(), np.frombuffer(bytes(120), np.float32)],
    "list of Fortran matrices": [np.asfortranarray(np.ones((3, 4))) for _ in range(40)],
    "dtypes": of_dtypes(),
    "shapes": of_shapes(),
    "words": WORDS,
    "dict of words": {word: number for number, word in enumerate(WORDS)},
    "dict of words to words": {word: word.upper() for word in WORDS},
    "words of all kinds": [*WORDS, "", "\n", "ä", "語", "\U0001f600", "x" * 100_000],
    "words with NUL": [*WORDS, "a\0b"],
    "words with surrogates": [*WORDS, "\ud800"],
    "one word often": ["yes", "no"] * 2000,
    "words of a type of their own": [*WORDS, Word("mine")],
    "integers": list(range(-5000, 5000)),
    "large integers": [*range(3000), 2**63 - 1, -(2**63)],
    "huge integers": [*range(3000), 2**64],
    "integers and booleans": [*range(3000), True],
    "booleans": [True, False, False] * 1000,
    "floats": [*(number / 3 for number in range(3000)), math.inf, -math.inf, -0.0, 5e-324],
    "floats and integers": [*(number / 3 for number in range(3000)), 7],
    "tuple of floats": tuple(number / 3 for number in range(3000)),
    "dict of numbers": {number: number / 3 for number in range(3000)},
    "dict of mixed keys": {**dict.fromkeys(WORDS, 1.5), 3: 1.5, None: 1.5},
    "dict of a type of its own": Vocabulary(dict.fromkeys(WORDS, 1)),
    "defaultdict of vectors": defaultdict(list, dict(zip(WORDS, vectors(3000, 3), strict=True))),
    "other arrays": [masked_array(np.arange(9), np.arange(9) < 4), np.arange(4).view(Weights)],
    "record array": np.rec.array([(1, "a"), (2, "b")], dtype=[("n", "i4"), ("s", "U1")]),
    "object array of vectors": np.array([*vectors(20, 3), np.zeros(2)], object),
    "scalars": [np.float32(1.5), np.int64(3), np.datetime64("2020-01-01"), np.dtype("f4"), np.float64],
    "sets": [{1, "a", (2, "b")}, frozenset(WORDS), {frozenset({1}), frozenset({2})}],
    "large bytes": {"raw": bytes(200_000), "more": bytearray(200_000)},
    "buffers": [Blob(b"x" * 100_000), Blob(b"small"), Blob(b"y" * 70_000)],
    "nothing": None,
    "windows": Windows(np.arange(2000.0).reshape(50, 40)),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_comes_back_as_it_was(path: Path, name: str) -> None:
    """Values, types, dtypes, order, identity and shared memory of whatever a pickle can hold survive the pack."""
    value = pickle.loads(pickle.dumps(OBJECTS[name], protocol=5))
    loaded = packed(value, path)
    assert digest_object(loaded) == digest_object(value)


def test_the_words_of_a_table_load_equal_by_numpy(path: Path) -> None:
    """What the digest says, numpy's own comparison says too."""
    for name in ("dict of vectors", "list of matrices", "ragged"):
        value, loaded = OBJECTS[name], packed(OBJECTS[name], path)
        if isinstance(value, dict):
            assert list(value) == list(loaded)
            value, loaded = list(value.values()), list(loaded.values())
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(value, loaded, strict=True))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("list of vectors", {layout.Matrix}),
        ("dict of vectors", {layout.Strings, layout.Matrix}),
        ("OrderedDict of vectors", {layout.Strings, layout.Matrix}),
        ("ragged", {layout.Ragged}),
        ("words", {layout.Strings}),
        ("dict of words", {layout.Strings, layout.Numbers}),
        ("tuple of floats", {layout.Numbers}),
        ("words with surrogates", set()),
        ("huge integers", set()),
    ],
)
def test_columns(path: Path, name: str, kinds: set[type]) -> None:
    """Big lists and dicts of equal things become columns, and what cannot be one stays in the pickle."""
    write_pack(OBJECTS[name], path)
    assert {type(column) for column in index_of(path).columns} == kinds


def test_one_object_stays_one(path: Path) -> None:
    """What is referenced twice is one object, wherever the column is that holds it too."""
    rows, words, single = vectors(), list(WORDS), np.arange(5.0)
    value = {
        "row before": rows[3], "word before": words[5], "rows": rows, "words": words, "row after": rows[4],
        "word after": words[6], "index": {word: number for number, word in enumerate(words)}, "rows again": rows,
        "some rows": rows[10:40], "backwards": words[::-1], "arrays": [single, single], "many": [single] * 30,
        "pairs": dict.fromkeys(words[:100], rows[7]),
    }  # fmt: skip
    loaded = packed(value, path)
    assert loaded["row before"] is loaded["rows"][3]
    assert loaded["row after"] is loaded["rows"][4]
    assert loaded["some rows"][0] is loaded["rows"][10]
    assert loaded["rows again"] is loaded["rows"]
    assert loaded["word before"] is loaded["words"][5]
    assert loaded["word after"] is loaded["words"][6]
    assert all(mine is yours for mine, yours in zip(loaded["index"], loaded["words"], strict=True))
    assert all(mine is yours for mine, yours in zip(loaded["backwards"], loaded["words"][::-1], strict=True))
    assert loaded["many"][29] is loaded["arrays"][0] is loaded["arrays"][1]
    assert set(map(id, loaded["pairs"].values())) == {id(loaded["rows"][7])}
    assert digest_object(loaded) == digest_object(value)


def test_a_cycle_stays_a_cycle(path: Path) -> None:
    """An object that holds itself does so afterwards, beside columns."""
    value: dict[str, Any] = {"rows": vectors(), "list": []}
    value["self"] = value
    value["list"] += [value["list"], value["rows"]] * 10
    loaded = packed(value, path)
    assert loaded["self"] is loaded
    assert loaded["list"][0] is loaded["list"]
    assert loaded["list"][1] is loaded["rows"]


def test_a_view_stays_a_view(path: Path) -> None:
    """Arrays that share memory share it afterwards: writing to one shows in the other, whichever came first."""
    base = np.ones((20, 50))
    views = [base[3:7], base[:, ::7], base.T, base[::-1], base[2, 3:4], base.ravel()]
    for value in ([*views, base], [base, *views]):
        loaded = packed(value, path)
        whole = next(array for array in loaded if array.shape == base.shape and array.strides == base.strides)
        whole[...] = 7
        assert all((array == 7).all() for array in loaded)
        assert all(array.base is whole for array in loaded if array is not whole)


def test_views_of_memory_that_nobody_names_share_it(path: Path) -> None:
    """Two overlapping views share memory although the array under them is no part of the object."""
    base = np.arange(1000.0)
    first, second = packed((base[100:300], base[200:400:2]), path)
    first[100:] = -1
    assert (second[:50] == -1).all()
    assert (second[50:] > 0).all()


def test_a_row_that_a_view_is_of(path: Path) -> None:
    """A view of an array that is in a big list stays one."""
    rows = vectors()
    loaded, view = packed((rows, rows[9][4:8]), path)
    loaded[9][:] = 5
    assert (view == 5).all()


def test_temporary_objects_are_not_mixed_up(path: Path) -> None:
    """Lists and arrays that exist only while an object is pickled do not pass for one another."""
    value = [Calls(list, [float(number)] * 2000) for number in range(30)]
    value += [Calls(np.array, np.full(3000, number).tolist()) for number in range(30)]
    loaded = packed(value, path)
    assert [each[0] for each in loaded] == [*range(30)] * 2


def test_arrays_can_be_written_and_the_file_stays(path: Path) -> None:
    """Loaded arrays can be changed in place, which neither another load nor the file sees."""
    write_pack({"rows": vectors(), "big": np.zeros(100_000)}, path)
    before = path.read_bytes()
    one, other = load(path), load(path)
    one["rows"][0][:] = 9
    one["big"] += 1
    assert (other["rows"][0] == 0).all()
    assert (other["big"] == 0).all()
    assert path.read_bytes() == before


def test_an_array_that_cannot_be_written_cannot_be_written(path: Path) -> None:
    """A read-only array is read-only afterwards, alone and in a column."""
    readonly = [np.frombuffer(bytes([number] * 8), "u1") for number in range(40)]
    loaded = packed({"rows": readonly, "one": np.frombuffer(b"abc", "u1"), "free": np.zeros(3)}, path)
    assert not any(array.flags.writeable for array in (*loaded["rows"], loaded["one"]))
    assert loaded["free"].flags.writeable


def test_rows_keep_the_mapping_alive(path: Path) -> None:
    """One row is enough: the list and the file may go."""
    row = packed(vectors(), path)[7]
    path.unlink()
    gc.collect()
    assert (row == 7).all()


def test_large_arrays_start_on_a_page(path: Path) -> None:
    """Arrays of 64 KiB and more start on a page of the file and of memory, smaller ones on a cache line."""
    loaded = packed([np.ones(3), np.ones(8192), np.ones(5), np.ones(20_000)], path)
    addresses = [array.__array_interface__["data"][0] for array in loaded]
    assert [address % 64 for address in addresses] == [0] * 4
    assert [addresses[1] % 4096, addresses[3] % 4096] == [0, 0]


def test_nothing_of_the_data_is_read(path: Path) -> None:
    """A load reads and verifies the code at the end of the file, not the arrays."""
    write_pack([np.ones(3_000_000), *vectors()], path)
    described, verified = asset(path.name, path.read_bytes(), 4 * 1024 * 1024), [0]

    def count(more: int) -> None:
        verified[0] += more

    with VerifiedReader(path, described, 4 * 1024 * 1024, count) as stream:
        load_pack(cast("BinaryIO", stream), path, "model.pkl")
    assert described.size > 24_000_000
    assert verified[0] < 10_000


def test_no_descriptor_stays_open(path: Path) -> None:
    """A load leaves no more than the mapping's own descriptor, and that goes with the last array."""
    write_pack({"rows": vectors(), "words": WORDS}, path)
    before = len(os.listdir("/proc/self/fd"))
    loaded = load(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    del loaded
    assert len(os.listdir("/proc/self/fd")) == before


def test_every_damaged_byte_of_code_is_caught(path: Path) -> None:
    """No changed byte of what is read reaches the unpickler: the error names the file and the chunk."""
    write_pack({"rows": vectors(), "words": WORDS, "small": [1, "two", 3.0]}, path)
    data, described = path.read_bytes(), asset(path.name, path.read_bytes(), CHUNK)
    with path.open("rb") as file:
        start = min(index.pool[0][0] for index in [read_index(file, path)[1]])
    for offset in [*range(start, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        with pytest.raises(DigestMismatch, match=rf"model\.pack: chunk {offset // CHUNK} "):
            load(path, described)


def test_a_pack_of_another_size(path: Path) -> None:
    """A truncated or extended file is refused before anything is mapped."""
    write_pack(vectors(), path)
    data, described = path.read_bytes(), asset(path.name, path.read_bytes(), CHUNK)
    for wrong in (data[:-1], data + b"\0", b""):
        path.write_bytes(wrong)
        with pytest.raises(DigestMismatch, match=rf"expected {len(data)} bytes, got {len(wrong)}"):
            load(path, described)


@pytest.mark.parametrize("data", [b"", b"short", bytes(1000), pickle.dumps(WORDS)])
def test_what_is_no_pack(path: Path, data: bytes) -> None:
    """Verified bytes that are no pack are refused by name."""
    path.write_bytes(data)
    with pytest.raises(PickleInvalid, match=r"model\.p"):
        load(path)


def test_a_missing_module_is_named(path: Path) -> None:
    """A pack that needs a module which is not here fails by the module's name, as a pickle does."""
    write_pack(list(range(100)), path)
    data = path.read_bytes()
    skeleton = b"\x80\x05cno_such_package.deep\nModel\n."
    with path.open("rb") as file:
        foot, _ = read_index(file, path)
    offset, length = foot.skeleton
    path.write_bytes(data[:offset] + skeleton.ljust(length, b"\0") + data[offset + length :])
    with pytest.raises(PickleInvalid, match=r"needs the module 'no_such_package' \(for no_such_package.deep.Model\)"):
        load(path)


def test_failing_code_is_one_sentence(path: Path) -> None:
    """What a pickle's own code raises comes as a sentence with the pickle's name."""
    write_pack(Calls(int, "no number"), path)
    with pytest.raises(PickleInvalid, match=r"model\.pkl cannot be loaded: ValueError: invalid literal"):
        load(path)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_meanwhile(path: Path, enabled: bool) -> None:
    """The garbage collector is off during the load, and as it was after it."""
    write_pack(Calls(gc.isenabled), path)
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        assert load(path) is False
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_a_failed_write_leaves_no_file(path: Path) -> None:
    """An object that cannot be pickled leaves neither a pack nor anything beside it."""
    with pytest.raises((pickle.PicklingError, AttributeError)):
        write_pack([vectors(), lambda: None], path)
    assert list(path.parent.iterdir()) == []


def test_writing_frees_what_it_held(path: Path) -> None:
    """Nothing keeps the object once it is written, even with the collector off."""
    value = Weights(3)
    holders = sys.getrefcount(value)
    gc.disable()
    try:
        write_pack([value, vectors()], path)
        digest_object([value])
        assert sys.getrefcount(value) == holders
    finally:
        gc.enable()


def test_equal_objects_have_one_digest() -> None:
    """The digest sees the same object through a copy, and through another order of a set."""
    for name, value in OBJECTS.items():
        one, other = (pickle.loads(pickle.dumps(value, protocol=5)) for _ in range(2))
        assert digest_object(one) == digest_object(other), name
    assert digest_object({8, 16, "a", (1, 2)}) == digest_object({(1, 2), "a", 16, 8})


_base = np.arange(10.0)
_named = np.array([1], np.dtype("f4", metadata={"unit": "m"}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros(3), np.zeros(3, ">f8")),
        (np.zeros(3), np.zeros((3, 1))),
        (np.ones((2, 2)), np.ones((2, 2), order="F")),
        (np.array([0.0]), np.array([-0.0])),
        (_named, _named.astype("f4")),
        ([_base, _base], [_base, _base.copy()]),
        ([_base, _base[2:4]], [_base, _base[2:4].copy()]),
        ([_base[2:4], _base[4:6], _base], [_base[4:6], _base[2:4], _base]),
        ([WORDS[0]] * 2, [WORDS[0], "".join(list(WORDS[0]))]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1], (1,)),
        (1, True),
        (1, 1.0),
        ({1}, frozenset({1})),
        ({1}, {2}),
        ({1: 2}, OrderedDict({1: 2})),
        (np.float32(1), np.float64(1)),
        (Word("a"), "a"),
    ],
)
def test_other_objects_have_other_digests(one: object, other: object) -> None:
    """The digest tells apart what differs in value, type, dtype, order, identity or shared memory."""
    assert digest_object(one) != digest_object(other)


def test_a_digest_is_the_same_in_another_process() -> None:
    """Objects are compared across processes, where hashes and so the order of sets differ."""
    code = "from tests.pack_kinds import *; from loader.bundle.pack.proof import digest_object\n" + _SETS
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(answers) == 1
    assert len(answers.pop().strip()) == 64


def test_sets_that_lead_to_themselves_have_no_digest() -> None:
    """Objects in a set that hold the set again cannot be told in an order: that is said, and at once."""
    members = [Node(), Node()]
    for member in members:
        member.friends = set(members)
    with pytest.raises(Unprovable, match="hold one another"):
        digest_object(members)


_SETS = 'print(digest_object([{f"word {n}" for n in range(100)}, Windows(np.ones((20, 20)))]))'

_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from(WORDS[:4]),
)
_arrays = st.builds(
    lambda dtype, shape, start: (np.arange(start, start + math.prod(shape)) % 250).astype(dtype).reshape(shape),
    st.sampled_from(["f4", ">f8", "u1", "i8", "U3", "M8[s]"]),
    st.sampled_from([(), (0,), (3,), (7,), (2, 3), (5000,)]),
    st.integers(0, 9),
)


@st.composite
def _graphs(draw: st.DrawFn) -> object:
    """Objects that refer to the same few things again and again."""
    arrays = draw(st.lists(_arrays, min_size=1, max_size=4))
    arrays += [array[1:] for array in arrays if array.ndim and draw(st.booleans())]
    long = [
        [copy.copy(draw(st.sampled_from(arrays))) for _ in range(20)],
        [draw(st.sampled_from(arrays)) for _ in range(20)],
        [np.full(3, number) for number in range(20)],
        list(WORDS[:1500]),
        WORDS[1000:3000],
        list(range(2000)),
        dict(zip(WORDS, range(3000), strict=True)),
        {word: np.zeros(2) for word in WORDS[:30]},
    ]
    parts = [*arrays, *draw(st.lists(st.sampled_from(long), max_size=5)), *draw(st.lists(_leaves, max_size=8))]
    pick = st.sampled_from(parts)
    return draw(
        st.recursive(
            pick,
            lambda inner: st.one_of(
                st.lists(inner, max_size=6),
                st.tuples(inner, inner),
                st.dictionaries(st.text(max_size=3), inner, max_size=4),
            ),
            max_leaves=20,
        )
    )


@settings(max_examples=60, deadline=None)
@given(_graphs())
def test_any_object_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """Whatever refers to whatever in whichever order: the packed object equals the pickled one."""
    value = pickle.loads(pickle.dumps(value, protocol=5))
    path = tmp_path_factory.mktemp("graph") / "model.pack"
    assert digest_object(packed(value, path)) == digest_object(value)
    path.unlink()
