"""Turning a verified stream into an object, whoever wrote the pickle: Python 3, or Python 2 long ago."""

from __future__ import annotations

import gc
import pickle
from typing import BinaryIO

from loader.bundle.errors import PantryError, PickleInvalid


def load_pickle(stream: BinaryIO, where: str) -> object:
    """Unpickle a verified stream. This runs the pickle's code.

    Python 2's `str` is read as Latin-1, which keeps every byte and is what numpy arrays of that time need; pickles of
    Python 3 hold no such strings and are not affected. The garbage collector is off meanwhile: it would scan the
    growing heap over and over.

    Args:
        stream: what `Bundle.reader` returns, or another stream that can be trusted.
        where: what to call it in an error.

    Raises:
        PickleInvalid: the stream is no pickle, needs a module that this image lacks, or its own code failed.
        DigestMismatch: a chunk is not what the manifest says.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        loaded = _Unpickler(stream, encoding="latin1").load()
        if stream.read(1):
            raise PickleInvalid(f"{where} has bytes after the end of its pickle", hint="Write one pickle to a file")
        return loaded
    except PantryError:
        raise
    except MemoryError as error:
        raise PickleInvalid(f"{where} needs more memory than there is", hint="Ask for more memory") from error
    except (Exception, SystemExit) as error:  # whatever the pickle's own code raises
        raise PickleInvalid(f"{where} cannot be loaded: {type(error).__name__}: {_first_line(error)}") from error
    finally:
        if collecting:
            gc.enable()


class _Unpickler(pickle.Unpickler):
    """Names the missing module by the pickle's own words: the error of a failed import may name another."""

    def find_class(self, module: str, name: str, /) -> object:
        try:
            return super().find_class(module, name)
        except ModuleNotFoundError as error:
            package = module.partition(".")[0]
            raise PickleInvalid(
                f"the pickle needs the module {package!r} (for {module}.{name}), which this image does not have",
                hint="Use an image with it, or another `predictor`",
            ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
