"""`pantry inspect`: names what a pickle would import, executes none of it, and says what it could not follow."""

from __future__ import annotations

import bz2
import collections
import gzip
import importlib
import io
import json
import os
import pickle
import pickletools
import zipfile
from datetime import datetime, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loader.errors import LoaderError, UsageError
from loader.inspection import globals_of, inspect, inspect_file, text_of
from tests.hostile_pickles import Calls, Globals, inspected, payload, stack_global

OLD = Path(__file__).with_name("pickles")


class Asked(pickle.Unpickler):
    """Unpickles, and notes every global that it is asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.globals: Globals = set()

    def find_class(self, module: str, name: str, /) -> object:
        self.globals.add((module, name))
        return super().find_class(module, name)


class Point:
    def __init__(self, x: float) -> None:
        self.x = x


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: object) -> None:
        self.x = x

    def __getstate__(self) -> object:
        return None, {"x": self.x}

    def __setstate__(self, state: tuple[None, dict[str, object]]) -> None:
        self.x = state[1]["x"]


def benign() -> list[object]:
    shared = [Point(1.5)]
    recursive: list[object] = [shared]
    recursive.append(recursive)
    return [
        {"a": 1, "b": [2.5, None, True, "text", b"bytes", 1 << 80, -1, 300, 70_000, -(1 << 31)]},
        [Point(number) for number in range(3)] + [shared, shared, recursive],
        (Slotted(Fraction(1, 3)), Decimal("1.5"), datetime(2020, 1, 1, tzinfo=timezone.utc)),  # noqa: UP017
        collections.OrderedDict(a=collections.Counter("abc"), b=collections.deque([1, 2])),
        {
            "set": {1, 2},
            "frozen": frozenset("ab"),
            "long": "x" * 100_000,
            "raw": bytes(1_000_000),
            "array": bytearray(9),
        },
        np.arange(10),
        [np.zeros((2, 2)), np.float32(1), np.array(["a", None], dtype=object), np.random.default_rng(1)],
        [collections.OrderedDict, len, Point, print, Path("x")],
        [[[(i, str(i), float(i)) for i in range(3000)]]],
        "",
        list(range(100_000)),
    ]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_what_unpickling_imports(protocol: int) -> None:
    """For pickles of every protocol the list is what an unpickler is asked for, no more and no less."""
    for value in benign():
        data = pickle.dumps(value, protocol)
        asked = Asked(data)
        asked.load()
        found = inspected(data)
        assert globals_of(found) == asked.globals
        assert found.understood, found.all_problems
        (part,) = found.parts
        assert part.opcodes == sum(1 for _ in pickletools.genops(data))
        assert (part.pickles, part.inflated_size) == (1, len(data))
        assert part.protocol == (protocol if protocol > 1 else 0)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_the_python_pickler(protocol: int) -> None:
    """The pickler that is written in Python, and pickletools.optimize, choose other opcodes: they are followed too."""
    for value in benign():
        stream = io.BytesIO()
        pickler: Any = vars(pickle)["_Pickler"]
        pickler(stream, protocol).dump(value)
        for data in (stream.getvalue(), pickletools.optimize(stream.getvalue())):
            asked = Asked(data)
            asked.load()
            found = inspected(data)
            assert globals_of(found) == asked.globals
            assert found.understood, found.all_problems


@pytest.mark.parametrize("path", sorted(OLD.rglob("*.pkl")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_pickles_of_python_2(path: Path) -> None:
    """Theano models of Python 2.7 are understood whole: the list is that of pickletools."""
    found = inspect_file(path)
    expected: Globals = set()
    for opcode, argument, _ in pickletools.genops(path.read_bytes()):
        if opcode.name in {"GLOBAL", "INST"}:
            module, _, name = str(argument).partition(" ")
            expected.add((module, name))
    assert globals_of(found) == expected
    assert found.understood, found.all_problems
    assert ("imports from numpy:" in text_of(found)) == any(module.startswith("numpy") for module, _ in expected)


def nbytes(value: object) -> int:
    assert isinstance(value, np.ndarray)
    return value.nbytes


@pytest.mark.parametrize("protocol", [None, 0, 2, 5])
@pytest.mark.parametrize("compress", [0, 3, ("xz", 1)])
def test_joblib(tmp_path: Path, protocol: int | None, compress: object) -> None:
    """joblib's arrays are stepped over, so what is imported behind them is named."""
    joblib: Any = importlib.import_module("joblib")
    value = {
        "floats": np.arange(100_000.0).reshape(100, 1000),
        "same kind": np.ones(3),
        "fortran": np.asfortranarray(np.arange(12, dtype="int16").reshape(3, 4)),
        "big-endian": np.arange(5, dtype=">i4"),
        "objects": np.array([1, Fraction(1, 3), None], dtype=object),
        "records": np.array([(1.5, "ab")], dtype=[("x", "f4"), ("n", "U5")]),
        "text": np.array(["abc"]),
        "bytes": np.array([b"abc"]),
        "flags": np.array([True, False]),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
        "scalar": np.array(3.5),
        "none": np.zeros((0, 7)),
        "payload": Calls(os.system, payload(tmp_path)),
    }
    joblib.dump(value, tmp_path / "model.joblib", compress=compress, protocol=protocol)
    found = inspect_file(tmp_path / "model.joblib")
    assert found.understood, found.all_problems
    (part,) = found.parts
    assert part.joblib
    assert (part.arrays, part.pickles) == (12, 1)
    assert part.array_bytes == sum(nbytes(value[name]) for name in value if name not in {"objects", "payload"})
    names = {item.imports for item in found.globals}
    assert {"joblib.numpy_pickle.NumpyArrayWrapper", "fractions.Fraction", f"{os.system.__module__}.system"} <= names
    assert not (tmp_path / "executed").exists()


