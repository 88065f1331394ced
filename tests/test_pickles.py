"""Unpickling: pickles of Python 3, of Python 2 long ago, and ones that cannot become an object."""

from __future__ import annotations

import bz2
import gc
import gzip
import importlib
import io
import lzma
import os
import pickle
import subprocess
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loader.bundle.bundle import Bundle
from loader.bundle.errors import DigestMismatch, PickleInvalid
from loader.bundle.pickles import is_pickle, load_pickle
from tests.sources import published, write_files

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}
OLD = Path(__file__).with_name("pickles")


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


class Counts:
    """Counts how often one of its kind is unpickled."""

    times = 0

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return counted, ()


def counted() -> Counts:
    Counts.times += 1
    return Counts()


def joblib_file(value: object, compress: object = 0, protocol: int | None = None) -> bytes:
    stream = io.BytesIO()
    joblib: Any = importlib.import_module("joblib")  # it has no types
    joblib.dump(value, stream, compress=compress, protocol=protocol)
    return stream.getvalue()


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "floats": np.arange(100_000.0).reshape(100, 1000),
        "fortran": np.asfortranarray(np.arange(12, dtype="int16").reshape(3, 4)),
        "big-endian": np.arange(5, dtype=">i4"),
        "objects": np.array([1, "x", None, [2]], dtype=object),
        "records": np.array([(1.5, "ab")], dtype=[("x", "f4"), ("n", "U5")]),
        "matrix": np.array([[1, 2]]).view(np.matrix),  # which joblib itself reads as an array with numpy 2
        "scalar": np.array(3.5),
        "none": np.zeros((0, 7)),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
    }


def assert_arrays(loaded: object) -> None:
    assert isinstance(loaded, dict)
    assert list(loaded) == list(arrays())
    joblib: Any = importlib.import_module("joblib")
    as_joblib = joblib.load(io.BytesIO(joblib_file(arrays())))
    for name, array in as_joblib.items():
        np.testing.assert_array_equal(loaded[name], arrays()[name])
        assert (type(loaded[name]), loaded[name].shape) == (type(array), array.shape), name


def load(data: bytes) -> object:
    return load_pickle(io.BytesIO(data), "model.pkl")


def by_bundle(directory: Path, data: bytes, chunk_size: int = 1000) -> object:
    """Loads a pickle as the server does: through a bundle's verified reader."""
    write_files(directory, published({"model.pkl": data}, chunk_size))
    with Bundle.open(directory).reader("model.pkl") as stream:
        return load_pickle(stream, "model.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    """Every protocol of this Python's pickles is read, through the verified reader too."""
    model = {"weights": list(range(2000)), "name": "naïve", "raw": bytes(5000), "set": {1, 2}}
    assert load(pickle.dumps(model, protocol)) == model
    assert by_bundle(tmp_path, pickle.dumps(model, protocol)) == model


@pytest.mark.parametrize("writer", ["theano-1.0.5-py2.7", "theano-0.9.0-py2.7"])
def test_arrays_of_python_2(tmp_path: Path, writer: str) -> None:
    """An OrderedDict of numpy arrays that Python 2.7 wrote comes back as arrays of the same numbers."""
    params = by_bundle(tmp_path, (OLD / writer / "params_arrays.pkl").read_bytes())
    assert isinstance(params, OrderedDict)
    assert params
    assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in params.values())
    assert all(np.isfinite(array).all() for array in params.values())


@pytest.mark.parametrize("writer", ["theano-1.0.5-py2.7", "theano-0.9.0-py2.7"])
def test_model_zoo_of_python_2(tmp_path: Path, writer: str) -> None:
    """A model zoo's dict that Python 2.7 wrote has text keys, arrays, and byte strings without a lost byte."""
    zoo = by_bundle(tmp_path, (OLD / writer / "zoo.pkl").read_bytes())
    assert isinstance(zoo, dict)
    assert set(zoo) == {"param values", "synset words", "mean value", "model type"}
    assert all(isinstance(array, np.ndarray) for array in zoo["param values"])
    words = [word.encode("latin1").decode() for word in zoo["synset words"]]
    assert any(not word.isascii() for word in words)


def of_python_2(name: str) -> object:
    return load((OLD / f"theano-1.0.5-py2.7/{name}.pkl").read_bytes())


