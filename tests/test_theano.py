"""Pickles that real old Theano wrote, on the Theano of today's image; tests/pickles/README.md says what they hold."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from loader.bundle import theano_compat

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Theano 1.0.5 needs Python 3.12 or older: make test PYTHON=python3.12 VENV=..."
)

PICKLES = Path(__file__).with_name("pickles")
X = np.ones((2, 4), np.float32)

writer = pytest.mark.parametrize("writer", ["theano-0.9.0-py2.7", "theano-1.0.5-py2.7"])
kind = pytest.mark.parametrize(("suffix", "answer"), [("", "y"), ("_scan", "s")], ids=["plain", "scan"])


@pytest.fixture(scope="module", name="theano")
def imported_theano() -> ModuleType:
    theano_compat.prepare()
    import theano

    return theano  # type: ignore[no-any-return]


def load(writer: str, name: str) -> Any:
    """Loads a pickle of Python 2, as the server does."""
    with (PICKLES / writer / f"{name}.pkl").open("rb") as file:
        return pickle.load(file, encoding="latin1")


def close_to_expected(writer: str, answer: str, got: Any) -> bool:
    with np.load(PICKLES / writer / "expected.npz") as expected:
        return np.allclose(got, expected[answer], rtol=1e-5)


@writer
@kind
def test_compiled_function(theano: ModuleType, writer: str, suffix: str, answer: str) -> None:
    """A function that Python 2.7 compiled and pickled answers what it answered then."""
    del theano
    function = load(writer, f"function{suffix}")
    assert close_to_expected(writer, answer, function(X))


@writer
@kind
def test_graph(theano: ModuleType, writer: str, suffix: str, answer: str) -> None:
    """A pickled symbolic graph can be compiled here, and answers what it answered on Python 2.7."""
    graph = load(writer, f"graph{suffix}")
    [got] = theano.function(graph["inputs"], graph["outputs"])(X)
    assert close_to_expected(writer, answer, got)


@writer
def test_shared_variables(theano: ModuleType, writer: str) -> None:
    """Pickled shared variables have their values and can be used in a new function."""
    shared = load(writer, "shared")
    assert {name: variable.get_value().shape for name, variable in shared.items()} == {"W": (4, 3), "b": (3,)}
    x = theano.tensor.fmatrix()
    function = theano.function([x], theano.tensor.nnet.softmax(theano.tensor.dot(x, shared["W"]) + shared["b"]))
    assert close_to_expected(writer, "y", function(X))


def test_new_function_is_compiled(theano: ModuleType) -> None:
    """A function written today, with a gradient, is compiled by the C++ compiler where there is one."""
    x = theano.tensor.dvector()
    function = theano.function([x], theano.grad((theano.tensor.exp(x) * x).sum(), x))
    assert np.allclose(function([0.0, 1.0]), [1.0, 2 * np.e])
    assert bool(theano.config.cxx) == theano_compat._can_compile()


def python(code: str, **environment: str) -> str:
    """Runs code in a Python of its own, with no more in the environment than asked for, warnings being errors."""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.defpath} | environment
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "from loader.bundle.theano_compat import prepare\nprepare()\n" + code,
    ]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def test_without_a_compiler(tmp_path: Path) -> None:
    """Without a C++ compiler, functions that were pickled with one run, and THEANO_FLAGS of the user's stay."""
    flags = "floatX=float32,blas.ldflags=-lm"
    code = f"""
import json, numpy, pickle
answers = []
for name in ["function", "function_scan"]:
    with open({str(PICKLES)!r} + "/theano-1.0.5-py2.7/" + name + ".pkl", "rb") as file:
        answers.append(numpy.ravel(pickle.load(file, encoding="latin1")(numpy.ones((2, 4), "f4"))).tolist())
import theano
config = theano.config
print(json.dumps([answers, config.cxx, config.floatX, config.blas.ldflags, config.base_compiledir]))
"""
    answers, *config = json.loads(
        python(code, PATH=str(tmp_path), HOME="/nonexistent", THEANO_FLAGS=flags, THEANO_COMPILEDIR=str(tmp_path / "c"))
    )
    assert config == ["", "float32", "-lm", str(tmp_path / "c")]
    with np.load(PICKLES / "theano-1.0.5-py2.7" / "expected.npz") as expected:
        assert np.allclose(answers[0], expected["y"].ravel(), rtol=1e-5)
        assert np.allclose(answers[1], expected["s"].ravel(), rtol=1e-5)


def test_prepare_is_cheap_and_idempotent() -> None:
    """Preparing imports neither Theano nor numpy, and doing it twice is doing it once."""
    code = """
import sys
before = list(sys.meta_path)
prepare()
print("numpy" in sys.modules, "theano" in sys.modules, sys.meta_path == before)
"""
    assert python(code) == "False False True"


def test_compile_dir_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code is not looked for in a directory of the expected name that somebody else may have prepared."""
    monkeypatch.delenv("THEANO_COMPILEDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    expected = tmp_path / f"theano-{os.getuid()}"
    assert theano_compat._compile_dir() == str(expected)
    assert theano_compat._compile_dir() == str(expected)
    expected.rmdir()
    expected.symlink_to(tmp_path)
    assert theano_compat._compile_dir() != str(expected)
