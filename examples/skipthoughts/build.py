"""Make a skip-thoughts sentence encoder as a service of 2016 has it on its disk, and write it as a bundle's source.

python build.py OUT_DIR                       uni-skip and bi-skip: vectors of 4,800 numbers
python build.py OUT_DIR --encoders uni        one of the two: vectors of 2,400
python build.py OUT_DIR --words 930000        a word table of the real size: 2.3 GB for each encoder
python build.py OUT_DIR --form weights        without Theano: weights, which the predictor computes with by numpy

The trained weights come with no package, so these are random, from a seed that --version sets; every shape and file is
as it was: words of 620 numbers, a GRU of 2,400 units (uni-skip), two of 1,200 that read from either end (bi-skip).

    dictionary.txt              the words, one a line, in UTF-8
    utable.npy, btable.npy      object arrays of their vectors, as numpy on Python 2.7 saved them
    uni.pkl, bi.pkl             compiled Theano functions of (embedding, mask); or OrderedDicts of their weights
    options.pkl                 what the training was told
"""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import re
import shutil
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn import datasets

Array = np.ndarray[Any, np.dtype[Any]]

WORD = 620  # numbers
UNITS = {"uni": 2400, "bi": 1200}
TABLES = {"uni": "utable.npy", "bi": "btable.npy"}


def main() -> None:
    options = parse()
    out = options.directory
    out.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    shutil.copyfile(here / "predictor.py", out / "predictor.py")
    config = (here / "model.yaml").read_text()
    (out / "model.yaml").write_text(config.replace("4800", str(2400 * len(options.encoders))))
    names = words(options.words)
    (out / "dictionary.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    write_pickle(
        out / "options.pkl", OrderedDict(encoder="gru", dim_word=WORD, dim=2400, dim_bi=1200, n_words=len(names))
    )
    for number, name in enumerate(options.encoders):
        write_table(out / TABLES[name], vectors(len(names), seed=options.version * 10 + number))
        found = weights(name, options.version)
        write_pickle(out / f"{name}.pkl", found if options.form == "weights" else function(name, found))
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{' and '.join(options.encoders)}-skip over {len(names)} words, as {options.form}: {size / 1e6:.0f} MB")


def words(count: int) -> list[str]:
    """The marks of skip-thoughts, English words of texts that come with scikit-learn, and made-up ones."""
    text = " ".join(load().DESCR for load in (datasets.load_digits, datasets.load_iris, datasets.load_wine,
                                              datasets.load_breast_cancer, datasets.load_diabetes))  # fmt: skip
    found = dict.fromkeys(["<eos>", "UNK", "café", ",", ".", *re.findall(r"[a-z]+", text.lower())])
    found |= dict.fromkeys(f"word{number}" for number in range(max(0, count - len(found))))
    return list(found)[:count]


def vectors(count: int, seed: int) -> Iterator[Array]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield random.standard_normal(WORD, np.float32) / 10


def weights(name: str, version: int) -> OrderedDict[str, Array]:
    """The weights of an encoder by the names that skip-thoughts gave them; a second GRU's end in _r."""
    random, units = np.random.default_rng([version, len(name)]), UNITS[name]
    shapes = {"W": (WORD, 2 * units), "b": (2 * units,), "U": (units, 2 * units)}
    shapes |= {"Wx": (WORD, units), "bx": (units,), "Ux": (units, units)}
    return OrderedDict(
        (f"encoder_{key}{end}", random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0])))
        for end in (("", "_r") if name == "bi" else ("",))
        for key, shape in shapes.items()
    )


def function(name: str, found: OrderedDict[str, Array]) -> Any:
    """Compile an encoder as skip-thoughts did: of (embedding, x_mask), time first, to the last state."""
    from loader.bundle.theano_compat import prepare

    prepare()
    import theano
    from theano import tensor

    embedding, mask = tensor.tensor3("embedding", "float32"), tensor.matrix("x_mask", "float32")
    shared = {key: theano.shared(value, name=key) for key, value in found.items()}

    def gru(x: Any, m: Any, end: str) -> Any:
        p = {key: shared[f"encoder_{key}{end}"] for key in ("W", "b", "U", "Wx", "bx", "Ux")}
        units = UNITS[name]

        def step(m: Any, x: Any, xx: Any, h: Any, u: Any, ux: Any) -> Any:
            gates = tensor.nnet.sigmoid(tensor.dot(h, u) + x)
            reset, update = gates[:, :units], gates[:, units:]
            new = tensor.tanh(tensor.dot(h, ux) * reset + xx)
            new = update * h + (1.0 - update) * new
            return m[:, None] * new + (1.0 - m)[:, None] * h

        inputs = [m, tensor.dot(x, p["W"]) + p["b"], tensor.dot(x, p["Wx"]) + p["bx"]]
        start = tensor.alloc(np.float32(0), x.shape[1], units)
        states, _ = theano.scan(step, sequences=inputs, outputs_info=[start], non_sequences=[p["U"], p["Ux"]])
        return states[-1]

    states = [gru(embedding, mask, "")]
    if name == "bi":
        states.append(gru(embedding[::-1], mask[::-1], "_r"))
    return theano.function([embedding, mask], tensor.concatenate(states, axis=1), name="f_enc")


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes protocol 2 as Python 2 did: text and bytes alike are its `str`."""

    def save_str(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, str: save_str, bytes: save_str}  # type: ignore[attr-defined]


class TablePickler(Python2Pickler):
    """Remembers no arrays: they are many, and all different."""

    def memoize(self, value: object) -> None:
        if not isinstance(value, np.ndarray | bytes | tuple):
            super().memoize(value)


def write_pickle(path: Path, value: Any) -> None:
    sys.setrecursionlimit(100_000)  # Theano's graphs are deep
    with path.open("wb") as file:
        Python2Pickler(file, 2).dump(value)


def write_table(path: Path, rows: Iterator[Array]) -> None:
    """Write an object array of vectors as `numpy.save` did on Python 2."""
    found = list(rows)
    table = np.empty(len(found), object)
    table[:] = found
    header = {"descr": "|O", "fortran_order": False, "shape": table.shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        TablePickler(file, 2).dump(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a skip-thoughts encoder and write it as a bundle's source.")
    parser.add_argument("directory", type=Path, metavar="OUT_DIR", help="gets the files")
    parser.add_argument("--version", type=int, default=1, help="seed of the weights (default 1)")
    parser.add_argument("--words", type=int, default=2000, help="in the table (default 2000; the real one has 930000)")
    parser.add_argument("--encoders", choices=("uni", "bi", "both"), default="both", help="which (default both)")
    theano = sys.version_info < (3, 13) and importlib.util.find_spec("theano") is not None
    default = "functions" if theano else "weights"
    parser.add_argument("--form", choices=("functions", "weights"), default=default, help="default here: %(default)s")
    options = parser.parse_args()
    options.encoders = ["uni", "bi"] if options.encoders == "both" else [options.encoders]
    return options


if __name__ == "__main__":
    main()
