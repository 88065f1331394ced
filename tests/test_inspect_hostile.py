"""Hostile pickles under `pantry inspect`: named whole, executed never, walked in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.inspection import globals_of, text_of
from tests.hostile_pickles import Globals, hostile, inspected, payload, short, stack_global

ROOT = Path(__file__).parent.parent
COMPRESSORS: tuple[Callable[[bytes], bytes], ...] = (
    bytes,
    gzip.compress,
    zlib.compress,
    bz2.compress,
    lzma.compress,
    lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
)


HOSTILE = sorted(hostile(""))
NOT_WHOLE = {
    "then an invalid opcode", "then nothing", "then an empty stack", "then too long bytes", "a name that is made",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(tmp_path: Path, kind: str) -> None:
    """What a hostile pickle imports is named, plain and compressed, and nothing of it is executed."""
    data, expected = hostile(payload(tmp_path))[kind]
    for compress in COMPRESSORS:
        found = inspected(compress(data))
        assert globals_of(found) == expected
        if kind == "a name that is made":
            assert "the names of 1 imports are made while unpickling: unknown" in text_of(found)
        assert found.understood is (kind not in NOT_WHOLE)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_hostile(tmp_path: Path, kind: str) -> None:
    """The corpus is no strawman: unpickled, each of it runs its command."""
    data, _ = hostile(payload(tmp_path))[kind]
    code = "import pickle, sys; f = sys.stdin.buffer; pickle.load(f); pickle.load(f)"
    subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)
    assert (tmp_path / "executed").exists()


def wrapper(attributes: bytes) -> bytes:
    """The beginning of a joblib file: an array's wrapper with attributes."""
    return b"\x80\x04" + stack_global("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81}(" + attributes + b"ub"


def dtype(code: str, state: bytes = b"K\x03" + short("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00") -> bytes:
    return stack_global("numpy", "dtype") + short(code) + b"\x89\x88\x87R(" + state + b"tb"


HIDDEN = b"0" + stack_global("os", "system") + b"."


@pytest.mark.parametrize(
    "data",
    [
        wrapper(short("shape") + b"K\x08\x85" + short("dtype") + b"N") + bytes(8) + HIDDEN,
        wrapper(short("shape") + b"N" + short("dtype") + dtype("u1")) + bytes(8) + HIDDEN,
        wrapper(short("dtype") + dtype("u1")) + bytes(8) + HIDDEN,
        wrapper(short("shape") + b"J\xff\xff\xff\xff\x85" + short("dtype") + dtype("u1")) + HIDDEN,
        wrapper(short("shape") + b"K\x08\x85" + short("dtype") + dtype("(8,)u1")) + bytes(64) + HIDDEN,
        wrapper(short("shape") + b"K\x08\x85" + short("dtype") + dtype("u1") + short("read_array") + b"N") + bytes(8),
        wrapper(short("shape") + b"K\xff\x85" + short("dtype") + dtype("u1")) + bytes(8) + HIDDEN,
        stack_global("joblib.numpy_pickle", "NumpyArrayWrapper") + b"NN\x86R}b" + HIDDEN,
        stack_global("operator", "call") + stack_global("joblib", "numpy_pickle.NumpyArrayWrapper") + b"\x85R}b"
        + HIDDEN,
        b"\x80\x04\x95" + (400).to_bytes(8, "little")
        + wrapper(short("shape") + b"K\x08\x85" + short("dtype") + dtype("u1"))[2:] + bytes(8) + HIDDEN,
        b"cjoblib.numpy_pickle\nNDArrayWrapper\n)\x81}X\x08\0\0\0filenameX\x01\0\0\0asb.",
    ],
    ids=[
        "no dtype", "no shape", "shape missing", "negative length", "subarray", "other attribute", "too long",
        "called", "called by another", "within a frame", "arrays in other files",
    ],
)  # fmt: skip
def test_joblib_that_cannot_be_followed(data: bytes) -> None:
    """Where the end of an array that joblib wrote is not known for sure, the result is never that all is understood."""
    found = inspected(data)
    assert not found.understood
    assert "not understood: " in text_of(found)


def test_what_hides_in_an_array() -> None:
    """Bytes of an array that look like a pickle are not taken for one, and what follows the array is seen."""
    head = wrapper(short("shape") + b"K\x40\x85" + short("dtype") + dtype("u1"))
    hidden = (b"0" + stack_global("shutil", "rmtree") + b".").ljust(64, b".")
    assert ("shutil", "rmtree") not in globals_of(inspected(head + hidden + HIDDEN))
    assert ("os", "system") in globals_of(inspected(head + hidden + HIDDEN))


def test_memo_of_any_index() -> None:
    """An index of 2^31 costs no memory, and is followed."""
    index = (1 << 31).to_bytes(4, "little")
    data = b"\x80\x04" + short("os") + b"r" + index + b"0j" + index + short("system") + b"\x93."
    assert globals_of(inspected(data)) == {("os", "system")}


def test_executes_nothing(tmp_path: Path) -> None:
    """While hostile pickles are inspected, no file but theirs is opened, nothing is started, nothing imported."""
    paths = []
    for number, (data, _) in enumerate(hostile(payload(tmp_path)).values()):
        paths.append(tmp_path / f"{number}.pkl")
        paths[-1].write_bytes(data)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from loader.inspection import inspect_file, text_of\n"
        "paths = list(map(Path, sys.argv[1:]))\n"
        "text_of(inspect_file(paths[0]))\n"
        "events = []\n"
        "sys.addaudithook(lambda event, args: events.append((event, str(args[0]) if args else '')))\n"
        "for path in paths: text_of(inspect_file(path))\n"
        "events = [e for e in events if not (e[0] == 'open' and Path(e[1]) in paths) and e[0] != 'os.stat']\n"
        "print(events)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout == "[]\n"
    assert not (tmp_path / "executed").exists()


def peak_memory(path: Path) -> tuple[int, bool]:
    """The bytes of memory that inspecting a file adds to a fresh process, and whether all was understood."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from loader.inspection import inspect_file, text_of\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
        "before = peak()\n"
        "found = inspect_file(Path(sys.argv[1]))\n"
        "text_of(found)\n"
        "print(peak() - before, found.understood)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    added, understood = result.stdout.split()
    return int(added) * 1024, understood == "True"


def test_memory_for_long_bytes(tmp_path: Path) -> None:
    """Long bytes, in a sparse file and a compressed one, are passed over in bounded memory."""
    size = 1 << 30
    with (tmp_path / "sparse.pkl").open("wb") as file:
        file.write(b"\x80\x04\x8e" + size.to_bytes(8, "little"))
        file.seek(size, os.SEEK_CUR)
        file.write(b"0" + stack_global("os", "system") + b".")
    added, understood = peak_memory(tmp_path / "sparse.pkl")
    assert understood
    assert added < 16 * 1024**2
    size = 300_000_000
    with gzip.open(tmp_path / "zeros.pkl", "wb", 1) as packed:
        packed.write(b"\x80\x04\x8e" + size.to_bytes(8, "little"))
        for _ in range(300):
            packed.write(bytes(1_000_000))
        packed.write(b".")
    added, understood = peak_memory(tmp_path / "zeros.pkl")
    assert understood
    assert added < 16 * 1024**2


@pytest.mark.parametrize(
    ("unit", "count", "limit"),
    [
        (b"N", 1_000_000, 20),
        (b"M\xff\xff", 1_000_000, 25),
        (b"\x85", 1_000_000, 20),  # a tuple in a tuple in a tuple …
        (b"\x85\x94", 500_000, 35),
        (b"c" + b"m" * 200 + b"\nn\n0", 100_000, 15),
        (short("x" * 20) + b"\x940", 500_000, 50),
        (b"(M\x01\x01M\x02\x02M\x03\x03M\x04\x04t\x940", 150_000, 25),
    ],
    ids=["stack", "numbers", "tuples", "tuples in the memo", "globals", "texts", "numbers in the memo"],
)
def test_memory_of_the_walk(tmp_path: Path, unit: bytes, count: int, limit: int) -> None:
    """A pickle of equal opcodes without end, which makes an unpickler's memory grow, is walked in few MiB."""
    with gzip.open(tmp_path / "model.pkl", "wb", 1) as packed:
        packed.write(b"\x80\x04N" + unit * count + b".")
    added, understood = peak_memory(tmp_path / "model.pkl")
    assert understood
    assert added < limit * 1024**2


@pytest.mark.parametrize(
    ("limit", "data", "problem"),
    [
        ("_DEEPEST_STACK", b"N" * 300_000, "its stack grows without end"),
        ("_MOST_MARKS", b"(" * 300_000, "its stack grows without end"),
        ("_MOST_GLOBALS", b"".join(b"cm%d\nn\n" % n for n in range(2000)), "more than 1000 different globals"),
        (
            "_MOST_GLOBALS",
            b"".join(b"\x84" + bytes(2) + n.to_bytes(2) for n in range(2000)),
            "more than 1000 different",
        ),
    ],
    ids=["stack", "marks", "globals", "extension codes"],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, limit: str, data: bytes, problem: str) -> None:
    """What needs more memory than a limit, which no real pickle comes near, is left there and said to be."""
    monkeypatch.setattr(f"loader.inspection.machine.{limit}", 1000)
    assert problem in text_of(inspected(b"\x80\x04" + data))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Any bytes give a result, and where it is that all is understood, an unpickler asks for nothing else."""
    compare(b"\x80\x04" + data)


OPCODES = [
    *(b"N0(21})]bosaetuRQ"[index : index + 1] for index in range(17)), b"\x81", b"\x85", b"\x86", b"\x93", b"\x94",
    b"\x8c\x02os", b"\x8c\x06system", b"h\x00", b"h\x01", b"q\x01", b"q\x03", b"K\x01", b"cbuiltins\nlen\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(OPCODES)))
def test_any_opcodes(opcodes: list[bytes]) -> None:
    """Any opcodes are followed as an unpickler follows them: it is asked for what is listed, up to where it stops."""
    compare(b"\x80\x04" + b"".join(opcodes) + b".")


class Harmless(pickle.Unpickler):
    """Notes what it is asked for and gives something that may be called with anything."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.globals: Globals = set()

    def find_class(self, module: str, name: str, /) -> object:
        self.globals.add((module, name))
        return Anything

    def persistent_load(self, pid: object, /) -> object:
        return Anything()


class Anything:
    def __new__(cls, *_arguments: object, **_named: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass


def compare(data: bytes) -> None:
    found = inspected(data)
    text_of(found)
    unpickler = Harmless(data)
    try:
        unpickler.load()
    except Exception:
        finished = False
    else:
        finished = True
    assert found.parts[0].unknown_globals or unpickler.globals <= globals_of(found)
    if finished and found.parts[0].pickles == 1:
        assert unpickler.globals == globals_of(found) or found.parts[0].unknown_globals