def test_models_of_scikit_learn(tmp_path: Path) -> None:
    """The list of a real model is exactly what loading it asks for."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    joblib: Any = importlib.import_module("joblib")
    numpy_pickle: Any = importlib.import_module("joblib.numpy_pickle")
    rows = np.random.default_rng(1).random((100, 4))
    for estimator in (RandomForestClassifier(10), make_pipeline(StandardScaler(), LogisticRegression())):
        joblib.dump(estimator.fit(rows, rows[:, 0] > 0.5), tmp_path / "model.joblib")
        with (tmp_path / "model.joblib").open("rb") as stream:
            unpickler = numpy_pickle.NumpyUnpickler("", stream, ensure_native_byte_order=True)
            asked: Globals = set()
            find = unpickler.find_class
            unpickler.find_class = lambda module, name, asked=asked, find=find: (
                asked.add((module, name)),
                find(module, name),
            )[1]
            unpickler.load()
        found = inspect_file(tmp_path / "model.joblib")
        assert found.understood, found.all_problems
        assert globals_of(found) == asked


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is empty"),
        (b"\x80\xff.", "it says protocol 255, and 5 is the highest"),
        (b"\x80\x04", "it ends before its STOP"),
        (b"\x80\x04X\x05\0\0\0ab", "from byte 9 on it was not followed: it ends within an argument"),
        (
            b"\x80\x04X\x05\x05\0\0ab",
            "from byte 2 on it was not followed: 1285 bytes should follow at byte 7, and 2 do",
        ),
        (b"\x80\x04\x8c\x05ab", "it ends within an argument"),
        (b"cos\nsys", "it ends within a line"),
        (b"\x80\x04\x8e" + (1 << 33).to_bytes(8, "little") + b"x.", "8589934592 bytes should follow"),
        (b"\x80\x04\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "1099511627776 bytes should follow"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b"x.", "18446744073709551615 bytes should follow"),
        (b"\x93NUMPY\x01\x00", "from byte 0 on it was not followed: an opcode takes more than there is"),
        (b"hello", "not followed"),
        (b"\xff", "no opcode has the code 0xff"),
        (b"N.\0\0", "from byte 2 on, bytes follow the end of the last pickle that are no pickle"),
        (b"Np-1\n.", "a memo entry has no number"),
        (
            b"\x80\x02\x82\x07\x83\x01\x01\x84\x02\0\0\0\x87.",
            "extension codes, whose names are not in the file: 2, 7, 257",
        ),
        (b"\x04\x22\x4d\x18" + bytes(20), "compressed with lz4"),
        (b"ZF" + bytes(20), "joblib wrote it before version 0.10"),
        (gzip.compress(b"N.", mtime=0)[:-4], "its gzip data ends too early"),
        (gzip.compress(b"N.", mtime=0) + b"more", "it has bytes after the end of its gzip data"),
        (gzip.compress(gzip.compress(b"N.", mtime=0), mtime=0), "no opcode has the code 0x1f"),
    ],
)
def test_broken(data: bytes, problem: str) -> None:
    """What is broken, unknown or cut off is said, with its place, and the result is not that all is understood."""
    found = inspected(data)
    assert not found.understood
    assert problem in "\n".join(found.all_problems)
    assert problem in text_of(found)
    assert "imports nothing" not in text_of(found)


def test_every_truncation() -> None:
    """A pickle cut off anywhere is never understood, and what it names before the cut is listed."""
    data = pickle.dumps([Point(1), "x" * 300, np.arange(3), 1 << 100])
    whole = globals_of(inspected(data))
    for length in range(len(data)):
        found = inspected(data[:length])
        assert not found.understood
        assert globals_of(found) <= whole


def test_names_remembered_for_long() -> None:
    """A module's name that a pickle refers back to is known after a million other texts."""
    texts = [f"some text {number}" for number in range(300_000)]
    data = pickle.dumps([Point(1), texts[:90_000], Slotted(1), texts[90_000:], Point(2)])
    found = inspected(data)
    assert globals_of(found) >= {(__name__, "Point"), (__name__, "Slotted")}
    assert found.understood