def test_names_of_python_2_and_numpy_1() -> None:
    """Types, functions and values that were called otherwise are what they are called now."""
    found: Any = of_python_2("names")
    assert found["types"] == [str, int, range, str, np.bytes_, np.str_, np.bool_, np.float64, np.object_]
    assert [found["functions"][0](97), found["functions"][1](max, [1, 3, 2])] == ["a", 3]
    assert dict(found["userdict"]) == {"a": 1}
    assert found["scalars"] == [1.5, 2, b"x", "y", True]
    assert found["strings"].tolist() == [b"ab", b"c"]
    assert found["state"].randint(1000) == np.random.RandomState(1).randint(1000)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file_type", "needs 'file' of Python 2, which Python 3 does not have"),
        ("lasagne", r"needs the module 'lasagne' \(for lasagne.layers.Old\), which this image does not have"),
    ],
)
def test_what_cannot_be_had(name: str, words: str) -> None:
    """What is nowhere any more is named: a type of Python 2's, a package by its root."""
    with pytest.raises(PickleInvalid, match=words):
        of_python_2(name)


@pytest.mark.parametrize("more", [b"\0", b"\n", pickle.dumps(1), bytes(100_000)])
def test_bytes_after_the_end(tmp_path: Path, more: bytes) -> None:
    """Bytes after the pickle's end are refused: they would be neither read nor understood."""
    for loader in (load, lambda data: by_bundle(tmp_path, data)):
        with pytest.raises(PickleInvalid, match=r"model\.pkl has bytes after the end of its pickle"):
            loader(pickle.dumps({"a": 1}) + more)


@pytest.mark.parametrize("module", ["no_such_package.deep.module", "no_such_package"])
def test_missing_module(module: str) -> None:
    """A pickle that needs a module which is not here fails by the name of its root package."""
    data = b"\x80\x02c" + module.encode() + b"\nModel\n)\x81."
    with pytest.raises(PickleInvalid, match=rf"needs the module 'no_such_package' \(for {module}.Model\)"):
        load(data)


def test_module_whose_own_import_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is here but misses another one is still named by what the pickle asks for."""
    write_files(tmp_path, {"pantry_test_broken.py": b"import no_such_dependency\n"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PickleInvalid, match="needs the module 'pantry_test_broken'") as caught:
        load(b"\x80\x02cpantry_test_broken\nModel\n)\x81.")
    assert "no_such_dependency" in repr(caught.value.__cause__)


def test_missing_class() -> None:
    """A module that lacks the pickle's class is told apart from a missing module."""
    with pytest.raises(PickleInvalid, match=r"model\.pkl cannot be loaded: AttributeError: .*no_such_class"):
        load(b"\x80\x02ccollections\nno_such_class\n)\x81.")


def test_truncated() -> None:
    """A pickle that ends anywhere before its end is refused with a sentence."""
    data = pickle.dumps({"weights": list(range(100)), "name": "x" * 100})
    for length in range(len(data)):
        with pytest.raises(PickleInvalid, match=r"model\.pkl cannot be loaded: \w+: "):
            load(data[:length])


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"PK\x03\x04", b"hello", b"\x80\xff", b"."])
def test_no_pickle(data: bytes) -> None:
    """A file of another kind is refused with a sentence."""
    with pytest.raises(PickleInvalid, match=r"model\.pkl cannot be loaded"):
        load(data)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (Calls(int, "no number"), "ValueError: invalid literal for int"),
        (Calls(os.stat, "/no/such/file"), "FileNotFoundError"),
        (Calls(next, iter(())), "StopIteration: no message"),
        (Calls(exec, "raise RuntimeError('one\\ntwo')"), "RuntimeError: one$"),
        (Calls(exec, "raise MemoryError"), "needs more memory"),
    ],
)
def test_code_that_raises(call: Calls, sentence: str) -> None:
    """Whatever the pickle's own code raises becomes one line that says so."""
    with pytest.raises(PickleInvalid, match=sentence) as caught:
        load(pickle.dumps(call))
    assert "\n" not in str(caught.value)


def test_damage_is_told_as_damage(tmp_path: Path) -> None:
    """A changed byte is reported as a digest that does not match, not as a broken pickle."""
    data = pickle.dumps(list(range(1000)))
    write_files(tmp_path, published({"model.pkl": data}, 100) | {"model.pkl": data[:-50] + b"\0" + data[-49:]})
    with Bundle.open(tmp_path).reader("model.pkl") as stream, pytest.raises(DigestMismatch, match="chunk"):
        load_pickle(stream, "model.pkl")


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collector(collecting: bool) -> None:
    """The garbage collector rests while a pickle is loaded, and is as before afterwards, also after a failure."""
    assert gc.isenabled()
    try:
        if not collecting:
            gc.disable()
        assert load(pickle.dumps(Calls(gc.isenabled))) is False
        with pytest.raises(PickleInvalid):
            load(b"")
        assert gc.isenabled() is collecting
    finally:
        gc.enable()


