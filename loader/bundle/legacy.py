"""Names in old pickles, and what they are called today; and why some cannot be had.

    numpy before 2      `numpy.string_` and the like have gone; so has `numpy.float`, which was Python's
    Theano on a GPU     shared variables become those of the CPU; the transfer to the host becomes nothing. The GPU's
                        own operations, which only a compiled function has, do not exist here
    Theano-PyMC         the fork of 2020 has other names for Theano's modules; its compiled functions do not fit

What Python 2 calls otherwise, the unpickler knows by itself. Only names are mapped here, in pickles that ask for them;
neither numpy nor Theano is imported before one does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from loader.bundle.errors import PickleInvalid

Find = Callable[[str, str], object]

_NUMPY = {"string_": "bytes_", "unicode_": "str_", "float_": "float64", "complex_": "complex128", "object0": "object_"}
_PYTHON = {
    **{name: name for name in ("bool", "int", "float", "complex", "object", "str")},
    "long": "int",
    "unicode": "str",
}
_GPU_PACKAGES = ("theano.sandbox.cuda", "theano.sandbox.gpuarray", "theano.gpuarray")
_ON_CPU = {
    "SharedVariable": ("theano.tensor.sharedvar", "TensorSharedVariable"),
    "Variable": ("theano.tensor.var", "TensorVariable"),
    "Constant": ("theano.tensor.var", "TensorConstant"),
    "HostFromGpu": ("theano.compile.ops", "ViewOp"),  # its output is its input
}
_PYMC = {  # modules of Theano-PyMC 1.1, and what Theano 1.0 calls them
    "theano.compile.function.types": "theano.compile.function_module",
    "theano.graph.basic": "theano.gof.graph",
    "theano.link.basic": "theano.gof.link",
    "theano.link.vm": "theano.gof.vm",
    "theano.scan.op": "theano.scan_module.scan_op",
    "theano.scan.utils": "theano.scan_module.scan_utils",
    "theano.tensor.basic_opt": "theano.tensor.opt",
    "theano.tensor.nnet.basic": "theano.tensor.nnet.nnet",
    **{
        f"theano.graph.{name}": f"theano.gof.{name}"
        for name in ("destroyhandler", "fg", "op", "opt", "optdb", "toolbox", "type", "utils")
    },
}
_PYMC_NAMES = {"Scratchpad": "scratchpad", "ValidatingScratchpad": "scratchpad", "VMLinker": "VM_Linker"}
_FUNCTIONS = ("_constructor_Function", "_constructor_FunctionMaker")


def find(finder: Find, module: str, name: str) -> object:
    """Find what a pickle names, by today's name where it has another one.

    Args:
        finder: the unpickler's own way.
        module: as the pickle names it.
        name: of the class or function, as the pickle names it.

    Raises:
        PickleInvalid: it belongs to a GPU, to a function that Theano-PyMC compiled, or to Python 2 alone.
        ImportError: as of the finder.
        AttributeError: as of the finder.
    """
    if module.startswith(_GPU_PACKAGES):
        return _on_cpu(finder, module, name)
    try:
        return finder(module, name)
    except ModuleNotFoundError:
        if module not in _PYMC:
            raise
        if name in _FUNCTIONS:
            raise PickleInvalid(
                "the pickle holds a function that Theano-PyMC compiled, and only Theano-PyMC can load it",
                hint="Pickle its graph there, {'inputs': …, 'outputs': …}, or its parameters, and compile it here",
            ) from None
        return finder(_PYMC[module], _PYMC_NAMES.get(name, name))
    except AttributeError as error:
        if module == "numpy" and name in _NUMPY:
            return finder(module, _NUMPY[name])
        if module == "numpy" and name in _PYTHON:
            return finder("builtins", _PYTHON[name])
        if module == "__builtin__":
            raise PickleInvalid(
                f"the pickle needs {name!r} of Python 2, which Python 3 does not have",
                hint="Write it again without that",
            ) from error
        raise


def _on_cpu(finder: Find, module: str, name: str) -> object:
    """Return what stands on the CPU for something of Theano's on a GPU."""
    if name.endswith("_unpickler"):  # CudaNdarray_unpickler, GpuArray_unpickler: called with an array of the CPU
        return _array
    if name in ("CudaNdarrayType", "GpuArrayType"):
        return _from_gpu(finder("theano.tensor.type", "TensorType"))
    ending = name.removeprefix("CudaNdarray").removeprefix("GpuArray")
    if ending in _ON_CPU:
        return finder(*_ON_CPU[ending])
    raise PickleInvalid(
        f"the pickle holds a function that was compiled for a GPU (it needs {module}.{name}); here Theano has none",
        hint="Pickle its graph, its parameters, or the function compiled with device=cpu, on the machine that made it",
    )


def _array(array: Any, *_context: object) -> Any:
    return array


@cache
def _from_gpu(tensor_type: Any) -> type[Any]:
    """Return a class that becomes Theano's TensorType as soon as it is told what a GPU's type was."""

    class FromGpu(tensor_type):  # type: ignore[misc] # Theano has no types
        def __setstate__(self, state: dict[str, Any]) -> None:
            self.__class__ = tensor_type
            self.__init__(state.get("dtype", "float32"), state["broadcastable"], state.get("name"))  # type: ignore[misc]

    return FromGpu
