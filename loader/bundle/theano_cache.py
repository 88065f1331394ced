"""Where Theano keeps what it has compiled, so that a model need not wait for the compiler.

To load a compiled function takes the C++ compiler about two seconds for each of its operations, which are dozens. All
that was compiled stays in a directory for the next process:

    THEANO_COMPILEDIR           where that is set: on a volume of the pod, say, it outlives the pod
    /tmp/theano-UID             else; it outlives a generation

The image has what common operations take, compiled when it was built (image/build/theano_operations.py). A directory
that is new begins as a copy of it. That was compiled for processors of about 2015 and later (x86-64-v3); on others, and
on machines without such a copy, everything is compiled, for their own processor.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

BAKED = Path(sys.prefix, "share/pantry/theano")
BAKED_FOR = "-march=x86-64-v3"
_NEEDED = {"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}  # by what Linux calls them; x86-64-v3 is just these


def flags(given: Collection[str]) -> list[str]:
    """Return Theano's flags for the directory, which is made, and filled where it is new.

    Args:
        given: names of flags that the user has set; they win.
    """
    if not {"base_compiledir", "compiledir", "compiledir_format"}.isdisjoint(given):
        return [] if {"base_compiledir", "compiledir"} & set(given) else [f"base_compiledir={shlex.quote(directory())}"]
    base, name = directory(), _name()
    found = [f"base_compiledir={shlex.quote(base)}", f"compiledir_format={name}"]
    if "gcc.cxxflags" not in given and (BAKED / name).is_dir() and processor_is_known():
        _fill(Path(base, name))
        found.append(f"gcc.cxxflags={BAKED_FOR}")
    return found


def directory() -> str:
    """Return where compiled code is kept: $THEANO_COMPILEDIR, else a directory of this user's in the temporary one.

    Theano's own default is the home directory, which a container with a read-only root cannot write. What is found
    in the temporary directory is used only if nobody else can have put it there: Theano runs what it finds.
    """
    if configured := os.environ.get("THEANO_COMPILEDIR"):
        return configured
    path = Path(tempfile.gettempdir(), f"theano-{os.getuid()}")
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        if path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
            return tempfile.mkdtemp(prefix="theano-")
    return str(path)


def processor_is_known() -> bool:
    """Tell whether this processor runs what was compiled for x86-64-v3."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    return set(next((line for line in lines if line.startswith("flags")), "").split()) >= _NEEDED


def _name() -> str:
    """Return a name that differs where compiled code does. Theano's own has the kernel's version, too."""
    import numpy as np

    libc = "".join(platform.libc_ver())
    return f"{platform.machine()}-{libc}-python{platform.python_version()}-numpy{np.__version__}"


def _fill(target: Path) -> None:
    """Copy what the image has, where that can be; a process that does the same at the same time may win."""
    if target.exists():
        return
    with contextlib.suppress(OSError):  # a full disk, say: then there is more to compile
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix="copy-", dir=target.parent))
        try:
            # Without the times: Theano takes for stale what nobody has read for 24 days.
            shutil.copytree(BAKED / target.name, copy, copy_function=shutil.copyfile, dirs_exist_ok=True)
            copy.rename(target)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
