"""Makes Theano 1.0.5 (2020) work on Python 3.11 and 3.12 with numpy 1.26.

Theano itself stays as it was published, so what old pickles name is all there. `prepare` only adds an import hook;
nothing happens until something, usually an unpickler, imports `theano`. Then the hook

- gives back the names of Python and numpy that have gone since and that Theano looks up,
- adds defaults to THEANO_FLAGS: no BLAS library to link to, a directory for compiled code that can be written
  (theano_cache.py), and no C++ where there is no compiler,
- keeps out Theano's C code for scan, which no longer compiles; Theano then runs scan's own loop in Python,
- lets functions that were pickled with a C compiler at hand run without one,
- lets compiled code be found again by the next process, where Theano looks for it by the wrong words.

Theano's own warnings about its age are silenced while its modules are imported: nobody can act on them.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from loader.bundle import theano_cache


def prepare() -> None:
    """Makes a later `import theano` work; cheap, idempotent, and without effect where Theano is not installed."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds Theano's modules where they are, and has `_Loader` load them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "theano":
            return None
        if fullname == "theano.scan_module.scan_perform_ext":
            # Compiles its C source when imported. That fails on Python 3.11 with an error which Theano does not
            # expect; an ImportError it does.
            raise ModuleNotFoundError("Theano's C code for scan needs Python 3.10 or older", name=fullname)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Loads one of Theano's modules, silently, with what it needs done before and after."""

    def exec_module(self, module: ModuleType) -> None:
        if self.name == "theano":
            _restore_names()
            _set_default_flags()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().exec_module(module)
        if self.name == "theano.gof.vm" and not hasattr(module, "CVM"):
            _run_without_c_loop(module.VM_Linker)
        elif self.name == "theano.gof.op":
            _tell_code_by_its_digest(module.COp)
        elif self.name == "theano.gof.cc":
            _keep_what_has_no_properties(module.CLinker)


def _restore_names() -> None:
    """Restores the names that Theano, and the pickles and code of its time, expect of Python and numpy."""
    import numpy as np

    for builtin in (bool, int, float, complex, object, str):  # numpy.bool and the like: gone since numpy 1.24
        if builtin.__name__ not in vars(np):  # hasattr would warn
            setattr(np, builtin.__name__, builtin)
    if not _importable("numpy.distutils"):  # gone with Python 3.12
        _add_module("numpy.distutils", __path__=[])
        _add_module("numpy.distutils.misc_util", get_numpy_include_dirs=lambda: [np.get_include()])
    if not _importable("imp"):  # gone with Python 3.12; imported, but used by a debugging aid only
        _add_module("imp")
    if not _importable("pkg_resources"):  # gone with setuptools 82; Theano catches one of its exceptions
        _add_module("pkg_resources", DistributionNotFound=type("DistributionNotFound", (Exception,), {}))


def _importable(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _add_module(name: str, **attributes: Any) -> None:
    module = ModuleType(name, "Stands in for a module that Theano imports and that no longer exists.")
    vars(module).update(attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _set_default_flags() -> None:
    """Adds to THEANO_FLAGS what Theano cannot find out by itself any more; flags the user set there stay as they are.

    Theano prefers THEANO_FLAGS to the file .theanorc, so these three flags in that file have no effect.
    """
    theirs = os.environ.get("THEANO_FLAGS", "")
    names = {flag.partition("=")[0].strip() for flag in theirs.split(",")}
    ours = []
    if "blas.ldflags" not in names:
        ours.append("blas.ldflags=")  # it would ask numpy.distutils; empty: numpy's own BLAS is called instead
    if "cxx" not in names and not _can_compile():
        ours.append("cxx=")
    ours += theano_cache.flags(names)
    os.environ["THEANO_FLAGS"] = ",".join([*ours, theirs] if theirs else ours)


def _can_compile() -> bool:
    """Tells whether Theano would find a C++ compiler and, what it does not check, Python's headers."""
    compiler = "clang++" if sys.platform == "darwin" else "g++"
    return shutil.which(compiler) is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


def _run_without_c_loop(linker: type[Any]) -> None:
    """Makes Theano's linker use its loop in Python, where the one in C (`CVM`) could not be compiled.

    Whether to use it is part of a pickled function, and Theano does not ask whether it is there.
    """
    make_all = linker.make_all

    def make_all_in_python(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.use_cloop = False
        return make_all(self, *args, **kwargs)

    linker.make_all = make_all_in_python


def _tell_code_by_its_digest(operation: type[Any]) -> None:
    """Makes the version of an operation whose code is in files the same in every process.

    Theano takes Python's hash of the texts, which since Python 3.3 is another one in each process: what one compiled,
    the next would not find.
    """
    version = operation.c_code_cache_version

    def c_code_cache_version(self: Any) -> tuple[Any, ...]:
        digest = hashlib.sha256("\0".join(self.func_codes).encode()).digest()
        return (int.from_bytes(digest[:8], "big"), *version(self)[1:])

    operation.c_code_cache_version = c_code_cache_version


def _keep_what_has_no_properties(linker: type[Any]) -> None:
    """Makes Theano keep the code of operations without properties, such as Alloc.

    It puts the properties among the versions, takes none (an empty tuple) for an unversioned operation, and so would
    compile those anew in every process.
    """
    make_key = linker.cmodule_key_

    def cmodule_key(self: Any, fgraph: Any, *args: Any, **kwargs: Any) -> Any:
        key = make_key(self, fgraph, *args, **kwargs)
        if key is None or key[0]:
            return key
        versions: list[Any] = []
        for node in self.schedule(fgraph):
            versions.append(node.op.c_code_cache_version_apply(node))
            versions += [variable.type.c_code_cache_version() for variable in (*node.inputs, *node.outputs)]
        return (tuple(versions), key[1]) if all(versions) else key

    linker.cmodule_key_ = cmodule_key
