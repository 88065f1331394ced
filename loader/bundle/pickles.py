"""Turning a verified stream into an object, whoever wrote it: Python 3, Python 2 long ago, joblib; compressed or not.

joblib.dump writes a pickle in which each numpy array is a `joblib.numpy_pickle.NumpyArrayWrapper`, and the array's own
bytes follow in the stream right after the wrapper's BUILD opcode. Only joblib's unpickler knows that, and it is written
in Python, five times slower than C's. So the C unpickler begins, and when the pickle asks for that class it stops and
joblib's begins again from the first byte.

What the pickle had done by then (imports, constructors, `__setstate__`) is dropped and done again, as when a file is
loaded twice. That is rare: where the class is named within the first MiB, as the first array of nearly every joblib
file is, joblib's unpickler is the only one that runs. Reading ahead through the whole file instead would make each
plain pickle slower. What a plain pickle does, it does once.
"""

from __future__ import annotations

import gc
import importlib
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

from loader.bundle import legacy
from loader.bundle.compressed import open_decompressed
from loader.bundle.errors import PantryError, PickleInvalid

PICKLE_ENDINGS = (".pkl", ".pickle", ".p", ".joblib")
COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".lzma", ".z")
WRAPPER = "NumpyArrayWrapper"  # joblib's class, behind which an array's bytes are in the stream
OLD_WRAPPERS = ("NDArrayWrapper", "ZNDArrayWrapper")  # its classes of before 0.10, for arrays in files of their own
_HEAD_BYTES = 1024 * 1024
_NPY = b"\x93NUMPY"
_OF_OBJECTS = re.compile(rb"'descr': *'\|O'")


def is_pickle(path: str) -> bool:
    """Tell by its name whether an asset is a pickle: .pkl, .pickle, .p or .joblib, with or without .gz and the like."""
    name = path.lower()
    for ending in COMPRESSED_ENDINGS:
        name = name.removesuffix(ending)
    return name.endswith(PICKLE_ENDINGS)


def is_pickled_array(head: bytes) -> bool:
    """Tell by its first bytes whether a file is an array of objects as `numpy.save` writes it: a pickle with a head."""
    return head.startswith(_NPY) and _OF_OBJECTS.search(head) is not None


def load_pickle(stream: BinaryIO, where: str) -> object:
    """Unpickle a verified stream. This runs the pickle's code.

    Plain pickles of any protocol, joblib's files, and both inside gzip, zlib, bz2, xz or lzma, told by their content;
    `.npy` files, too, of numbers or of objects.
    Python 2's `str` is read as Latin-1, which keeps every byte and is what numpy arrays of that time need; pickles of
    Python 3 hold no such strings and are not affected. The garbage collector is off meanwhile: it would scan the
    growing heap over and over.

    Args:
        stream: seekable, at its beginning: what `Bundle.reader` returns, or another stream that can be trusted. There
            is no limit to what it may inflate to: the manifest vouches for it as for everything else in it.
        where: what to call it in an error.

    Raises:
        PickleInvalid: the stream is no pickle, needs a module that this image lacks, or its own code failed.
        DigestMismatch: a chunk is not what the manifest says.
    """
    with unpickling(where):
        inner = open_decompressed(stream, where)
        head = inner.read(len(_NPY))
        inner.seek(0)
        loaded = _load_npy(inner) if head == _NPY else _load(inner)
        if inner.read(1):
            raise PickleInvalid(f"{where} has bytes after the end of its pickle", hint="Write one pickle to a file")
        return loaded


@contextmanager
def unpickling(where: str) -> Iterator[None]:
    """Keep the garbage collector off while a pickle's code runs, and say in a sentence how that failed.

    Args:
        where: what to call the pickle in an error.

    Raises:
        PickleInvalid: its code failed, or needs more memory than there is.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    except PantryError:
        raise
    except MemoryError as error:
        raise PickleInvalid(f"{where} needs more memory than there is", hint="Ask for more memory") from error
    except (Exception, SystemExit) as error:  # whatever the pickle's own code raises
        raise PickleInvalid(f"{where} cannot be loaded: {type(error).__name__}: {_first_line(error)}") from error
    finally:
        if collecting:
            gc.enable()


def _load_npy(stream: BinaryIO) -> object:
    """Read an array as `numpy.load` does, and its objects as any pickle's."""
    form: Any = importlib.import_module("numpy.lib.format")  # it has no types
    is_first = form.read_magic(stream) == (1, 0)
    shape, _, dtype = (form.read_array_header_1_0 if is_first else form.read_array_header_2_0)(stream)
    if dtype.hasobject:
        array: Any = _Unpickler(stream, encoding="latin1").load()
        return array.reshape(shape)
    stream.seek(0)
    return form.read_array(stream, allow_pickle=False)


def _load(stream: BinaryIO) -> object:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    if WRAPPER.encode() not in head:
        del head
        try:
            return _Unpickler(stream, encoding="latin1").load()
        except _HasInlinedArrays:
            stream.seek(0)
    return _load_joblib(stream)


class _HasInlinedArrays(Exception):
    """The pickle is joblib's."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> object:
        found = find_class(super().find_class, module, name)
        if name.endswith(WRAPPER) and getattr(found, "__module__", None) == "joblib.numpy_pickle":
            raise _HasInlinedArrays
        return found


def _load_joblib(stream: BinaryIO) -> object:
    try:
        joblib = importlib.import_module("joblib.numpy_pickle")
    except ModuleNotFoundError:
        return _Unpickler(stream, encoding="latin1").load()  # names joblib if the pickle does need it
    unpickler = joblib.NumpyUnpickler("", stream, ensure_native_byte_order=True)
    unpickler.encoding = "latin1"
    unpickler.find_class = partial(find_class, unpickler.find_class)  # joblib itself hooks in this way
    try:
        return unpickler.load()
    finally:
        del unpickler.find_class  # a cycle would keep the memo, and with it the model, until a collection


def find_class(find: Callable[[str, str], object], module: str, name: str) -> object:
    """Find what a pickle imports, and name a missing module by the pickle's own words: the import's may name another.

    Args:
        find: the unpickler's own way.
        module: as the pickle names it.
        name: of the class or function, as the pickle names it.

    Raises:
        PickleInvalid: this image lacks the module, or has nothing that the name could be today, or joblib wrote the
            arrays into files of their own.
    """
    if name.rpartition(".")[2] in OLD_WRAPPERS and module.partition(".")[0] == "joblib":
        raise PickleInvalid(
            "the pickle keeps its arrays in files of their own, as joblib did before 0.10",
            hint="Write it again with joblib.dump of a newer joblib",
        )
    try:
        return legacy.find(find, module, name)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if sys.modules.get(package):  # it is here, and lacks a part that another version of it had
            package = module
        raise PickleInvalid(
            f"the pickle needs the module {package!r} (for {module}.{name}), which this image does not have",
            hint="Use an image with it, or another `predictor`",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
