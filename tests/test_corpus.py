"""Packing keeps models as they are: every kind of the corpus answers the same after it was packed and loaded."""

from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

from loader.bundle.bundle import Bundle
from loader.bundle.digest import digest_of
from loader.bundle.manifest import MANIFEST_NAME
from loader.bundle.pack.proof import digest_object
from loader.bundle.pack.reader import load_pack
from loader.bundle.pack.record import PackedPickle
from loader.bundle.pack.writer import write_pack
from loader.packing import pack_directory
from loader.publish import describe
from loader.report import Report
from tests.corpus import IN_MEMORY, KINDS
from tests.corpus.kinds import Kind, same
from tests.sources import ROOT

# numpy says so of every np.matrix that is made, scipy's and ours alike.
pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

_SHARED_BY_ALL = (type, ModuleType, FunctionType, BuiltinFunctionType)


def load(path: Path) -> Any:
    with path.open("rb") as stream:
        return load_pack(stream, path, path.name)


def mapped_arrays(root: object) -> list[Any]:
    """Return every array below an object whose memory is no array's own: it may be a file's."""
    found, seen, left = [], {id(root)}, [root]
    while left:
        value = left.pop()
        if isinstance(value, np.ndarray):
            base: Any = value
            while isinstance(base, np.ndarray):
                base = base.base
            if base is not None:
                found.append(value)
        for inner in gc.get_referents(value):
            if id(inner) not in seen and not isinstance(inner, _SHARED_BY_ALL):
                seen.add(id(inner))
                left.append(inner)
    return found


def overwrite(root: object) -> None:
    """Put other bytes into every array that may be in the mapped file."""
    for array in mapped_arrays(root):
        if array.flags.writeable and not array.dtype.hasobject:
            np.copyto(array, np.full(array.itemsize, 0x5A, np.uint8).view(array.dtype)[0])


def test_the_corpus_is_a_corpus() -> None:
    """There are 60 kinds and far more, each with a name of its own."""
    assert len(KINDS) > 300
    assert max(Counter(kind.name for kind in KINDS).values()) == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_packed_model_answers_as_its_pickle(kind: Kind, tmp_path: Path) -> None:
    """A model that was unpickled, packed and loaded is of the same type and answers the same, to the last bit.

    So do all that are loaded from one pack: what is written into one is in neither the other nor the file. The packer's
    own proof says the same.
    """
    if missing := kind.missing():
        pytest.skip(f"not here: {', '.join(missing)}")
    original, path = kind.make(), tmp_path / "model.pack"
    data = pickle.dumps(original, protocol=5)
    unpickled = pickle.loads(data)
    expected = kind.answer(pickle.loads(data))
    write_pack(unpickled, path)
    digest = digest_of(path.read_bytes())

    scratch, model = load(path), load(path)
    if kind.proved:
        assert digest_object(scratch) == digest_object(unpickled)
    overwrite(scratch)
    assert type(model) is type(original)
    assert same(kind.answer(model), expected)
    assert same(kind.answer(load(path)), expected)
    assert digest_of(path.read_bytes()) == digest
    assert same(kind.answer(unpickled), expected), "the packer changed what it packed"
    assert same(kind.answer(original), expected) is kind.as_pickle


ASK = """
import pickle, sys
from pathlib import Path
from loader.bundle import theano_compat
from loader.bundle.bundle import Bundle
from tests.corpus import IN_MEMORY, KINDS
theano_compat.prepare()
model = Bundle.open(Path(sys.argv[1])).load("model.pkl")
answers = {kind.name: kind.answer(model[kind.name]) for kind in KINDS if kind.name in model}
sys.stdout.buffer.write(pickle.dumps(answers, protocol=5))  # others make big-endian arrays native
"""


def test_a_packed_bundle_answers_as_its_pickle_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle with most of the corpus in one pickle is packed, proved and loaded by other processes."""
    asked = [kind for kind in KINDS if kind.proved and not kind.needs]  # libraries take long to import, six times
    data = pickle.dumps({kind.name: kind.make() for kind in asked}, protocol=5)
    (tmp_path / "model.pkl").write_bytes(data)
    monkeypatch.setattr("loader.packing.FASTER", 0.0)  # most of these are no slower as they are
    pack_directory(tmp_path, Report(io.StringIO()))
    (tmp_path / MANIFEST_NAME).write_bytes(describe(tmp_path)[0].encode())
    packed = Bundle.open(tmp_path).find_pack("model.pkl")
    assert isinstance(packed, PackedPickle), packed
    assert packed.form == "columns", packed.reason

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    answers, model = pickle.loads(done.stdout), pickle.loads(data)
    assert list(answers) == [kind.name for kind in asked]
    different = [kind.name for kind in asked if not same(answers[kind.name], kind.answer(model[kind.name]))]
    assert different == []


@pytest.mark.parametrize("kind", IN_MEMORY, ids=lambda kind: kind.name)
def test_a_packed_object_answers_as_itself(kind: Kind, tmp_path: Path) -> None:
    """An object that never was pickled, with whatever views and gaps it has in memory, answers the same too."""
    original, path = kind.make(), tmp_path / "model.pack"
    write_pack(original, path)
    assert same(kind.answer(load(path)), kind.answer(original))
