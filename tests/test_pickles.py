"""Unpickling: pickles of Python 3, of Python 2 long ago, and ones that cannot become an object."""

from __future__ import annotations

import gc
import io
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from loader.bundle.bundle import Bundle
from loader.bundle.errors import DigestMismatch, PickleInvalid
from loader.bundle.pickles import load_pickle
from tests.sources import published, write_files

OLD = Path(__file__).with_name("pickles")


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


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