def test_persistent_ids() -> None:
    """Persistent ids are counted: only the program that wrote them knows what they stand for."""
    found = inspected(b"\x80\x02Pone\n0X\x03\0\0\0twoQ.")
    assert found.parts[0].persistent_ids == 2
    assert "2 persistent ids" in text_of(found)


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip(tmp_path: Path, method: int) -> None:
    """The pickles of an archive like torch.save's are looked into; its numbers are listed."""
    pickled = pickle.dumps(Calls(os.system, payload(tmp_path)), 2)
    members = {"model/data.pkl": pickled, "model/data/0": bytes(1000), "model/version": b"3\n", "model/byteorder": b"l"}
    found = inspect_file(archive(tmp_path / "model.pt", members, method))
    assert found.understood, found.all_problems
    assert (found.container, found.parts[0].name) == ("zip", "model/data.pkl")
    assert found.others == ("model/data/0", "model/version", "model/byteorder")
    assert globals_of(found) == {(os.system.__module__, "system")}
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_that_is_tampered_with(tmp_path: Path, method: int) -> None:
    """A wrong checksum, a local name that differs and an encryption flag hide nothing from the list."""
    pickled = pickle.dumps(Calls(os.system, payload(tmp_path)), 2)
    path = archive(tmp_path / "model.pt", {"model/data.pkl": pickled}, method)
    original = path.read_bytes()
    directory = original.index(b"PK\x01\x02")
    for place, value in [(directory + 16, b"1234"), (30, b"other"), (directory + 8, b"\x01"), (6, b"\x01")]:
        path.write_bytes(original[:place] + value + original[place + len(value) :])
        found = inspect_file(path)
        assert globals_of(found) == {(os.system.__module__, "system")}
        if value == b"1234":
            assert found.all_problems == ("model/data.pkl: its checksum is not the one that the archive gives",)