def test_deep_pickle() -> None:
    """A pickle nested deeper than Python's recursion limit is loaded: its depth is on its own stack."""
    depth = sys.getrecursionlimit() * 5
    nested = load(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    assert isinstance(nested, list)


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_compressed(tmp_path: Path, name: str, protocol: int) -> None:
    """A compressed pickle of any protocol is read, behind the verified reader, whatever its file is called."""
    model = {"weights": list(range(2000)), "name": "naïve"}
    data = COMPRESSORS[name](pickle.dumps(model, protocol))
    assert load(data) == model
    assert by_bundle(tmp_path, data) == model


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressed_and_wrong(tmp_path: Path, name: str) -> None:
    """A compressed pickle is refused if it is truncated inside or outside, or followed by bytes inside or outside."""
    compress = COMPRESSORS[name]
    data = pickle.dumps(list(range(100)))
    for wrong, sentence in [
        (compress(data[:-1]), r"model\.pkl cannot be loaded: (EOF|Unpickling)Error"),
        (compress(data)[:-1], f"model\\.pkl: its {name} data ends too early"),
        (compress(data + b"."), r"model\.pkl has bytes after the end of its pickle"),
        (compress(data) + b"more than a few bytes", f"model\\.pkl has bytes after the end of its {name} data"),
    ]:
        with pytest.raises(PickleInvalid, match=sentence):
            by_bundle(tmp_path, wrong)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressed_and_damaged_on_disk(tmp_path: Path, name: str) -> None:
    """A changed byte of a compressed file is a digest that does not match: nothing unverified is inflated."""
    data = COMPRESSORS[name](pickle.dumps(list(range(10_000))))
    changed = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
    write_files(tmp_path, published({"model.pkl": data}, 100) | {"model.pkl": changed})
    with Bundle.open(tmp_path).reader("model.pkl") as stream, pytest.raises(DigestMismatch, match="chunk"):
        load_pickle(stream, "model.pkl")


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_joblib(tmp_path: Path, compress: object) -> None:
    """A joblib file with arrays of many kinds comes back as joblib itself reads it."""
    assert_arrays(by_bundle(tmp_path, joblib_file(arrays(), compress), chunk_size=10_000))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_joblib_of_every_protocol(protocol: int) -> None:
    """joblib files of every protocol are read."""
    assert_arrays(load(joblib_file(arrays(), protocol=protocol)))


def test_joblib_without_arrays() -> None:
    """What joblib writes of a model without arrays is a plain pickle."""
    assert load(joblib_file({"a": [1, "x"]})) == {"a": [1, "x"]}


@pytest.mark.parametrize(("before", "times"), [(1000, 1), (2_000_000, 2)])
@pytest.mark.parametrize("compress", [0, 3])
def test_first_array(before: int, times: int, compress: int) -> None:
    """A joblib file is loaded once where its first array is named early; where that is late, it begins again once."""
    Counts.times = 0
    loaded = load(joblib_file([Counts(), os.urandom(before), np.arange(3)], compress))
    assert isinstance(loaded, list)
    assert loaded[2].tolist() == [0, 1, 2]
    assert Counts.times == times


def test_plain_pickle_that_mentions_joblib() -> None:
    """A plain pickle whose text happens to name joblib's wrapper is loaded, once, all the same."""
    Counts.times = 0
    loaded = load(pickle.dumps(["NumpyArrayWrapper", Counts(), np.arange(3)]))
    assert isinstance(loaded, list)
    assert loaded[2].tolist() == [0, 1, 2]
    assert Counts.times == 1


@pytest.mark.parametrize("compress", [0, 3])
def test_joblib_and_wrong(compress: int) -> None:
    """A joblib file is refused if bytes follow it, if it ends in an array, and if it lacks a class."""
    inflate, deflate = (zlib.decompress, zlib.compress) if compress else (bytes, bytes)
    data = inflate(joblib_file({"a": np.arange(1000)}, compress))
    with pytest.raises(PickleInvalid, match=r"model\.pkl has bytes after the end of its pickle"):
        load(deflate(data + b"."))
    for length in (*range(0, 300, 7), len(data) - 1000, len(data) - 1):
        with pytest.raises(PickleInvalid, match=r"model\.pkl cannot be loaded: \w+: "):
            load(deflate(data[:length]))
    named = pickle.dumps(["NumpyArrayWrapper"], 0)[:-1]
    with pytest.raises(PickleInvalid, match="needs the module 'no_such_package' "):
        load(deflate(named + b"cno_such_package\nModel\n."))


def test_joblib_of_python_2() -> None:
    """A joblib file whose strings are those of Python 2 is read as Latin-1 too."""
    named = b"\x80\x02]q\x00(U\x11NumpyArrayWrapperU\x02\xe9\xffe."
    assert load(named) == ["NumpyArrayWrapper", "éÿ"]


@pytest.mark.parametrize("name", ["NDArrayWrapper", "ZNDArrayWrapper"])
@pytest.mark.parametrize("more", [b"", b"NumpyArrayWrapper"])
def test_joblib_arrays_in_other_files(tmp_path: Path, name: str, more: bytes) -> None:
    """joblib before 0.10 named other files, which no digest covers here: they are not opened."""
    np.save(tmp_path / "a.npy", np.arange(3))
    wrapper = f"cjoblib.numpy_pickle\n{name}\n)\x81}}(X\x08\0\0\0filenameX".encode()
    path = str(tmp_path / "a.npy").encode()
    data = b"\x80\x02" + wrapper + len(path).to_bytes(4, "little") + path + b"ub0U" + bytes([len(more)]) + more + b"."
    with pytest.raises(PickleInvalid, match="keeps its arrays in files of their own"):
        load(data)


def test_joblib_that_is_not_installed() -> None:
    """Without joblib a plain pickle is loaded as ever, and a joblib file is refused by joblib's name."""
    code = (
        "import io, pickle, sys\n"
        "sys.modules['joblib'] = None\n"
        "from loader.bundle.pickles import load_pickle\n"
        "print(load_pickle(io.BytesIO(pickle.dumps(['NumpyArrayWrapper'])), 'model.pkl'))\n"
        "load_pickle(io.BytesIO(sys.stdin.buffer.read()), 'model.pkl')\n"
    )
    for before in (10, 2_000_000):
        data = joblib_file([bytes(before), np.arange(3)])
        result = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)
        assert result.stdout.decode() == "['NumpyArrayWrapper']\n"
        assert "needs the module 'joblib' (for joblib.numpy_pickle.NumpyArrayWrapper)" in result.stderr.decode()


