"""Pickles that real old Theano wrote, on the Theano of today's image; tests/pickles/README.md says what they hold."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from loader.bundle import theano_cache, theano_compat
from loader.bundle.errors import PickleInvalid
from loader.bundle.pickles import load_pickle

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Theano 1.0.5 needs Python 3.12 or older: make test PYTHON=python3.12 VENV=..."
)

PICKLES = Path(__file__).with_name("pickles")
X = np.ones((2, 4), np.float32)

PYTHON_2 = ["theano-0.7.0-py2.7", "theano-0.9.0-py2.7", "theano-1.0.5-py2.7"]
PYMC = "theano-pymc-1.1.2-py3.10"

of_python_2 = pytest.mark.parametrize("writer", PYTHON_2)
of_all = pytest.mark.parametrize("writer", [*PYTHON_2, PYMC])
with_gpu = pytest.mark.parametrize("writer", ["theano-0.9.0-py2.7", "theano-1.0.5-py2.7"])
kind = pytest.mark.parametrize(("suffix", "answer"), [("", "y"), ("_scan", "s")], ids=["plain", "scan"])


@pytest.fixture(scope="module", name="theano")
def imported_theano() -> ModuleType:
    theano_compat.prepare()
    import theano

    return theano  # type: ignore[no-any-return]


def load(writer: str, name: str) -> Any:
    """Loads a pickle as the server does."""
    with (PICKLES / writer / f"{name}.pkl").open("rb") as file:
        return load_pickle(file, f"{name}.pkl")


def close_to_expected(writer: str, answer: str, got: Any) -> bool:
    with np.load(PICKLES / writer / "expected.npz") as expected:
        return np.allclose(got, expected[answer], rtol=1e-5)


def answers_as_expected(theano: ModuleType, writer: str, shared: Any) -> bool:
    """Tells whether two variables of a dict, in a new function, answer as those of the writer did in its own."""
    x = theano.tensor.fmatrix()
    function = theano.function([x], theano.tensor.nnet.softmax(theano.tensor.dot(x, shared["W"]) + shared["b"]))
    return close_to_expected(writer, "y", function(X))


@of_python_2
@kind
def test_compiled_function(theano: ModuleType, writer: str, suffix: str, answer: str) -> None:
    """A function that Python 2.7 compiled and pickled answers what it answered then."""
    del theano
    function = load(writer, f"function{suffix}")
    assert close_to_expected(writer, answer, function(X))


@of_all
@kind
def test_graph(theano: ModuleType, writer: str, suffix: str, answer: str) -> None:
    """A pickled symbolic graph, the fork's too, can be compiled here, and answers what it answered then."""
    graph = load(writer, f"graph{suffix}")
    [got] = theano.function(graph["inputs"], graph["outputs"])(X)
    assert close_to_expected(writer, answer, got)


@of_all
def test_shared_variables(theano: ModuleType, writer: str) -> None:
    """Pickled shared variables have their values and can be used in a new function."""
    shared = load(writer, "shared")
    assert {name: variable.get_value().shape for name, variable in shared.items()} == {"W": (4, 3), "b": (3,)}
    assert answers_as_expected(theano, writer, shared)


@with_gpu
def test_shared_variables_of_a_gpu(theano: ModuleType, writer: str) -> None:
    """Variables that were on a GPU, of the old or the new back-end, are the CPU's, with the same values."""
    shared, on_cpu = load(writer, "gpu_shared"), load(writer, "shared")
    for name, variable in shared.items():
        assert type(variable) is type(on_cpu[name])
        assert variable.type == on_cpu[name].type
        assert (variable.get_value() == on_cpu[name].get_value()).all()
    assert answers_as_expected(theano, writer, shared)


@with_gpu
def test_graph_of_a_gpu(theano: ModuleType, writer: str) -> None:
    """A graph with variables on a GPU is computed on the CPU, and answers the same."""
    graph = load(writer, "gpu_graph")
    [got] = theano.function(graph["inputs"], graph["outputs"])(X)
    assert close_to_expected(writer, "y", got)


@pytest.mark.parametrize("name", ["theano.sandbox.cuda.blas\nGpuGemm", "theano.gpuarray.blas\nGpuDot22"])
def test_function_of_a_gpu(name: str) -> None:
    """A function that was compiled for a GPU is refused, with what would do instead."""
    with pytest.raises(PickleInvalid, match=r"compiled for a GPU \(it needs .*Gpu.*Pickle its graph"):
        load_pickle(io.BytesIO(b"\x80\x02c" + name.encode() + b"\n."), "model.pkl")


@pytest.mark.parametrize("suffix", ["", "_scan"])
def test_function_of_the_fork(suffix: str) -> None:
    """A function that Theano-PyMC compiled is refused by that name, with what would do instead."""
    with pytest.raises(PickleInvalid, match="a function that Theano-PyMC compiled.*Pickle its graph"):
        load(PYMC, f"function{suffix}")


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


LOAD = f"""
import numpy, pickle
with open({str(PICKLES / "theano-1.0.5-py2.7")!r} + "/function_scan.pkl", "rb") as file:
    function = pickle.load(file, encoding="latin1")
"""


def test_what_was_compiled_is_found_again(tmp_path: Path) -> None:
    """A process compiles nothing that an earlier one compiled for the same function: its directory gets no file."""
    if not theano_compat._can_compile():
        pytest.skip("there is no C++ compiler")
    environment = {"THEANO_COMPILEDIR": str(tmp_path), "TMPDIR": str(tmp_path.parent)}
    python(LOAD, **environment)
    compiled = {path for path in tmp_path.rglob("*.so") if "lock_dir" not in path.parts}
    assert len(compiled) > 10
    python(LOAD, **environment)
    assert set(tmp_path.rglob("*.so")) == compiled


def test_a_new_directory_begins_with_what_the_image_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that was compiled with the image is copied into a directory that is new, and into no other."""
    baked = tmp_path / "baked"
    monkeypatch.setattr(theano_cache, "BAKED", baked)
    monkeypatch.setattr(theano_cache, "processor_is_known", lambda: True)
    monkeypatch.setenv("THEANO_COMPILEDIR", str(tmp_path / "volume"))
    base, name = (flag.partition("=")[2] for flag in theano_cache.flags(set()))
    assert base == str(tmp_path / "volume")
    (baked / name / "tmp1").mkdir(parents=True)
    (baked / name / "tmp1/key.pkl").write_text("baked")
    os.utime(baked / name / "tmp1/key.pkl", (0, 0))
    assert theano_cache.flags(set())[-1] == "gcc.cxxflags=-march=x86-64-v3"
    copied = tmp_path / "volume" / name / "tmp1/key.pkl"
    assert copied.read_text() == "baked"
    assert time.time() - copied.stat().st_mtime < 3600  # Theano throws away what is old
    copied.write_text("changed")
    theano_cache.flags(set())
    assert copied.read_text() == "changed"
    assert [path.name for path in (tmp_path / "volume").iterdir()] == [name]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"compiledir"}, []),
        ({"base_compiledir", "floatX"}, []),
        ({"compiledir_format"}, ["base_compiledir"]),
        ({"floatX"}, ["base_compiledir", "compiledir_format"]),
    ],
)
def test_flags_of_the_user(given: set[str], expected: list[str]) -> None:
    """What the user says about the directory is not contradicted."""
    assert [flag.partition("=")[0] for flag in theano_cache.flags(given)] == expected


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
    assert theano_cache.directory() == str(expected)
    assert theano_cache.directory() == str(expected)
    expected.rmdir()
    expected.symlink_to(tmp_path)
    assert theano_cache.directory() != str(expected)
