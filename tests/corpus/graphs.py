"""Theano's and PyTensor's kinds, and what Python 2.7 pickled; tests/pickles/README.md says what that is."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from loader.bundle import theano_compat
from loader.bundle.pickles import load_pickle
from tests.corpus.kinds import Kind

PICKLES = Path(__file__).parent.parent / "pickles"
ROWS = np.ones((2, 4), np.float32)
# In Python alone, which is quicker and needs no compiler; it makes a directory for compiled code all the same.
_PYTENSOR_FLAGS = f"cxx=,blas__ldflags=,base_compiledir={Path(tempfile.gettempdir(), f'pytensor-{os.getuid()}')}"
WEIGHTS = np.sin(np.arange(30_000, dtype=np.float64)).reshape(300, 100)


def _library(name: str) -> Any:
    if name == "theano":
        theano_compat.prepare()
    os.environ.setdefault("PYTENSOR_FLAGS", _PYTENSOR_FLAGS)
    import_module(f"{name}.tensor")
    return import_module(name)


def _shared(name: str) -> Any:
    library = _library(name)
    return {"w": library.shared(WEIGHTS, name="w"), "n": library.shared(3, name="n")}


def _asked_shared(variables: dict[str, Any]) -> Any:
    """Answers of shared variables that are read, used in a new function, and set."""
    weights = variables["w"]
    library = import_module(type(weights).__module__.partition(".")[0])
    x = library.tensor.vector("x", dtype="float64")
    function = library.function([x], library.tensor.dot(x, weights))
    before = [weights.get_value(), variables["n"].get_value(), function(np.arange(300.0)), weights.name]
    weights.set_value(weights.get_value(borrow=True) * 2)
    return [before, function(np.arange(300.0))]


def _learner(name: str) -> Any:
    """A compiled function that changes a shared variable with every call."""
    library = _library(name)
    weights, x = library.shared(WEIGHTS.copy(), name="w"), library.tensor.vector("x", dtype="float64")
    return library.function(
        [x], library.tensor.tanh(library.tensor.dot(x, weights)), updates=[(weights, weights * 0.5)]
    )


def _graph(name: str) -> Any:
    library = _library(name)
    x = library.tensor.vector("x", dtype="float64")
    return {"x": x, "y": library.tensor.exp(x).sum() * library.tensor.constant(np.arange(3.0))}


def _compiled(graph: dict[str, Any]) -> Any:
    library = import_module(type(graph["x"]).__module__.partition(".")[0])
    return library.function([graph["x"]], graph["y"])(np.arange(4.0))


def _old(writer: str, name: str) -> Any:
    if not name.startswith(("params", "zoo")):
        _library("theano")
    with (PICKLES / writer / f"{name}.pkl").open("rb") as stream:
        return load_pickle(stream, name)


def _values(shared: dict[str, Any]) -> Any:
    return {name: variable.get_value() for name, variable in shared.items()}


OLD = {
    "params_arrays": (dict, ()),
    "zoo": (lambda made: made, ()),
    "shared": (_values, ("theano",)),
    "function": (lambda function: function(ROWS), ("theano",)),
    "function_scan": (lambda function: function(ROWS), ("theano",)),
    "graph": (lambda made: import_module("theano").function(made["inputs"], made["outputs"])(ROWS), ("theano",)),
}

KINDS = [
    Kind(f"{name} {what}", partial(make, name), answer, (name,), proved=make is not _learner)
    for name in ("theano", "pytensor")
    for what, make, answer in (
        ("shared variables", _shared, _asked_shared),
        ("compiled function", _learner, lambda function: [function(np.arange(300.0)) for _ in range(3)]),
        ("graph", _graph, _compiled),
    )
] + [
    Kind(f"{name} of {writer}", partial(_old, writer, name), answer, needs, proved="function" not in name)
    for writer in ("theano-0.9.0-py2.7", "theano-1.0.5-py2.7")
    for name, (answer, needs) in OLD.items()
]