def test_zip_with_other_members(tmp_path: Path) -> None:
    """A member that is neither a pickle nor known to be numbers is named as not looked into."""
    found = inspect_file(archive(tmp_path / "m.pt", {"m/data.pkl": b"N.", "m/code/a.py": b"import os"}))
    assert found.all_problems == ("the member 'm/code/a.py' was not looked into",)
    assert inspect_file(archive(tmp_path / "m.npz", {})).all_problems != ()


def test_zip_whose_directory_is_damaged(tmp_path: Path) -> None:
    """An archive without a directory is not understood."""
    path = archive(tmp_path / "m.pt", {"m/data.pkl": b"N."})
    path.write_bytes(path.read_bytes()[:-30])
    assert "its directory is damaged" in text_of(inspect_file(path))


def test_inflated_limit(tmp_path: Path) -> None:
    """A small file that inflates without end is left at a limit, and said to be."""
    data = (
        b"\x80\x04"
        + stack_global("os", "system")
        + b"0"
        + b"B"
        + (50_000_000).to_bytes(4, "little")
        + bytes(50_000_000)
        + b"."
    )
    for name, compressed in [("a.pkl", bz2.compress(data)), ("b.pkl", gzip.compress(data, 1))]:
        (tmp_path / name).write_bytes(compressed)
        assert inspect_file(tmp_path / name).understood
        found = inspect_file(tmp_path / name, inflated_limit=10_000_000)
        assert "it inflates to more than 10000000 bytes, out of proportion to its size" in text_of(found)
        assert globals_of(found) == {("os", "system")}
    path = archive(tmp_path / "m.pt", {f"{number}.pkl": data for number in range(3)}, zipfile.ZIP_DEFLATED)
    found = inspect_file(path, inflated_limit=120_000_000)
    assert [bool(part.problems) for part in found.parts] == [False, False, True]


def test_text_and_json(tmp_path: Path) -> None:
    """A person sees the packages, Python 3's names first; a program gets the same as JSON."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02c__builtin__\neval\n0cposixpath\njoin\n0c\x1b[31m\nx\n.")
    text, fields, understood = inspect(path)
    document = json.loads(json.dumps(fields))
    assert understood
    assert "imports from builtins:\n  builtins.eval  (1 × GLOBAL, as __builtin__.eval)" in text
    assert "\x1b" not in text
    assert document["understood"] is True
    assert document["container"] == "pickle"
    assert {
        "module": "__builtin__",
        "name": "eval",
        "how": "GLOBAL",
        "imports": "builtins.eval",
        "count": 1,
    } in document["globals"]
    assert [part["opcodes"] for part in document["parts"]] == [7]


def test_allow_list() -> None:
    """The list, as an exact allow-list, lets the pickle that it was made from be loaded, and nothing else."""
    model = [Point(1), np.arange(3), Fraction(1, 2)]
    allowed = globals_of(inspected(pickle.dumps(model)))

    class Gate(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> object:
            if (module, name) not in allowed:
                raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
            return super().find_class(module, name)

    assert len(Gate(io.BytesIO(pickle.dumps(model))).load()) == 3
    with pytest.raises(pickle.UnpicklingError, match=r"system is not allowed"):
        Gate(io.BytesIO(pickle.dumps(Calls(os.system, "true")))).load()


def test_what_is_no_file(tmp_path: Path) -> None:
    """No file, a directory and a pipe are wrong use; none is waited for."""
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in [("none.pkl", "there is no file"), ("", "is not a file"), ("pipe", "is not a file")]:
        with pytest.raises(UsageError, match=sentence):
            inspect_file(tmp_path / name)
    with pytest.raises(LoaderError, match="cannot be read: File name too long"):
        inspect_file(tmp_path / ("x" * 300))