def test_missing_part_of_a_package() -> None:
    """A package that is here, in a version that lacks the pickle's module, is not said to be missing."""
    with pytest.raises(PickleInvalid, match=r"needs the module 'numpy\.no_such_part' "):
        load(b"\x80\x02cnumpy.no_such_part\nModel\n)\x81.")


@pytest.mark.parametrize(
    "path",
    ["model.pkl", "a/b.PICKLE", "m.p", "m.joblib", "m.pkl.gz", "m.pkl.bz2", "m.joblib.xz", "m.pkl.z", "m.pickle.lzma"],
)
def test_names_of_pickles(path: str) -> None:
    """A pickle is known by its name, compressed or not."""
    assert is_pickle(path)


@pytest.mark.parametrize(
    "path", ["pkl", "model.npy", "model.gz", "m.zip", "p", "x.pkl.txt", "x.pkl/readme", "model.pt"]
)
def test_names_of_others(path: str) -> None:
    """Other names are no pickles."""
    assert not is_pickle(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + (1 << 33).to_bytes(8, "little") + b"x.",
        b"\x80\x04\x96" + (1 << 40).to_bytes(8, "little") + b"x.",
        b"\x80\x04Nr\xff\xff\xff\x7f.",
        zlib.compress(b"\x80\x04\x8e" + (1 << 33).to_bytes(8, "little") + b"x."),
    ],
    ids=["bytes of 2^33", "bytearray of 2^40", "memo index of 2^31", "compressed"],
)
def test_more_memory_than_there_is(data: bytes) -> None:
    """A pickle that asks for more memory than there is ends in a sentence, not in a traceback."""
    code = (
        "import io, resource, sys\n"
        "from loader.bundle.errors import PickleInvalid\n"
        "from loader.bundle.pickles import load_pickle\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "try: load_pickle(io.BytesIO(sys.stdin.buffer.read()), 'model.pkl')\n"
        "except PickleInvalid as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert result.stdout == b"model.pkl needs more memory than there is. Ask for more memory\n"
